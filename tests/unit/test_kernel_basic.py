"""The system calls that need no file system of their own, and the parsers of /proc."""

import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samba_rvss.kernel import files, inotify, mounttable, processes

pytestmark = pytest.mark.vm(seconds=0.5)

PROC_SUPER_MAGIC = 0x9FA0  # linux/magic.h

_parts = st.binary(min_size=1, max_size=20).filter(lambda raw: not set(raw) & {0, ord("/")})
_paths = st.lists(_parts, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))


@contextmanager
def _opened(path: str | Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@given(root=_paths, target=_paths)
@example(root=b"/", target=b"/mnt/a b\tc\nd\\e")
@example(root=b"/", target=b"/mnt/\\040 is not a blank")
@example(root=b"/", target=b"/mnt/\\134")
@example(root=b"/", target=b"/mnt/carriage\rreturn")
@example(root=b"/", target=b"/mnt/ - btrfs")
def test_mountinfo_round_trip(root: bytes, target: bytes) -> None:
    """Any name that a file system allows comes back as it was, and disturbs no other line."""
    line = b"36 35 98:0 %s %s rw,noatime shared:1 master:2 - btrfs /dev/vda rw,subvol=/x\n" % (
        mounttable.escape_mount_path(os.fsdecode(root)),
        mounttable.escape_mount_path(os.fsdecode(target)),
    )
    after = b"40 35 0:5 / /proc rw - proc proc rw\n"
    first, second = mounttable.mountinfo(line + after)
    assert (os.fsencode(first.root), os.fsencode(first.target)) == (root, target)
    assert first.id == 36
    assert first.kind == "btrfs"
    assert first.source == "/dev/vda"
    assert first.options == {"rw", "noatime"}
    assert first.super_options == {"rw", "subvol=/x"}
    assert (second.id, second.target) == (40, "/proc")
    assert list(mounttable.mount_targets(line + after)) == [first.target, "/proc"]


def test_mountinfo_without_optional_fields_or_source() -> None:
    (mount,) = mounttable.mountinfo(b"40 35 0:5 / /tmp rw - tmpfs  rw\n")
    assert (mount.kind, mount.source) == ("tmpfs", "")


def test_mounts_of_a_whole_file_system() -> None:
    lines = (
        b"1 0 0:5 / / rw - ext4 /dev/a rw\n"
        b"2 1 0:6 / /srv/top rw - btrfs /dev/b rw,subvolid=5,subvol=/\n"
        b"3 1 0:6 /data /srv/data rw - btrfs /dev/b rw,subvolid=256,subvol=/data\n"
        b"4 1 0:6 / /srv/a\\040-\\040btrfs\\040b ro shared:1 - btrfs /dev/b rw\n"
        b"5 1 0:7 / /srv/-\\040btrfs rw - tmpfs btrfs rw\n"
    )
    found = [mount.target for mount in mounttable.whole("btrfs", lines)]
    assert found == ["/srv/top", "/srv/a - btrfs b"]
    every = [m.target for m in mounttable.mountinfo(lines) if (m.kind, m.root) == ("btrfs", "/")]
    assert found == every
    assert list(mounttable.whole("zfs", lines)) == list(mounttable.whole("btrfs", b"")) == []


def test_mountinfo_of_this_machine_knows_its_root() -> None:
    mounts = list(mounttable.mountinfo())
    with _opened("/proc", os.O_PATH) as fd:
        found = next(mount for mount in mounts if mount.id == mounttable.mount_id(fd))
    assert (found.target, found.kind) == ("/proc", "proc")
    assert list(mounttable.mount_targets()) == [mount.target for mount in mounts]


def test_file_system_type() -> None:
    with _opened("/proc", os.O_PATH) as fd:
        assert files.file_system_type(fd) == PROC_SUPER_MAGIC


def test_openat2_refuses_symlinks(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "link").symlink_to("real")
    with _opened(tmp_path, os.O_PATH) as directory:
        os.close(files.openat2(directory, "real/file", os.O_RDONLY, files.RESOLVE_NO_SYMLINKS))
        os.close(files.openat2(directory, "link/file", os.O_RDONLY, 0))
        with pytest.raises(OSError, match="link/file") as caught:
            files.openat2(directory, "link/file", os.O_RDONLY, files.RESOLVE_NO_SYMLINKS)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("path", ["..", "/etc", "up"])
def test_openat2_stays_beneath(tmp_path: Path, path: str) -> None:
    (tmp_path / "up").symlink_to("..")
    with _opened(tmp_path, os.O_PATH) as directory, pytest.raises(OSError, match=path) as caught:
        files.openat2(directory, path, os.O_PATH, files.RESOLVE_BENEATH)
    assert caught.value.errno == errno.EXDEV


def test_openat2_descriptor_is_not_inherited(tmp_path: Path) -> None:
    with _opened(tmp_path, os.O_PATH) as directory:
        fd = files.openat2(directory, ".", os.O_RDONLY, files.RESOLVE_BENEATH)
        try:
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        finally:
            os.close(fd)


def _pack(watch: int, mask: int, name: bytes) -> bytes:
    # inotify(7): the name is padded with zeros, and empty for the watched object itself
    padded = name + bytes(-len(name) % 16 or 16) if name else b""
    return struct.pack("=iIII", watch, mask, 0, len(padded)) + padded


_names = st.binary(max_size=60).filter(lambda raw: not set(raw) & {0, ord("/")})


@given(st.lists(st.tuples(st.integers(-1, 2**31 - 1), st.integers(0, 2**32 - 1), _names)))
def test_inotify_read_parses(events: list[tuple[int, int, bytes]]) -> None:
    receiver, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(sender, b"".join(_pack(*event) for event in events))
        found = inotify.read(receiver)
    finally:
        os.close(receiver)
        os.close(sender)
    assert [(watch, mask, os.fsencode(name)) for watch, mask, name in found] == events


def test_inotify_tells_what_happens(tmp_path: Path) -> None:
    fd = inotify.start()
    try:
        watch = inotify.add_watch(fd, str(tmp_path), inotify.IN_CLOSE_WRITE)
        assert inotify.read(fd) == []
        (tmp_path / "srv_fss.tdb").write_bytes(b"x")
        (tmp_path / "srv_fss.tdb").read_bytes()
        assert inotify.read(fd) == [(watch, inotify.IN_CLOSE_WRITE, "srv_fss.tdb")]
        assert inotify.read(fd) == []
    finally:
        os.close(fd)


def test_inotify_names_what_is_missing(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    fd = inotify.start()
    try:
        with pytest.raises(FileNotFoundError) as caught:
            inotify.add_watch(fd, missing, inotify.IN_CLOSE_WRITE)
    finally:
        os.close(fd)
    assert caught.value.filename == missing


def test_process_reads_this_one() -> None:
    me = processes.process(os.getpid())
    executable = Path("/proc/self/exe")
    assert me == processes.Process(
        pid=os.getpid(),
        parent=os.getppid(),
        uid=os.geteuid(),
        saved_uid=os.getuid(),
        executable=str(executable.readlink()),
    )
    assert processes.executable_uid(os.getpid()) == executable.stat().st_uid
    assert processes.command(os.getpid()) == Path("/proc/self/comm").read_text().strip()
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    assert processes.arguments(os.getpid()) == [os.fsdecode(word) for word in words]
    assert os.getpid() in processes.pids()


def test_a_name_is_no_line_of_its_own() -> None:
    """Whoever calls himself so stays who he is: access to the hook hangs on it."""
    code = (
        "import ctypes, os; os.setresuid(65534, 65534, 65534);"
        " ctypes.CDLL(None).prctl(15, b'x\\nUid:\\t0\\t0\\t0', 0, 0, 0); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert "\\nUid:" in Path(f"/proc/{child.pid}/status").read_text().splitlines()[0]
        found = processes.process(child.pid)
        child.communicate(b"\n")
    assert (found.uid, found.saved_uid, found.parent) == (65534, 65534, os.getpid())


def test_what_is_loaded_is_collected_no_more() -> None:
    code = (
        "import gc, samba_rvss.daemon.service; from samba_rvss.kernel import processes;"
        " before = len(gc.get_objects()); processes.keep_loaded(); kept = gc.get_freeze_count();"
        " print(before, kept, len(gc.get_objects()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    before, kept, left = map(int, done.stdout.split())
    assert before > 10_000
    assert kept > before / 2
    assert left < before / 100


def test_files_that_a_process_has_open(tmp_path: Path) -> None:
    read, written = tmp_path / "read only", tmp_path / "tab\tand\nline"
    read.write_text("x")
    with read.open(), written.open("w"):
        found = {file.path: file for file in processes.open_files(os.getpid())}
    with _opened(tmp_path, os.O_PATH) as fd:
        mount = mounttable.mount_id(fd)
    for path, writable in ((read, False), (written, True)):
        file = found[str(path)]
        assert (file.mount, file.writable) == (mount, writable)
        assert file.inode in (0, path.stat().st_ino)
    assert not {str(read), str(written)} & {file.path for file in processes.open_files(os.getpid())}


def test_descendants() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 30
        while len(found := processes.descendants(child.pid)) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (grandchild,) = found
        ours = processes.descendants(os.getpid())
        assert ours.index(child.pid) < ours.index(grandchild)
        child.communicate(b"\n")
    assert not {child.pid, grandchild} & {*processes.descendants(os.getpid())}


def test_process_that_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    with pytest.raises(OSError, match=f"/proc/{child.pid}/") as caught:
        processes.process(child.pid)
    assert caught.value.errno in {errno.ENOENT, errno.ESRCH}


def test_peer_of_a_socket() -> None:
    with ExitStack() as stack:
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(closing(left))
        stack.enter_context(closing(right))
        peer = processes.peer_credentials(left)
        assert peer == processes.Peer(pid=os.getpid(), uid=os.getuid(), gid=os.getgid())
        pidfd = processes.peer_pidfd(left, peer.pid)
        stack.callback(os.close, pidfd)
        info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    assert f"Pid:\t{os.getpid()}\n" in info


def test_read_lock_sees_the_lock_of_another_process(tmp_path: Path) -> None:
    """tdb's transactions lock with fcntl: what excludes them must see them."""
    path = tmp_path / "file"
    path.write_bytes(bytes(64))
    held = (
        "import fcntl, sys\n"
        f"file = open({str(path)!r}, 'r+b')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX, 8, 16)\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with _opened(path, os.O_RDWR) as fd:
            assert not files.try_read_lock(fd, 16)
            assert files.try_read_lock(fd, 32)
    with _opened(path, os.O_RDWR) as fd:
        assert files.try_read_lock(fd, 16)


def test_connections_of_a_process_are_told_apart(tmp_path: Path) -> None:
    address = str(tmp_path / "pipe")
    with closing(socket.socket(socket.AF_UNIX)) as listener, ExitStack() as clients:
        listener.bind(address)
        listener.listen()

        def accepted() -> set[int]:
            found = processes.unix_connections(os.getpid())
            return {number for number, path in found.items() if path == address}

        def connect() -> tuple[socket.socket, int]:
            clients.enter_context(closing(socket.socket(socket.AF_UNIX))).connect(address)
            connection = listener.accept()[0]
            return connection, os.fstat(connection.fileno()).st_ino

        first, second = connect(), connect()
        assert accepted() == {first[1], second[1]}
        first[0].close()
        third = connect()
        assert accepted() == {second[1], third[1]}
        for connection, _ in (second, third):
            connection.close()


def test_groups_of_a_process() -> None:
    assert sorted(processes.groups(os.getpid())) == sorted(os.getgroups())


def test_the_mount_that_a_path_lies_on() -> None:
    lines = [
        b"20 1 8:1 / / rw - ext4 /dev/sda1 rw",
        b"30 20 0:40 / /srv rw - btrfs /dev/sdb rw",
        b"31 20 0:41 / /srv rw - btrfs /dev/sdc rw",  # it hides the one before
        b"32 31 0:42 / /srv/a\\040b rw - btrfs /dev/sdd rw",
    ]
    raw = b"\n".join(lines)

    def device(path: str) -> str:
        found = mounttable.above(path, raw)
        return found.device if found else ""

    paths = ["/", "/srv2", "/srv", "/srv/", "/srv/vms/x", "/srv/a b", "/srv/a b/c", "/srv/a bc"]
    assert [device(path) for path in paths] == [
        *["8:1"] * 2,
        *["0:41"] * 3,
        *["0:42"] * 2,
        "0:41",
    ]
    # What was mounted where something else was mounted afterwards, above, is not there any more.
    later = b"\n".join([*lines, b"33 31 0:43 / /srv/a\\040b/c rw - btrfs /dev/sde rw"])
    found = mounttable.above("/srv/a b/c", later)
    assert found is not None
    assert found.device == "0:42"
    assert mounttable.above("/srv", lines[2]) is not None
    assert mounttable.above("/", lines[2]) is None


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(str(tmp_path / "directory"), b"data")
    assert os.listdir(tmp_path) == ["directory"]
    files.replace(str(tmp_path / "file"), b"data", mode=0o664)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o664
