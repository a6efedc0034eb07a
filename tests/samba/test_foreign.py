"""What is not ours, in numbers: untouched, byte for byte, while everything of ours is healed.

Images of another instance, volumes and snapshots where ours are and elsewhere, mounts beside ours,
registry shares with an exposed share's name, their security descriptors, and sets of other shares
in srv_fss.tdb.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest
import tdb

from samba_rvss.clock import now
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.model import Identity, Image, Mark, Sealed, Volume
from samba_rvss.run import run as run_tool
from samba_rvss.testing import fss_records
from samba_rvss.testing.zfs import zfs
from tests.imaging import make_image
from tests.samba.fault_cases import SECONDS, TIMERS, Fault, FaultCase, run
from tests.samba.filesystems import OnBtrfs, OnZfs
from tests.samba.lanes import SHARES, Lane, SetDriver, Stage, lane

COUNT = 50
ANOTHER = Identity(id=f"another-{os.getpid()}")  # others may test on this host
CASES = [
    FaultCase(fault=Fault.CLOSED, stage=Stage.COMMITTED),
    FaultCase(fault=Fault.HALF, stage=Stage.RECOVERED),
    FaultCase(fault=Fault.WORKER, stage=Stage.COMMITTED),
    FaultCase(fault=Fault.UNSHARED, stage=Stage.EXPOSED),
    FaultCase(fault=Fault.DESTROYED, stage=Stage.RECOVERED),
    FaultCase(fault=Fault.KILLED, stage=Stage.DELETING),
    FaultCase(fault=Fault.FORGOTTEN, stage=Stage.EXPOSED),
    FaultCase(fault=Fault.RESTORED, stage=Stage.RECOVERED),
    FaultCase(fault=Fault.TWO, stage=Stage.ADDED),
]


def _guid(number: int) -> str:
    return str(UUID(int=number + (1 << 96)))


def _name(number: int) -> str:
    return f"x{number}@{{{_guid(number)}}}"


def _volume_of_a_copy(made: Lane) -> Volume:
    """Return the volume as a shadow copy has it."""
    with ExitStack() as undo:
        driver = SetDriver(made, made.near(undo))
        driver.add()
        driver.commit()
        (copy,) = driver.copies()
        driver.expose()
        driver.delete()
    made.rig.assert_nothing_left(SECONDS)
    return copy.volume


def _make_images(made: Lane, volume: Volume) -> list[Image]:
    """Make images of another instance, sealed ones too, with our own means."""
    provider = made.rig.fs.provider(ANOTHER)
    for number in range(COUNT):
        mark = Mark(
            id=f"20240229T235959Z-{number:08x}",
            share=SHARES[0],
            share_path=str(made.path / SHARES[0]),
            volume=volume,
            created=now().replace(microsecond=0),
        )
        make_image(provider, mark)
        if number % 2:
            provider.seal(
                volume,
                mark.id,
                Sealed(set_id="", copy_id="", context=0, exposed_share="", state=None),
                opened=True,
            )
    return sorted(provider.inventory().images, key=lambda image: image.id)


def _make_volumes(made: Lane) -> None:
    """Make volumes without a mark where our images are, and snapshots elsewhere."""
    fs = made.rig.fs
    for number in range(COUNT):
        if isinstance(fs, OnBtrfs):
            fs.subvolume(f".samba-rvss/plain{number}")
            (fs.path / ".samba-rvss" / f"dir{number}").mkdir()
            fs.subvolume(f".samba-rvss/dir{number}/image")
            fs.snapshot("vms", f"snapshot{number}", read_only=bool(number % 2))
        else:
            assert isinstance(fs, OnZfs)
            zfs("snapshot", f"{fs.dataset}/vms@daily{number}", f"{fs.dataset}/vms@rvss-{number}")
            zfs("create", "-u", f"{fs.pool.name}/samba-rvss/plain{number}")


def _destroy_volumes(made: Lane, volume: Volume, images: list[Image]) -> None:
    provider = made.rig.fs.provider(ANOTHER)
    for image in images:
        provider.destroy(volume, image.id)


def _make_mounts(made: Lane, undo: ExitStack) -> None:
    """Mount a directory beside our run directory, and in it but not where ours are."""
    run_directory = made.rig.daemon.run_directory
    for number in range(COUNT):
        place = run_directory if number % 2 else run_directory.parent
        target = place / "beside" / f"{number}"
        target.mkdir(parents=True)
        undo.callback(mounting.umount, str(target))
        run_tool(["mount", "--bind", str(made.path), str(target)], timeout=30)


def _mounts_beside(made: Lane) -> list[mounttable.MountInfo]:
    run_directory = made.rig.daemon.run_directory
    places = tuple(f"{place}/beside/" for place in (run_directory, run_directory.parent))
    return [mount for mount in mounttable.mountinfo() if mount.target.startswith(places)]


def _make_shares(made: Lane) -> None:
    """Make registry shares that have an exposed share's name, and their security descriptors."""
    rig = made.rig
    run_directory = rig.daemon.run_directory
    paths = (made.path, f"{run_directory}/exposed-not/x", f"{run_directory}", "/")
    text = "".join(
        f"[{_name(number)}]\npath = {paths[number % len(paths)]}\ncomment = not ours\n"
        for number in range(COUNT)
    )
    file = rig.directory / "shares.conf"
    file.write_text(text)
    rig.samba.net("conf", "import", str(file))
    rig.samba.sharesec(_name(0), "--replace", "S-1-1-0:ALLOWED/0x0/READ")
    database = tdb.Tdb(str(_share_info(made)), 0, tdb.DEFAULT, os.O_RDWR)
    try:
        (descriptor,) = [bytes(database.get(key)) for key in database if _is_foreign(key)]
        # One that has no share either, as Samba leaves it when a share is removed.
        for number in range(1, 2 * COUNT):
            database.store(b"SECDESC/" + _name(number).encode() + b"\0", descriptor)
    finally:
        database.close()


