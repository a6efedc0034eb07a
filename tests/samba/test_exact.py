"""What an exposed share shows is the source as it was, to the last attribute."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.model import Phase
from samba_rvss.run import run
from tests.samba.filesystems import OnZfs, only

if TYPE_CHECKING:
    from samba_rvss.testing.smbclient import Session
    from tests.samba.conftest import Rig

_SECONDS = 60.0
_BLOCK = 128 << 10  # at least what either file system allocates at once
_SPARSE = 8 << 20
_LARGEST = 64 << 20  # bytes of a file whose content is compared
_WHERE = (0, 3 << 20, _SPARSE - 2 * _BLOCK)
_SECURITY = 0x1 | 0x2 | 0x4  # MS-DTYP 2.4.7: owner, group, DACL
# MS-FSCC 2.6: hidden, system, directory and archive, so that nothing is left out of a listing
_ALL_ATTRIBUTES = 0x2 | 0x4 | 0x10 | 0x20


def furnish(share: Path, uid: int) -> None:
    """Make one of everything that a share can hold."""
    directory = share / "directory"
    directory.mkdir()
    (directory / "inside").write_bytes(b"inside")
    run(["setfacl", "-m", f"u:{uid}:rwx,g:12345:r-x", str(share / "data")], timeout=_SECONDS)
    run(["setfacl", "-m", f"d:u:{uid}:rwx,d:m::rwx,u:54321:--x", str(directory)], timeout=_SECONDS)
    (directory / "inherits").write_bytes(b"its ACL")
    os.setxattr(share / "data", "user.bytes", bytes(range(256)))
    os.setxattr(share / "data", "user.empty", b"")
    os.setxattr(directory, "user.large", b"x" * 3000)
    os.setxattr(directory, "trusted.ours", b"kept")
    with (share / "sparse").open("wb") as sparse:
        for place in _WHERE:
            sparse.seek(place)
            sparse.write(b"%08d" % place * (_BLOCK // 8))
        sparse.truncate(_SPARSE)
    (share / "hard").hardlink_to(share / "data")
    (directory / "hard").hardlink_to(share / "data")
    (share / "link").symlink_to("data")
    (share / "dangling").symlink_to("nowhere")
    (share / "outside").symlink_to("../outside")
    (share / "to directory").symlink_to("directory")
    os.mkfifo(share / "fifo", 0o640)
    os.mknod(share / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    for name in ("Mixed Case", "twins", "TWINS", "größe", "trailing dot."):
        (share / name).write_text(name)
    (share / "suid").write_bytes(b"#!/bin/sh\n")
    os.chown(share / "suid", 54321, 12345)
    (share / "suid").chmod(0o6755)
    os.utime(share / "suid", ns=(1_000_000_007, 1_234_567_890_123_456_789))


def _extents(path: Path) -> list[tuple[int, int]]:
    """Return where a file has data, as pairs of begin and end in bytes."""
    found = []
    fd = os.open(path, os.O_RDONLY)
    try:
        end, size = 0, os.fstat(fd).st_size
        while end < size:
            try:
                begin = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:
                break  # ENXIO: only a hole follows
            end = os.lseek(fd, begin, os.SEEK_HOLE)
            found.append((begin, end))
    finally:
        os.close(fd)
    return found


def local_view(top: Path) -> dict[str, dict[str, object]]:
    """Return all that can be known of a tree on the server, but for times of access."""
    found: dict[str, dict[str, object]] = {}
    for path in (top, *sorted(top.rglob("*"))):
        status = path.lstat()
        facts: dict[str, object] = {
            name: getattr(status, f"st_{name}")
            for name in ("mode", "uid", "gid", "nlink", "size", "blocks", "mtime_ns", "rdev")
        }
        if path == top:
            del facts["nlink"]  # it is a root now, and may not have been one
        else:
            facts["ino"] = status.st_ino
        facts["attributes"] = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        }
        if stat.S_ISREG(status.st_mode):
            facts["content"] = hashlib.sha256(path.read_bytes()).hexdigest()
            facts["extents"] = _extents(path)
        elif stat.S_ISLNK(status.st_mode):
            facts["content"] = os.readlink(path)
        found[str(path.relative_to(top))] = facts
    return found


def tool_view(name: str, top: Path) -> str:
    """Return what a tool of administrators says of a tree, without the tree's own path."""
    words = {
        "getfacl": ["getfacl", "--recursive", "--physical", "--numeric", "--absolute-names"],
        "getfattr": ["getfattr", "--recursive", "--physical", "--dump", "--match=-"],
    }[name]
    if name == "getfattr":
        words += ["--no-dereference", "--absolute-names", "--encoding=hex"]
    out = run([*words, str(top)], timeout=_SECONDS).replace(str(top), "")
    return "\n\n".join(sorted(out.split("\n\n")))


