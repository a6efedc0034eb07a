"""The rigs are other people's too: from another directory, with samba-rvss merely installed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from samba_rvss.run import environment

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "packaging" / "man" / "samba-rvss-testing.7"
MODULES = "/usr/lib/python3/dist-packages"

_OTHERS = """
import subprocess

def test_what_is_not_about_rigs_is_left_alone():
    globals()["kept"] = open("/dev/null")

def test_who_leaves_something_behind_fails(rig_directory):
    globals()["process"] = subprocess.Popen(["sleep", "60"])

def test_the_same_is_ended():
    process.kill()
    process.wait()
    kept.close()
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Where Python finds an installed samba-rvss, and nothing of this checkout."""
    subprocess.run(
        [ROOT / "packaging" / "install"],
        env=environment({"DESTDIR": str(tmp_path), "PYTHONDIR": MODULES}),
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )
    return tmp_path / MODULES.lstrip("/")


def _pytest(where: Path, installed: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-v", "-p", "no:cacheprovider", *words],
        cwd=where,
        env={**environment({"PYTHONPATH": str(installed)}), "HOME": os.environ.get("HOME", "/")},
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.require("root", "smbd", "btrfs", "loop", "ip")
def test_the_manual_s_example_works(rig_directory: Path, installed: Path) -> None:
    text = MANUAL.read_text()
    (example,) = re.findall(r"^\.Bd -literal\n(.+?)^\.Ed$", text, re.M | re.S)
    (rig_directory / "test_theirs.py").write_text(example.replace("\\e", "\\"))
    done = _pytest(rig_directory, installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_only_tests_with_rigs_are_watched(rig_directory: Path, installed: Path) -> None:
    (rig_directory / "test_theirs.py").write_text(_OTHERS)
    done = _pytest(rig_directory, installed)
    assert "3 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert re.search(r"the test left behind: process \d+ \(sleep 60\)", done.stdout)
    done = _pytest(rig_directory, installed, "-o", "samba_rvss_leftovers=all")
    assert "3 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    done = _pytest(rig_directory, installed, "-o", "samba_rvss_leftovers=some")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "neither 'rigs' nor 'all'" in done.stderr
