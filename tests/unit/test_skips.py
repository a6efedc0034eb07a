"""The summary tells each reason for skipping once, and nothing else is told less."""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_TESTS = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_one(number):
    pytest.skip("no moon")

def test_another():
    pytest.skip("no moon")

def test_a_reason_of_its_own():
    pytest.skip("no sun")

@pytest.mark.skip(reason="no stars")
def test_marked():
    pass

def test_fails():
    assert "this" == "that"

def test_breaks(no_such_fixture):
    pass

@pytest.mark.xfail(reason="not yet", strict=True)
def test_not_yet():
    assert False
"""


def test_each_reason_is_told_once_with_a_count(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(_TESTS)
    (tmp_path / "test_b.py").write_text(
        "import pytest\n\ndef test_b():\n    pytest.skip('no moon')\n"
    )
    words = ["-ra", "-c", "/dev/null", "--rootdir", str(tmp_path), "-p", "tests.conftest"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider", str(tmp_path)],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout.splitlines()
    told = [line for line in said if line.startswith("SKIPPED")]
    assert [line for line in told if "no moon" in line] == ["SKIPPED [5] 2 files: no moon"]
    (own,) = (line for line in told if "no sun" in line)
    assert own.startswith("SKIPPED [1] ")
    assert "test_a.py:" in own
    assert len(told) == 3
    assert "1 failed, 7 skipped, 1 xfailed, 1 error" in said[-1]
    assert any(line.startswith("FAILED") and "test_fails" in line for line in said)
    assert any(line.startswith("ERROR") and "test_breaks" in line for line in said)
    assert any(line.startswith("XFAIL") and "test_not_yet" in line for line in said)
