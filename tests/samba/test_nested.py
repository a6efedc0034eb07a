"""``rvss:nested = include``: volumes inside the share are in its copy, and sealed with it."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.kernel import mounttable
from samba_rvss.model import Phase
from tests.samba.filesystems import only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

INNER = ("inner", "inner/deeper", "directory/other")


def _furnish(rig: "Rig") -> Path:
    """Make a share with volumes in it, and a volume beside it that is not in it."""
    share = rig.volume() / "share"
    share.mkdir()
    share.chmod(0o777)
    (share / "data").write_bytes(b"share")
    (share / "directory").mkdir()
    rig.fs.volume("vms/beside")
    for name in INNER:
        path = _nest(rig, share, name)
        (path / "data").write_bytes(name.encode())
        (path / "data").chmod(0o666)
    return share


def _nest(rig: "Rig", share: Path, name: str) -> Path:
    if rig.fs.kind == "btrfs":
        return rig.fs.volume(f"vms/share/{name}")
    # A dataset's name need not be where it is mounted.
    dataset = f"vms/{name.replace('/', '-')}"
    path = share / name
    path.mkdir()
    return rig.fs.volume_at(path, dataset)


def _writable(path: Path) -> bool:
    try:
        os.close(os.open(path / "data", os.O_RDWR))
        os.close(os.open(path / "new", os.O_RDWR | os.O_CREAT))
        (path / "new").unlink()
    except OSError as exc:
        if exc.errno != errno.EROFS:
            raise
        return False
    return True


@pytest.mark.vm(seconds=60, long=True, file_system="zfs", previous=True)
@pytest.mark.parametrize("previous", [False, True], ids=["plain", "previous"])
def test_nested_volumes_go_with_the_share(rig: "Rig", *, previous: bool) -> None:
    from samba_rvss.testing.smbclient import SmbError

    share = _furnish(rig)
    options = rig.previous_options("vms", share) if previous else {}
    rig.share("vms", share, {**options, "rvss:nested": "include"})
    rig.start()
    before = rig.fs.parts()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        exposed = taken.mappings[0].exposed_share
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        for name in INNER:
            (share / name / "data").write_bytes(b"later")
        places = [Path(copy.path, name) for name in ("", *INNER)]
        assert [_writable(place) for place in places] == [True] * 4
        with rig.session(exposed) as session:
            assert session.list() == ["data", "directory", "inner"]
            assert session.list("inner") == ["data", "deeper"]
            handles = []
            for name in INNER:
                where = name.replace("/", "\\")
                assert session.read(f"{where}\\data") == name.encode()
                session.write(f"{where}\\recovered", name.encode())
                handles.append(session.open(f"{where}\\recovered", write=True))
            taken.complete()
            rig.wait_for_phase(Phase.SEALED)
            for handle in handles:
                with pytest.raises(SmbError):
                    handle.write(b"too late")
        assert [_writable(place) for place in places] == [False] * 4
        with rig.session(exposed) as session:
            for name in INNER:
                where = name.replace("/", "\\")
                assert session.read(f"{where}\\recovered") == name.encode()
                with pytest.raises(SmbError):
                    session.write(f"{where}\\recovered", b"late")
                with pytest.raises(SmbError):
                    session.remove(f"{where}\\data")
                assert not (share / name / "recovered").exists()
        if previous:
            seen = Path(copy.previous_path)
            assert (seen / "inner" / "deeper" / "data").read_bytes() == b"inner/deeper"
            assert not _writable(seen / "inner")
        for mount in mounttable.mountinfo():
            if mount.target.startswith(f"{rig.daemon.run_directory}/"):
                assert mount.options >= {"ro", "nosuid", "nodev", "noexec"}, mount
        taken.delete()
    rig.assert_nothing_left()
    assert rig.fs.parts() == before


@only("zfs")
def test_nested_datasets_after_a_reboot(rig: "Rig") -> None:
    """They are mounted again with their share, as they were."""
    share = _furnish(rig)
    rig.share("vms", share, {"rvss:nested": "include"})
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        with rig.session(taken.mappings[0].exposed_share) as session:
            session.write("inner\\recovered", b"before")
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        targets = rig.mounts()
        rig.daemon.stop()
        rig.daemon.unmount()
        rig.daemon.start()
        assert sorted(rig.mounts()) == sorted(targets)
        assert len(targets) == 4
        assert [_writable(Path(target)) for target in targets] == [False] * 4
        assert (Path(copy.path) / "inner" / "recovered").read_bytes() == b"before"
        taken.delete()
    rig.assert_nothing_left()
