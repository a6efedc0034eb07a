"""The README shows what the tests run with, and says why."""

import re
from pathlib import Path

from samba_rvss.testing.example import readme_block

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def test_readme_shows_the_tested_configuration() -> None:
    blocks = re.findall(r"```ini\n(.*?)```", README, re.DOTALL)
    assert blocks[0] == readme_block()


def test_example_gives_its_reasons() -> None:
    lines = readme_block().splitlines()
    setting = lines.index("    rpcd_fsrvp:num_workers = 1")
    assert "erase each other's" in lines[setting - 1]
    assert not any(re.match(r"\s*fss:\s*prune stale", line) for line in lines)
    assert any("crashes" in line for line in lines if "fss: prune stale" in line)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parents[2] / target).exists(), target
