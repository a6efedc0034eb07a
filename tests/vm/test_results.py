"""The results of tests in the machine are results of the session that started it."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytestmark = pytest.mark.require("vm")

ROOT = Path(__file__).resolve().parents[2]


def _session(chosen: str, tmp_path: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """Run chosen tests in the machine; return what pytest said, and what JUnit's file says.

    Returns:
        of each test its kind ("", "failure", "error" or "skipped") and that one's text.
    """
    file = tmp_path / "junit.xml"
    words = ["-p", "no:cacheprovider", f"--junitxml={file}", "tests/vm/test_in_vm.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        env={**os.environ, "SAMBA_RVSS_VM_TESTS": chosen, "SAMBA_RVSS_REQUIRE": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = {}
    for case in ET.parse(file).iter("testcase"):  # noqa: S314 - our own
        results = [(one.tag, str(one.text)) for one in case if one.tag != "properties"]
        found[case.attrib["name"].rpartition("::")[2].rstrip("]")] = (*results, ("", ""))[0]
    return done.stdout, found


def test_results_count_and_a_failure_shows_its_traceback(tmp_path: Path) -> None:
    said, found = _session("tests/vm/outcomes.py -k 'not machine and not never'", tmp_path)
    assert "2 failed, 1 passed, 1 skipped" in said
    kinds = {name: kind for name, (kind, _) in found.items()}
    assert kinds == {
        "test_passes": "",
        "test_fails": "failure",
        "test_breaks": "failure",
        "test_skips": "skipped",
    }
    for text in (said, found["test_fails"][1]):
        assert "assert 42 == 43" in text
        assert "tests/vm/outcomes.py" in text
        assert "said before it failed" in text
    assert "RuntimeError: the fixture broke" in found["test_breaks"][1]
    assert "in its setup" in found["test_breaks"][1]


def test_a_machine_that_dies_fails_what_it_did_not_do(tmp_path: Path) -> None:
    said, found = _session("tests/vm/outcomes.py -k 'machine or never'", tmp_path)
    assert "2 failed" in said
    assert "sysrq triggered crash" in found["test_takes_the_machine_down"][1]
    assert "did not run" in found["test_never_runs"][1]
