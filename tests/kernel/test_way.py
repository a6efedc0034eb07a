"""The way to a copy is as closed as the way to its share: real users at both, real directories."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting
from samba_rvss.mounts import Mounts, way

pytestmark = pytest.mark.require("root")

NAME = "20240229T235959Z-0123abcd"
OTHER = "20240301T235959Z-0123abcd"
NOW = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
OWNER, MEMBER, NAMED, STRANGER = 61001, 61002, 61003, 61004
GROUP, EXTRA = 61101, 61102
# uid, gid, supplementary groups
PEOPLE = {
    "owner": (OWNER, STRANGER, []),
    "owner in the group": (OWNER, GROUP, []),
    "member": (MEMBER, STRANGER, [GROUP]),
    "member by primary group": (STRANGER, GROUP, []),
    "named": (NAMED, STRANGER, []),
    "named and member": (NAMED, GROUP, [EXTRA]),
    "member of another": (MEMBER, STRANGER, [EXTRA]),
    "member of both": (MEMBER, EXTRA, [GROUP]),
    "stranger": (STRANGER, STRANGER, []),
}


class Place:
    """A share below two directories, and recovery mounts."""

    def __init__(self, directory: Path) -> None:
        self.outer = directory / "outer"
        self.inner = self.outer / "inner"
        self.share = self.inner / "share"
        self.share.mkdir(parents=True)
        (self.share / "file").write_text("content")
        self.run = directory / "run"
        self.run.mkdir()
        self.mounts = Mounts(str(self.run))
        self._undo = ExitStack()

    def attach(self, path: str) -> str:
        """Mount the share at a path."""
        with files.opened(mounting.open_tree(str(self.share))) as part:
            self.mounts.attach([("", part)], path)
        return path

    def copy(self, name: str = NAME) -> str:
        """Take a copy; return its path."""
        gates = way.to(str(self.share))
        return self.attach(self.mounts.exposed_path("vms", name, gates))

    def end(self) -> None:
        """Take the mounts away."""
        for path in self.mounts.listing():
            self.mounts.detach(path)


@pytest.fixture
def place(rig_directory: Path) -> Iterator[Place]:
    made = Place(rig_directory)
    try:
        yield made
    finally:
        made.end()


def _reach(path: str) -> dict[str, bool]:
    """Return who of the people can read a file, as the kernel says to each."""
    answers = {}
    for name, (uid, gid, groups) in PEOPLE.items():
        pid = os.fork()
        if not pid:
            status = 2
            try:
                os.setgroups(groups)
                os.setgid(gid)
                os.setuid(uid)
                os.close(os.open(path, os.O_RDONLY))
                status = 0
            except PermissionError:
                status = 1
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, 1), name
        answers[name] = status == 0
    return answers


def _mode(mode: int, owner: int = OWNER) -> Callable[[Path], object]:
    def close(path: Path) -> None:
        os.chown(path, owner, GROUP)
        path.chmod(mode)

    return close


def _acl(*words: str, mode: int = 0o750) -> Callable[[Path], object]:
    def close(path: Path) -> None:
        _mode(mode)(path)
        subprocess.run(["setfacl", *words, str(path)], check=True)

    return close


CLOSED: dict[str, Callable[[Path], object]] = {
    "to all but its owner": _mode(0o700),
    "to all but its group": _mode(0o070),
    "to others": _mode(0o750),
    "to its group": _mode(0o705),
    "to its owner": _mode(0o077),
    "to all": _mode(0o000),
    "to all but those named": _acl("-m", f"u:{NAMED}:x"),
    "to those named": _acl("-m", f"u:{NAMED}:-", mode=0o755),
    "to the owner, though named": _acl("-m", f"u:{OWNER}:rwx", mode=0o070),
    "to groups but one": _acl("-m", f"g:{EXTRA}:rx", mode=0o700),
    "to a group": _acl("-m", f"g:{EXTRA}:-", mode=0o755),
    "by a mask": _acl("-m", f"u:{NAMED}:rwx,g:{EXTRA}:rwx,m::r", mode=0o775),
    "by root": _mode(0o700, owner=0),
    "by root, to all but a group": _mode(0o710, owner=0),
}


@pytest.mark.parametrize("how", CLOSED)
def test_who_reaches_the_copy_is_who_reaches_the_share(place: Place, how: str) -> None:
    """Also behind two directories, after a reboot, and whatever the first has become by then."""
    CLOSED[how](place.inner)
    expected = _reach(f"{place.share}/file")
    assert not all(expected.values())
    path = place.copy()
    assert _reach(f"{path}/file") == expected
    gate = os.path.dirname(path)
    status = os.stat(gate)
    assert status.st_uid == 0
    assert not status.st_mode & 0o022, "somebody may write where we mount"
    place.mounts.detach(path)
    assert not os.path.exists(gate)
    place.inner.chmod(0o777)
    place.attach(path)
    assert _reach(f"{path}/file") == expected
    place.mounts.detach(path)
    CLOSED[how](place.inner)
    _mode(0o710)(place.outer)
    path = place.copy()
    assert _reach(f"{path}/file") == _reach(f"{place.share}/file")


def test_way_that_is_open_has_no_gates(place: Place) -> None:
    place.inner.chmod(0o711)
    assert way.to(str(place.share)) == ()
    assert place.copy() == f"{place.run}/exposed/vms/{NAME}"


def test_gates_are_shared_and_go_with_the_last(place: Place) -> None:
    _mode(0o750)(place.inner)
    _mode(0o700)(place.outer)
    first, second = place.copy(), place.copy(OTHER)
    assert os.path.dirname(first) == os.path.dirname(second)
    assert sorted(place.mounts.listing()) == sorted([first, second])
    assert sorted(place.mounts.directories()) == sorted([first, second])
    assert place.mounts.standing(NAME) == first
    place.mounts.detach(first)
    assert place.mounts.standing(NAME) == ""
    assert place.mounts.directories() == [second]
    place.mounts.detach(second)
    assert os.listdir(place.run / "exposed" / "vms") == []
    # What a crash leaves before there is a copy's directory is found, and can be removed.
    gate = os.path.dirname(first)
    os.makedirs(gate)
    assert place.mounts.directories() == [gate]
    place.mounts.detach(gate)
    assert os.listdir(place.run / "exposed" / "vms") == []


def test_gate_that_was_left_half_made_is_made_whole(place: Place) -> None:
    _acl("-m", f"u:{NAMED}:x")(place.inner)
    expected = _reach(f"{place.share}/file")
    path = place.copy()
    gate = os.path.dirname(path)
    subprocess.run(["setfacl", "-b", gate], check=True)
    os.chmod(gate, 0o755)  # noqa: S103 - what is to be mended
    os.chown(gate, OWNER, GROUP)
    place.copy(OTHER)
    assert _reach(f"{path}/file") == expected


def test_gates_side_by_side(place: Place) -> None:
    """One copy goes, with the gate, while another comes."""
    _mode(0o700)(place.inner)
    failures = []

    def work(number: int) -> None:
        for turn in range(30):
            try:
                place.mounts.detach(place.copy(f"2024-{number}-{turn}"))
            except Exception as exc:  # noqa: BLE001 - said below
                failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(place.run / "exposed" / "vms") == []


def test_way_with_a_link_is_refused(place: Place) -> None:
    shutil.move(place.inner, place.outer / "moved")
    place.inner.symlink_to(place.outer / "moved")
    with pytest.raises(RvssError) as caught:
        way.to(str(place.share))
    assert caught.value.problem is Problem.BAD_PATH


def test_acl_that_no_name_holds_is_refused(place: Place) -> None:
    words = ",".join(f"u:{65000 + number}:x" for number in range(60))
    _acl("-m", words)(place.inner)
    with pytest.raises(RvssError, match=str(place.inner)) as caught:
        way.to(str(place.share))
    assert caught.value.problem is Problem.NOT_SUPPORTED


@pytest.mark.parametrize("how", CLOSED)
def test_previous_versions_are_as_closed_as_the_share(place: Place, how: str) -> None:
    CLOSED[how](place.inner)
    gates = way.to(str(place.share))
    path = place.attach(place.mounts.reserve_previous("vms", NOW, gates))
    expected = _reach(f"{place.share}/file")
    assert _reach(f"{path}/file") == expected
    assert _reach(os.path.dirname(path)) == expected, "shadow_copy2 lists it"


def test_previous_versions_behind_several_gates_are_closed(place: Place) -> None:
    path = place.attach(place.mounts.reserve_previous("vms", NOW))
    assert all(_reach(f"{path}/file").values())
    _mode(0o750)(place.inner)
    _mode(0o700)(place.outer)
    with pytest.raises(RvssError) as caught:
        place.mounts.reserve_previous("vms", NOW, way.to(str(place.share)))
    assert caught.value.problem is Problem.NOT_SUPPORTED
    assert not any(_reach(f"{path}/file").values())
    place.outer.chmod(0o755)
    place.mounts.reserve_previous("vms", NOW, way.to(str(place.share)))
    assert _reach(f"{path}/file") == _reach(f"{place.share}/file")
