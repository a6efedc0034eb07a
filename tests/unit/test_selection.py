"""What runs in the test machine, and how it is shared out."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm import choice, selection

_ROOT = Path(__file__).parents[2]
_TESTS = """
import pytest

MARK = pytest.mark.vm(seconds=7)

@pytest.mark.vm(seconds=45)
def test_whole(): pass

@pytest.mark.vm(seconds=4.5, system="zfs", number=(1, 2))
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("system", ["btrfs", pytest.param("ext4", marks=MARK), "zfs"])
def test_forms(system, number): pass

def test_of_the_host(): pass
"""


def _collected(directory: Path, text: str) -> "subprocess.CompletedProcess[str]":
    """Collect a file of tests as `choice.collect` does."""
    (directory / "test_it.py").write_text(text)
    words = ["-c", "/dev/null", "--rootdir", str(directory), "-p", "tests.conftest"]
    return subprocess.run(
        [*_COLLECT, "-p", "no:cacheprovider", *words, str(directory)],
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
    )


_COLLECT = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-s", "-p", "tests.vm.choice"]


def test_what_bears_the_mark_is_chosen_in_the_forms_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_TESTS)
    found = choice.collect([str(tmp_path)])
    chosen, left_out = choice.chosen(found)
    assert {node.rpartition("::")[2]: takes for node, takes in chosen.items()} == {
        "test_whole": 45,
        "test_forms[zfs-1]": 4.5,
        "test_forms[zfs-2]": 4.5,
        "test_forms[ext4-1]": 7,
        "test_forms[ext4-2]": 7,
        "test_forms[ext4-3]": 7,
    }
    assert (len(found), left_out) == (11, 5)


def test_the_nearest_mark_that_fits_counts(tmp_path: Path) -> None:
    own = "@pytest.mark.vm(seconds=2)\ndef test_own(): pass\n\ndef test_other(): pass\n"
    out = "@pytest.mark.vm(seconds=0)\ndef test_left_out(): pass\n"
    forms = "@pytest.mark.parametrize('n', [1, 2])\ndef test_forms(n): pass\n"
    some = f"@pytest.mark.vm(seconds=3, n=2)\n{forms}"
    text = f"import pytest\npytestmark = pytest.mark.vm(seconds=1)\n{own}\n{out}\n{some}"
    (tmp_path / "test_it.py").write_text(text)
    assert list(choice.collect([str(tmp_path)]).values()) == [2, 1, None, None, 3]


@pytest.mark.parametrize(("given", "takes"), [("", None), ("1", 9.0)])
def test_what_takes_long_runs_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, takes: float | None
) -> None:
    monkeypatch.setenv("SAMBA_RVSS_LONG", given)
    text = "import pytest\n@pytest.mark.vm(seconds=9, long=True)\ndef test_it(): pass\n"
    (tmp_path / "test_it.py").write_text(text)
    assert list(choice.collect([str(tmp_path)]).values()) == [takes]


@pytest.mark.parametrize("words", ["", "45", "seconds=-1", "seconds='45'", "second=45"])
def test_a_mark_without_seconds_is_an_error(tmp_path: Path, words: str) -> None:
    text = f"import pytest\n@pytest.mark.vm({words})\ndef test_it(): pass\n"
    done = _collected(tmp_path, text)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_it.py::test_it: the mark vm says no seconds" in done.stderr


def test_every_mark_chooses_something() -> None:
    """A parameter that was renamed would leave its test out in silence."""
    done = subprocess.run(
        [*_COLLECT, *choice.WHOLE], capture_output=True, text=True, check=True, cwd=_ROOT
    )
    assert [line for line in done.stdout.splitlines() if line.startswith(choice.IDLE)] == []


def test_a_mark_that_chooses_nothing_is_told(tmp_path: Path) -> None:
    text = "import pytest\n@pytest.mark.vm(seconds=1, system='zfs')\ndef test_it(): pass\n"
    assert choice.IDLE in _collected(tmp_path, text).stdout


def test_what_shares_its_setting_up_stays_together() -> None:
    nodes = [f"tests/samba/test_matrix.py::test_heals[zfs-closed-{n}]" for n in range(30)]
    nodes += [f"tests/samba/test_sets.py::test_{n}[zfs]" for n in range(60)]
    shares = selection.share_out(dict.fromkeys(nodes, 10.0), 2)
    assert sum(any("test_matrix" in node for node in share) for share in shares) == 1


def test_each_test_runs_once_and_the_machines_have_the_same_to_do() -> None:
    seconds = {f"tests/samba/test_sets.py::test_{n}[zfs]": 10.0 for n in range(31)}
    seconds |= {f"tests/unit/test_run.py::test_{n}": 10.0 for n in range(200)}
    seconds |= {"tests/samba/test_torture.py::test_rpc_fsrvp[whole-root]": 80.0}
    nodes = list(seconds)
    shares = selection.share_out(seconds, 2)
    assert sorted(node for share in shares for node in share) == sorted(nodes)
    for share in shares:
        assert share == sorted(share, key=nodes.index)
    loads = [sum(seconds[node] for node in share) for share in shares]
    assert max(loads) - min(loads) <= 10.0


def test_little_work_is_one_machine_s() -> None:
    seconds = {f"tests/unit/test_run.py::test_{n}": 10.0 for n in range(10)}
    assert selection.share_out(seconds, 2) == [list(seconds)]
    assert selection.share_out({}, 2) == []
