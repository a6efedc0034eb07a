"""Whether recovery wrote nothing: what ``zfs send`` has to send for that, and nothing else."""

import struct
from pathlib import Path

import pytest

from samba_rvss.providers.zfs.bare import can_become
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.tree import Dataset, Snapshot

BEGIN, FREE_OBJECTS, END = 0, 2, 5


def begin(payload: int = 0, magic: int = 0x2F5BACBAC, kind: int = 1, older: int = 6) -> bytes:
    """Return the first record of a stream; its kind is that of one dataset's."""
    head = struct.pack("=IIQQQIIQQ", BEGIN, payload, magic, 4 << 2 | kind, 0, 2, 0, 7, older)
    return head.ljust(312, b"\0")


def end(newer: int = 7) -> bytes:
    """Return the last record of a stream."""
    return struct.pack("=II4QQ", END, 0, 1, 2, 3, 4, newer).ljust(312, b"\0")


BEGUN, ENDED, OTHER = begin(), end(), struct.pack("=II", FREE_OBJECTS, 0).ljust(312, b"\r")


def clone(name: str, origin: str, *, read_only: bool = True) -> Dataset:
    """Return a clone."""
    return Dataset(
        name=name,
        guid="1",
        origin=origin,
        read_only=read_only,
        readonly_here=False,
        locked=False,
        mark="",
        source="",
        directory="",
    )


TOP, INNER = clone("t/samba-rvss/a", "t/vms@rvss-a"), clone("t/samba-rvss/a/1", "t/vms/i@rvss-a")
SNAPSHOTS = [Snapshot(name=part.origin, mark="", source="") for part in (TOP, INNER)]


def sends(directory: Path, stream: bytes, status: int = 0, *, on: str = "*") -> Command:
    """Return a zfs(8) that sends something; of other snapshots than one, that nothing differs."""
    (directory / "nothing").write_bytes(BEGUN + ENDED)
    (directory / "stream").write_bytes(stream)
    program = directory / "zfs"
    program.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "send -i" ] || exit 9\ncase "$3 $4" in\n'
        f"{on}) cat {directory}/stream; exit {status};;\nesac\ncat {directory}/nothing\n"
    )
    program.chmod(0o755)
    return Command(search=f"{directory}:/usr/bin:/bin")


def test_nothing_is_a_begin_and_an_end(tmp_path: Path) -> None:
    zfs = sends(tmp_path, BEGUN + ENDED)
    assert can_become(zfs, "a", [TOP], SNAPSHOTS[:1])
    assert can_become(zfs, "a", [TOP, INNER], SNAPSHOTS)


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (b"", 0),
        (BEGUN, 0),
        (BEGUN + OTHER, 0),
        (BEGUN + OTHER + ENDED, 0),
        (BEGUN + ENDED + ENDED, 0),
        (BEGUN + ENDED[:-1], 0),
        (begin(payload=312) + ENDED, 0),
        (begin(magic=0xACCBBAF502) + ENDED, 0),
        (begin(kind=2) + ENDED, 0),
        (begin(older=0) + ENDED, 0),
        (BEGUN + end(newer=8), 0),
        (ENDED + BEGUN, 0),
        (BEGUN + ENDED, 1),
        (BEGUN + OTHER * 5000, 1),
    ],
)
def test_anything_else_is_something(tmp_path: Path, stream: bytes, status: int) -> None:
    """So is what cannot be told: an image that is whole without need costs space, and no more."""
    assert not can_become(sends(tmp_path, stream, status), "a", [TOP], SNAPSHOTS[:1])
    inner = sends(tmp_path, stream, status, on=f'"{INNER.origin} {INNER.name}@rvss-a"')
    assert can_become(inner, "a", [TOP], SNAPSHOTS[:1])
    assert not can_become(inner, "a", [TOP, INNER], SNAPSHOTS)


def test_image_that_is_not_its_clones_alone(tmp_path: Path) -> None:
    zfs = sends(tmp_path, BEGUN + ENDED)
    theirs = clone("t/samba-rvss/a/theirs", "-")
    writable = clone(TOP.name, TOP.origin, read_only=False)
    for clones in ([TOP], [], [TOP, INNER, theirs], [writable, INNER], [INNER, INNER]):
        assert not can_become(zfs, "a", clones, SNAPSHOTS)


def test_zfs_that_hangs_or_is_not_there(tmp_path: Path) -> None:
    program = tmp_path / "zfs"
    assert not can_become(Command(search=str(tmp_path)), "a", [TOP], SNAPSHOTS[:1])
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    hung = Command(search=str(tmp_path), seconds=0.1)
    assert not can_become(hung, "a", [TOP], SNAPSHOTS[:1])


def test_time_is_for_all_parts_together(tmp_path: Path) -> None:
    """The volume's turn is kept meanwhile; sleep(1) never ends before its time."""
    zfs = sends(tmp_path, BEGUN + ENDED)
    program = tmp_path / "zfs"
    program.write_text(program.read_text().replace("#!/bin/sh\n", "#!/bin/sh\nsleep 0.1\n"))
    parts = [clone(f"t/samba-rvss/a/{n}", f"t/vms/{n}@rvss-a") for n in range(3)]
    snapshots = [Snapshot(name=part.origin, mark="", source="") for part in parts]
    assert can_become(zfs, "a", parts, snapshots, seconds=60.0)
    assert not can_become(zfs, "a", parts, snapshots, seconds=0.25)
    assert not can_become(zfs, "a", parts[:1], snapshots[:1], seconds=0.0)