def _walk(session: "Session", directory: str = "") -> Iterator[tuple[str, dict[str, object]]]:
    for entry in session.connection.list(directory, attribs=_ALL_ATTRIBUTES):
        name = f"{directory}\\{entry['name']}" if directory else entry["name"]
        yield name, entry
        if entry["attrib"] & 0x10 and entry["name"] not in (".", ".."):
            yield from _walk(session, name)


def remote_view(session: "Session") -> dict[str, dict[str, object]]:
    """Return all that a client sees of a share, or what it is told instead."""
    from samba_rvss.testing.smbclient import SmbError

    session.connection.settimeout(1000 * int(_SECONDS))
    found: dict[str, dict[str, object]] = {}
    for name, entry in _walk(session):
        facts = {key: entry[key] for key in ("size", "attrib", "mtime")}
        try:
            if int(str(entry["size"])) <= _LARGEST:
                facts["content"] = hashlib.sha256(session.read(name)).hexdigest()
        except SmbError as exc:
            facts["content"] = exc.name
        facts["ACL"] = _descriptor(session, name)
        found[name] = facts
    return found


def _descriptor(session: "Session", name: str) -> str:
    from samba import NTSTATUSError

    try:
        return str(session.connection.get_acl(name, _SECURITY).as_sddl())
    except NTSTATUSError as exc:
        return str(exc)


def smbcacls(rig: "Rig", share: str, *words: str) -> str:
    command = [
        "smbcacls",
        "--numeric",
        *rig.operator.words,
        f"//{rig.samba.address}/{share}",
        *words,
    ]
    return run(command, timeout=_SECONDS)


def assert_same(found: dict[str, dict[str, object]], wanted: dict[str, dict[str, object]]) -> None:
    """Compare file by file, so that a difference can be read."""
    assert found.keys() == wanted.keys()
    for name, facts in wanted.items():
        assert found[name] == facts, name


@pytest.mark.vm(seconds=60, long=True, file_system="zfs", place="inside")
@pytest.mark.member(file_system="btrfs", place="inside", binding="seal")
@pytest.mark.parametrize("place", ["whole", "inside"])
def test_everything_is_as_at_the_source(rig: "Rig", place: str) -> None:
    share = rig.volume()
    if place == "inside":
        share = share / "a" / "share"
        share.mkdir(parents=True, mode=0o777)
        share.chmod(0o777)
        (share / "data").write_bytes(b"from the source")
    rig.share("vms", share, {"vfs objects": "acl_xattr shell_snap streams_xattr"})
    furnish(share, rig.operator.uid)
    rig.start()
    with rig.session("vms") as session:
        session.write("nt", b"with an NT ACL")
        session.write("nt:stream", b"an alternate data stream")
        smbcacls(rig, "vms", "nt", "-a", "ACL:S-1-5-21-1-2-3-1234:1/0/0x00000020")
        session.make_directory("nt directory")
        inherited = "ACL:S-1-5-21-1-2-3-1235:0/3/0x001200a9"
        smbcacls(rig, "vms", "nt directory", "-a", inherited)
        session.write("nt directory\\inherits", b"an NT ACL")
    os.sync()
    with rig.session("vms") as session:
        remote = remote_view(session)
    del remote["null"]["content"]  # as this Samba does with devices
    local, tools = local_view(share), [tool_view(name, share) for name in ("getfacl", "getfattr")]
    nt = [smbcacls(rig, "vms", name) for name in ("nt", "nt directory", "data")]
    assert "S-1-5-21-1-2-3-1234" in nt[0]
    assert b"\x04" in os.getxattr(share / "nt", "security.NTACL")[:1]
    assert local["sparse"]["extents"] == [(place, place + _BLOCK) for place in _WHERE]
    assert int(str(local["sparse"]["blocks"])) < _SPARSE // 512
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        # The source goes on, and the copy does not follow.
        (share / "data").write_bytes(b"later")
        (share / "nt").unlink()
        exposed = taken.mappings[0].exposed_share
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        for sealed in (False, True):
            if sealed:
                taken.complete()
                rig.wait_for_phase(Phase.SEALED)
            mounted = Path(copy.path)
            assert_same(local_view(mounted), local)
            assert [tool_view(name, mounted) for name in ("getfacl", "getfattr")] == tools
            with rig.session(exposed) as session:
                seen = remote_view(session)
                # There are no devices in a copy, whatever Samba does with them.
                assert str(seen["null"].pop("content")).startswith("NT_STATUS_")
                assert_same(seen, remote)
                assert session.read("nt:stream") == b"an alternate data stream"
                assert session.read("mIXED cASE") == b"Mixed Case"
                assert (session.read("twins"), session.read("TWINS")) == (b"twins", b"TWINS")
            assert [smbcacls(rig, exposed, n) for n in ("nt", "nt directory", "data")] == nt
        taken.delete()
    rig.assert_nothing_left()


