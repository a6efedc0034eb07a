"""A client sees its share in the copy and nothing else of the volume."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.kernel import files, mounttable
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.run import environment
from samba_rvss.testing.zfs import zfs
from tests.samba.filesystems import OnZfs, only

if TYPE_CHECKING:
    from samba_rvss.testing.smbclient import Session
    from tests.samba.conftest import Rig

SECRET = b"nobody's business"


def _make(rig: "Rig") -> Path:
    """Make a share that is a directory deep in a volume, and links out of it of every kind."""
    volume = rig.volume()
    share = volume / "outer" / "share"
    share.mkdir(parents=True)
    (volume / "outer" / "other").mkdir()
    for place in (volume, volume / "outer", volume / "outer" / "other"):
        place.chmod(0o777)
        (place / "secret").write_bytes(SECRET)
        (place / "secret").chmod(0o666)
    share.chmod(0o777)
    (share / "data").write_bytes(b"from the source")
    (share / "directory").mkdir(mode=0o777)
    for name, target in _links(rig, volume).items():
        (share / name).symlink_to(target)
    return share


def _links(rig: "Rig", volume: Path) -> dict[str, str]:
    run_directory = rig.daemon.run_directory
    return {
        "parent": "..",
        "parent's": "../secret",
        "grandparent": "../..",
        "from below": "directory/../../secret",
        "sibling": "../other",
        "absolute": f"{volume}/outer",
        "absolute's": f"{volume}/outer/secret",
        "root": "/",
        "our own": str(run_directory.parent),
        "other copies": str(run_directory / "exposed"),
        "process": "/proc/self/root/etc",
        "process's": "/proc/self/cwd/..",
    }


def _ways(rig: "Rig", volume: Path) -> list[str]:
    """Return paths in the share that lead out of it, as an SMB client may write them."""
    ways = ["..", "..\\secret", "..\\..\\secret", "directory\\..\\..\\secret", "..\\other\\secret"]
    ways += ["directory\\..\\..", ".samba-rvss", "..\\.samba-rvss", ".zfs", ".zfs\\snapshot"]
    ways += [
        "..\\.zfs\\snapshot",
        "\\..\\..\\secret",
        "/../../secret",
        "..\\..\\..\\..\\etc\\passwd",
    ]
    for name in _links(rig, volume):
        ways += [name, f"{name}\\secret", f"{name}\\outer\\secret", f"{name}\\passwd"]
        ways += [f"{name}\\etc\\passwd", f"{name}\\..\\secret"]
    return ways


def _reached(session: "Session", way: str) -> str:
    """Return what a client gets by a path, as a file and as a directory; empty for nothing."""
    from samba_rvss.testing.smbclient import SmbError

    found = []
    for attempt in (session.read, session.list):
        try:
            found.append(repr(attempt(way))[:200])
        except SmbError:
            continue
    return " ".join(found)


_FOLLOWING: dict[str, dict[str, str]] = {
    "default": {},
    "never": {"follow symlinks": "no"},
    "wide": {"follow symlinks": "yes", "wide links": "yes"},
}


@pytest.mark.parametrize("links", _FOLLOWING)
def test_no_path_leads_out_of_the_copy(rig: "Rig", links: str) -> None:
    """With wide links, absolute ones lead where they lead at the source: not into the image."""
    share = _make(rig)
    volume = share.parent.parent
    rig.samba.set_options({"allow insecure wide links": "yes"})
    rig.share("vms", share, _FOLLOWING[links])
    rig.share("other", rig.volume("second"))
    rig.start()
    absolute = {name for name, target in _links(rig, volume).items() if target[0] == "/"}
    with rig.client() as client:
        others = rig.expose(client, "other")
        taken = rig.expose(client, "vms")
        rig.wait_for_phase(Phase.OPEN, 2)
        # What was secret when the copy was taken is in its image only.
        for place in (volume, volume / "outer", volume / "outer" / "other"):
            (place / "secret").write_bytes(b"live")
        for sealed in (False, True):
            if sealed:
                taken.complete()
                others.complete()
                rig.wait_for_phase(Phase.SEALED, 2)
            with rig.session(taken.mappings[0].exposed_share) as session:
                assert session.read("data") == b"from the source"
                ways = {way: _reached(session, way) for way in _ways(rig, volume)}
                found = {way: said for way, said in ways.items() if said}
                print(found)
                assert [way for way, said in found.items() if SECRET.decode() in said] == []
                followed = {way.partition("\\")[0] for way in found}
                assert followed <= (absolute if links == "wide" else set())
                # It would be no test if absolute links were not followed at all.
                assert ("root" in followed) == (links == "wide")
        taken.delete()
        others.delete()
    rig.assert_nothing_left()


_ROOTED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from samba_rvss.kernel import files, mounttable
os.chroot(sys.argv[2])
os.chdir("/")
for way in sys.argv[3:]:
    for resolve in (0, 0x10):  # linux/openat2.h, RESOLVE_IN_ROOT
        try:
            fd = files.openat2(files.AT_FDCWD, way, os.O_RDONLY | os.O_NONBLOCK, resolve)
        except OSError:
            continue
        try:
            print(way, sorted(os.listdir(fd)))
        except NotADirectoryError:
            print(way, os.read(fd, 100))
        os.close(fd)
"""


