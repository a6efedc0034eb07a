"""The memory of homes: whatever happens to its file, what it said is not lost."""

import json
from pathlib import Path

from samba_rvss.providers.homes import IN_A_POOL, Homes

_WRITTEN = {"a": [256, "0" * 32], "b": [257, "1" * 32]}


def test_what_cannot_be_read_is_not_overwritten(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "homes.json", tmp_path / "elsewhere"
    elsewhere.write_text(json.dumps(_WRITTEN))
    file.symlink_to(elsewhere)  # is not followed: as unreadable as a disk's error
    homes = Homes(str(file))
    homes.remember("c", IN_A_POOL)
    assert homes.file_systems() == {"c"}
    file.unlink()
    elsewhere.rename(file)
    homes.remember("c", IN_A_POOL)
    assert homes.file_systems() == {"a", "b", "c"}
    assert json.loads(file.read_text()).keys() == {"a", "b", "c"}


def test_a_damaged_one_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "homes.json"
    for damage in ('{"a": [256', '{"a": 5}', "[]"):
        file.write_text(damage)
        Homes(str(file)).remember("c", IN_A_POOL)
        assert json.loads(file.read_text()).keys() == {"c"}
        assert (tmp_path / "homes.json.damaged").read_text() == damage
