"""Our own directories: whose they are, all the way down from the root."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from samba_rvss.kernel import paths

pytestmark = pytest.mark.require("root")

USER = 12345


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory of root's in /tmp, where everybody may write."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def test_links_are_followed_once(top: Path) -> None:
    (top / "real").mkdir()
    (top / "absolute").symlink_to(top / "real")
    (top / "relative").symlink_to("./absolute/../real")
    for name in ("real", "absolute", "relative"):
        assert paths.resolve(f"{top}/{name}/not/there") == f"{top}/real/not/there"
    (top / "dangling").symlink_to("there/../later")
    assert paths.resolve(f"{top}/dangling/x") == f"{top}/later/x"
    (top / "loop").symlink_to("loop")
    (top / "file").touch()
    for name in ("loop", "file"):
        with pytest.raises(OSError, match=name):
            paths.resolve(f"{top}/{name}/x")


@pytest.mark.parametrize("what", ["user's", "all's", "group's", "user's link", "link in user's"])
def test_what_others_can_replace_is_refused(top: Path, what: str) -> None:
    middle, run = top / "middle", top / "middle" / "run"
    run.mkdir(parents=True)
    given = run
    match what:
        case "user's":
            os.chown(middle, USER, USER)
        case "all's":
            middle.chmod(0o777)
        case "group's":
            middle.chmod(0o775)
        case "user's link":
            given = top / "link"
            given.symlink_to(run)
            os.chown(given, USER, USER, follow_symlinks=False)
        case _:
            other = top / "other"
            other.mkdir()
            given = other / "link"
            given.symlink_to(run)
            os.chown(other, USER, USER)
    with pytest.raises(paths.Replaceable, match=str(top)):
        paths.resolve(str(given))
    if given is run:
        with pytest.raises(paths.Replaceable, match=str(middle)):
            paths.make(str(run), 0o755)


@pytest.mark.parametrize("what", ["user's", "all's", "sticky", "link"])
def test_a_directory_that_is_there_is_taken_only_from_root(top: Path, what: str) -> None:
    """In /tmp, others can be first."""
    top.chmod(0o1777)
    run = top / "run"
    assert paths.resolve(str(run)) == str(run)
    if what == "link":
        run.symlink_to("/etc")
    else:
        run.mkdir()
        run.chmod({"all's": 0o777, "sticky": 0o1777}.get(what, 0o755))
    if what == "user's":
        os.chown(run, USER, USER)
    with pytest.raises((paths.Replaceable, NotADirectoryError), match=str(run)):
        paths.make(str(run), 0o700)


def test_what_is_made_can_be_walked_through(top: Path) -> None:
    old = os.umask(0o077)
    try:
        for _ in range(2):
            paths.make(f"{top}/a/b", 0o700)
    finally:
        os.umask(old)
    assert (top / "a").stat().st_mode & 0o7777 == 0o755
    assert (top / "a" / "b").stat().st_mode & 0o7777 == 0o700