def _rooted(copy: ShadowCopy, ways: list[str]) -> list[str]:
    """Return what a process of root reaches whose root directory is a recovery mount."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _ROOTED, str(root), copy.path, *ways],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_root_of_the_mount_is_the_share(rig: "Rig") -> None:
    share = _make(rig)
    volume = share.parent.parent
    rig.share("vms", share)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        layers = [m for m in mounttable.mountinfo() if m.target == copy.path]
        assert layers
        for mount in layers:
            assert mount.root.endswith("/outer/share")
            assert mount.options >= {"nosuid", "nodev", "noexec"}
        assert os.stat(copy.path).st_ino == share.stat().st_ino
        # Above it are our own directories, and not those of the image.
        device, above = os.stat(copy.path).st_dev, Path(copy.path)
        while above != above.parent:
            above = Path(os.path.normpath(above / ".."))
            assert above.stat().st_dev != device
        ours = os.open(copy.path, os.O_PATH | os.O_DIRECTORY)
        try:
            parent = os.stat("..", dir_fd=ours)
            assert (parent.st_dev, parent.st_ino) == _identity(Path(copy.path).parent)
            with pytest.raises(OSError, match="cross-device"):
                files.openat2(ours, "../secret", os.O_RDONLY, files.RESOLVE_BENEATH)
        finally:
            os.close(ours)
        # All that such a process can reach is the share's directory itself.
        ways = [way.replace("\\", "/") for way in _ways(rig, volume)]
        said = set(_rooted(copy, [*ways, "/..", "/../..", "/", "/../../secret", "/.samba-rvss"]))
        print(said)
        names = str(sorted(os.listdir(share)))
        assert said >= {f"/ {names}", f".. {names}"}
        assert {line for line in said if not line.endswith(f" {names}")} == set()
        taken.delete()
    rig.assert_nothing_left()


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _fails(action: Callable[..., object], *words: object) -> bool:
    from samba_rvss.testing.smbclient import SmbError

    try:
        action(*words)
    except SmbError:
        return True
    return False


@only("zfs")
def test_snapshots_of_the_dataset_are_not_in_the_copy(rig: "Rig") -> None:
    """The root of every dataset has a ``.zfs``; the copy's holds nothing, and is not listed."""
    assert isinstance(rig.fs, OnZfs)
    share = rig.fs.create("vms", "snapdir=visible")
    (share / "data").write_bytes(SECRET)
    zfs("snapshot", f"{rig.fs.dataset}/vms@before")
    (share / "data").write_bytes(b"from the source")
    rig.share("vms", share)
    rig.start()
    assert os.listdir(share / ".zfs" / "snapshot") == ["before"]
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        with rig.session(taken.mappings[0].exposed_share) as session:
            assert session.list() == ["data"]
            assert _fails(session.read, ".zfs\\snapshot\\before\\data")
            assert _fails(session.list, ".zfs\\snapshot\\before")
            assert _fails(session.list, f".zfs\\snapshot\\rvss-{copy.id}")
            assert _fails(session.write, ".zfs\\new", b"")
            assert _fails(session.make_directory, ".zfs\\snapshot\\new")
        assert os.listdir(copy.path) == ["data"]
        assert os.listdir(Path(copy.path) / ".zfs" / "snapshot") == []
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        taken.delete()
    zfs("destroy", f"{rig.fs.dataset}/vms@before")
    rig.assert_nothing_left()