def _share_info(made: Lane) -> Path:
    return made.rig.samba.state_directory / "share_info.tdb"


def _is_foreign(key: bytes) -> bool:
    return b"SECDESC/x" in bytes(key)


def _make_sets(made: Lane) -> None:
    """Put sets of other shares into srv_fss.tdb, exposed and recovered ones: none is in our way."""
    made.rig.samba.end_workers()
    path = made.rig.samba.lock_directory / "srv_fss.tdb"
    records = fss_records.of_file(COUNT)
    for number in range(COUNT):
        of, copy = _guid(number + 1000), _guid(number)
        records |= fss_records.of_set(of, 4 + number % 2, 0x400000, 1)
        records |= fss_records.of_copy(of, copy, "/srv/theirs", f"/snap/{number}", 1709251199, 1)
        records |= fss_records.of_map(of, copy, f"x{number}", _name(number), 1)
    fss_records.store(path, records)


def _records(path: Path) -> dict[bytes, bytes]:
    database = tdb.Tdb(str(path), 0, tdb.DEFAULT, os.O_RDONLY)
    try:
        return {bytes(key): bytes(database.get(key)) for key in database}
    finally:
        database.close()


def _volumes(made: Lane) -> list[str]:
    """Return every volume that there is, with its identity and what says that it was changed."""
    fs = made.rig.fs
    if isinstance(fs, OnZfs):
        columns = "name,guid,createtxg,written,userrefs,readonly,samba-rvss:mark"
        rows = zfs("list", "-H", "-p", "-r", "-t", "all", "-o", columns, fs.pool.name)
        ours = (fs.pool.name, fs.dataset, f"{fs.pool.name}/samba-rvss")
        return sorted("\t".join(row) for row in rows if row[0] not in ours)
    listing = run_tool(["btrfs", "subvolume", "list", "-uqRcg", str(fs.path)], timeout=60)
    found = []
    for line in listing.splitlines():
        name = line.partition(" path ")[2]
        if name in ("vms", ".samba-rvss"):
            continue  # the share's own volume, and what holds our images, go on
        flags = run_tool(["btrfs", "property", "get", str(fs.path / name), "ro"], timeout=60)
        found.append(f"{line} {flags.strip()}")
    return sorted(found)


def _everything(made: Lane) -> Mapping[str, object]:
    """Return all that is not ours."""
    rig = made.rig
    sets = _records(rig.samba.lock_directory / "srv_fss.tdb")
    return {
        "volumes": _volumes(made),
        "images": sorted(map(repr, rig.fs.provider(ANOTHER).inventory().images)),
        "mounts": _mounts_beside(made),
        "shares": [rig.samba.net("conf", "showshare", name) for name in rig.exposed_shares()],
        "descriptors": {k: v for k, v in _records(_share_info(made)).items() if _is_foreign(k)},
        "sets": {key: value for key, value in sets.items() if key.startswith(b"sc_set/")},
    }


@pytest.mark.parametrize("kind", ["btrfs", "zfs"])
def test_what_is_not_ours_is_untouched(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as undo:
        made = undo.enter_context(lane(kind, TIMERS.rvss(), TIMERS.samba()))
        volume = _volume_of_a_copy(made)
        images = _make_images(made, volume)
        undo.callback(_destroy_volumes, made, volume, images)
        assert len(images) == COUNT
        _make_volumes(made)
        _make_mounts(made, undo)
        _make_shares(made)
        _make_sets(made)
        made.rig.note_others()
        before = _everything(made)
        counts = {name: len(value) for name, value in before.items() if isinstance(value, list)}
        assert min(counts.values()) >= COUNT, counts
        for case in CASES:
            run(made, case)
            assert made.rig.traces() == made.rig.others, case
        after = _everything(made)
        for name, value in before.items():
            assert after[name] == value, name
    with capsys.disabled():
        print(f"\n{kind}: {len(CASES)} cases beside {counts}: untouched")