@only("zfs")
@pytest.mark.vm(seconds=30, long=True, sensitivity="insensitive")
@pytest.mark.parametrize("sensitivity", ["insensitive", "mixed"])
def test_names_in_any_case(rig: "Rig", sensitivity: str) -> None:
    """What a dataset makes of upper and lower case is for life, and its clone's as well."""
    assert isinstance(rig.fs, OnZfs)
    properties = (f"casesensitivity={sensitivity}", "normalization=formD")
    share = rig.fs.create("vms", *properties)
    (share / "Mixed Case").write_bytes(b"found")
    decomposed, composed = "u\u0308ber", "\u00fcber"
    (share / decomposed).write_bytes(b"normalised")
    # "case sensitive = yes": Samba leaves it to the file system
    rig.share("vms", share, {"case sensitive": "yes" if sensitivity == "insensitive" else "auto"})
    rig.start()

    def look(path: Path, name: str) -> None:
        assert (path / "mIXED cASE").exists() == (sensitivity == "insensitive")
        assert (path / composed).read_bytes() == b"normalised"
        with rig.session(name) as session:
            assert session.read("mIXED cASE") == b"found"
            assert "Mixed Case" in session.list()

    look(share, "vms")
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        look(Path(copy.path), taken.mappings[0].exposed_share)
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        look(Path(copy.path), taken.mappings[0].exposed_share)
        taken.delete()
    rig.assert_nothing_left()


@pytest.mark.parametrize("how", ["link", "device", "fifo"])
def test_special_files_do_not_hang(rig: "Rig", how: str) -> None:
    """Whatever smbd answers for them, it answers at once, and the same at the source."""
    from samba_rvss.testing.smbclient import SmbError

    share = rig.volume()
    path = share / "special"
    if how == "link":
        path.symlink_to("special")  # a loop
    elif how == "device":
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    else:
        os.mkfifo(path, 0o666)
    rig.share("vms", share)
    rig.start()
    answers = []
    with rig.client() as client:
        taken = rig.expose(client, "vms", recovery=False)
        rig.wait_for_phase(Phase.SEALED)
        for name in ("vms", taken.mappings[0].exposed_share):
            with rig.session(name) as session:
                session.connection.settimeout(1000 * int(_SECONDS))
                listed = "special" in session.list()
                try:
                    answers.append((listed, session.read("special")[:10]))
                except SmbError as exc:
                    answers.append((listed, exc.name.encode()))
        print(answers)
        if how != "device":
            assert answers[0] == answers[1]
        else:
            # /dev/zero; the copy's mount has no devices.
            assert answers[1][1].startswith(b"NT_STATUS_")
        assert b"NT_STATUS_IO_TIMEOUT" not in {said for _, said in answers}
        taken.delete()
    rig.assert_nothing_left()