@only("btrfs")
def test_images_are_not_in_a_copy_of_the_top(rig: "Rig") -> None:
    """A share of the whole file system has our images below it, and its copies have not."""
    rig.fs.path.chmod(0o777)
    (rig.fs.path / "data").write_bytes(b"from the source")
    rig.share("vms", rig.fs.path)
    rig.start()
    with rig.client() as client:
        first, second = rig.expose(client, "vms"), rig.expose(client, "vms")
        copies = rig.wait_for_phase(Phase.OPEN, 2)
        for copy, taken in zip(copies, (first, second), strict=True):
            assert os.listdir(copy.path) == ["data"]
            with rig.session(taken.mappings[0].exposed_share) as session:
                assert _fails(session.list, ".samba-rvss")
                for other in copies:
                    assert _fails(session.read, f".samba-rvss\\{other.id}\\image\\data")
        first.delete()
        second.delete()
    rig.assert_nothing_left()


_READ = """
import sys
for path in sys.argv[1:]:
    try:
        print(open(path).read())
    except PermissionError:
        print("denied")
"""


def _read_as(uid: int, *paths: str) -> list[str]:
    """Return what a local user reads at paths, or "denied"."""
    done = subprocess.run(
        [sys.executable, "-ISEc", _READ, *paths],
        capture_output=True,
        text=True,
        env=environment(),
        cwd="/",
        timeout=120,
        check=True,
        user=uid,
        group=uid,
        extra_groups=[],
    )
    return done.stdout.splitlines()


def test_the_way_to_a_copy_is_as_closed_as_to_its_share(rig: "Rig") -> None:
    """Below a directory of the operator's alone: other local users get nowhere, and he does."""
    stranger, owner = 65500, rig.operator.uid
    private = rig.volume() / "private"
    share = private / "share"
    share.mkdir(parents=True)
    (share / "data").write_bytes(b"from the source")
    for path, mode in ((private, 0o700), (share, 0o777), (share / "data", 0o666)):
        os.chown(path, owner, 0)
        path.chmod(mode)
    rig.share("My VMs", share, rig.previous_options("My VMs", share))
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "My VMs")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        assert copy.previous_path
        with rig.session(taken.mappings[0].exposed_share) as session:
            session.write("data", b"recovered")
        files = [f"{path}/data" for path in (copy.path, copy.previous_path)]
        assert _read_as(owner, *files) == ["recovered"] * 2
        assert _read_as(stranger, str(share / "data"), *files) == ["denied"] * 3
        with rig.session("My VMs") as session:
            name = os.path.basename(copy.previous_path)
            assert session.read(f"{name}\\data") == b"recovered"
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        rig.daemon.stop()
        rig.daemon.unmount()
        shutil.rmtree(rig.daemon.run_directory)
        rig.daemon.start()
        assert _read_as(owner, *files) == ["recovered"] * 2
        assert _read_as(stranger, *files) == ["denied"] * 2
        with rig.session(taken.mappings[0].exposed_share) as session:
            assert session.read("data") == b"recovered"
        taken.delete()
    rig.assert_nothing_left()
