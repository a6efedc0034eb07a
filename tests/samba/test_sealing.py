"""A copy can be written to exactly as long as it must be, and not one byte longer."""

import ast
import hashlib
import itertools
import mmap
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.model import Phase, SetState
from samba_rvss.run import environment
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import identity_of

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

ROUNDS = int(os.environ.get("SAMBA_RVSS_ROUNDS", "20"))
"""How often a test tries again what depends on time; for slow machines."""

# What smbd may answer to a write that it refuses, or that finds its connection gone.
_REFUSALS = {
    "NT_STATUS_MEDIA_WRITE_PROTECTED",
    "NT_STATUS_ACCESS_DENIED",
    "NT_STATUS_NETWORK_NAME_DELETED",
    "NT_STATUS_FILE_CLOSED",
    "NT_STATUS_CONNECTION_DISCONNECTED",
    "NT_STATUS_CONNECTION_RESET",
    "NT_STATUS_USER_SESSION_DELETED",
}


def _wait_for_parameter(rig: "Rig", exposed: str, name: str, value: str) -> None:
    """Wait until an exposed share is amended, which is done beside the sealing."""
    wait_until(
        lambda: f"{name} is {value}: {rig.parameters(exposed)}",
        lambda: rig.parameters(exposed).get(name) == value,
    )


def _refused(action: Callable[..., object], *arguments: object) -> str:
    from samba_rvss.testing.smbclient import SmbError

    with pytest.raises(SmbError) as caught:
        action(*arguments)
    assert caught.value.name in _REFUSALS, caught.value
    return caught.value.name


def _fingerprint(root: Path) -> dict[str, tuple[object, ...]]:
    """Return everything that can be known of a tree: metadata, attributes, contents."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (root, *sorted(root.rglob("*"))):
        status = path.lstat()
        attributes = tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        )
        content = ""
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        found[str(path.relative_to(root))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_nlink,
            status.st_size,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_ctime_ns,
            attributes,
            content,
        )
    return found


def _write_mapped(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0:4] = b"mmap"


def _assert_closed_to_root(path: Path) -> None:
    """Try everything that root can do to a tree by new opens."""
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: os.close(os.open(path / "data", os.O_WRONLY)),
        "append": lambda: os.close(os.open(path / "data", os.O_RDWR | os.O_APPEND)),
        "create": lambda: os.close(os.open(path / "new", os.O_WRONLY | os.O_CREAT)),
        "mkdir": lambda: (path / "directory").mkdir(),
        "unlink": lambda: (path / "data").unlink(),
        "rename": lambda: (path / "data").rename(path / "other"),
        "link": lambda: (path / "other").hardlink_to(path / "data"),
        "symlink": lambda: (path / "other").symlink_to("data"),
        "truncate": lambda: os.truncate(path / "data", 0),
        "chmod": lambda: (path / "data").chmod(0o600),
        "chown": lambda: os.chown(path / "data", 1, 1),
        "utime": lambda: os.utime(path / "data", (0, 0)),
        "setxattr": lambda: os.setxattr(path / "data", "user.x", b"1"),
        "trusted xattr": lambda: os.setxattr(path, "trusted.x", b"1"),
        "mmap": lambda: _write_mapped(path / "data"),
    }
    for name, attempt in attempts.items():
        with pytest.raises(OSError, match="Read-only file system") as caught:
            attempt()
        assert caught.value.errno == 30, (name, caught.value)


@contextmanager
def _program(text: str, *words: str, uid: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program beside the test; it says "ready" and ends with its standard input."""
    own: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
    with subprocess.Popen(
        [sys.executable, "-ISEc", text, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd="/",
        **own,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.stdin.close()
            process.wait(20)


_HOLDER = """
import sys
file = open(sys.argv[1], "r+b", buffering=0)
file.write(b"held")
print("ready", flush=True)
sys.stdin.read()
"""

# By mmap(2) itself: Python's own keeps a copy of the descriptor.
_MAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, *(ctypes.c_size_t,) * 4, ctypes.c_long)
fd = os.open(sys.argv[1], os.O_RDWR)
mapping = libc.mmap(None, 4096, 3, 1, fd, 0)
os.close(fd)
ctypes.memmove(mapping, b"held", 4)
print("ready", flush=True)
sys.stdin.readline()
ctypes.memmove(mapping + 4, b"last", 4)
libc.munmap(ctypes.c_void_p(mapping), ctypes.c_size_t(4096))
print("closed", flush=True)
sys.stdin.read()
"""


@pytest.mark.vm(seconds=45, file_system="zfs")
@pytest.mark.member(file_system="btrfs")
def test_recovered_copy_cannot_change(rig: "Rig") -> None:
    volume = rig.volume()
    (volume / "link").symlink_to("data")
    modules = {"vfs objects": "acl_xattr shadow_copy2 shell_snap streams_xattr"}
    options = rig.previous_options("vms", volume) | modules
    rig.share("vms", volume, options)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        mapping = taken.mappings[0]
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        with rig.session(mapping.exposed_share) as session:
            old = session.open("recovered", write=True, create=True)
            old.write(b"written by recovery")
            started = time.monotonic()
            taken.complete()
            (sealed,) = rig.wait_for_phase(Phase.SEALED)
            print(f"sealed {1000 * (time.monotonic() - started):.0f} ms after RecoveryComplete")
            with rig.image(copy) as image:
                before = _fingerprint(image)
            print("an old handle:", _refused(old.write, b"too late"))
        with rig.session(mapping.exposed_share) as session:
            print("a new connection:", _refused(session.write, "new", b"x"))
            print("a new handle:", _refused(lambda: session.open("data", write=True)))
            _refused(session.remove, "data")
            _refused(session.make_directory, "directory")
            assert session.read("recovered") == b"written by recovery"
            assert session.list() == ["data", "link", "recovered"]
        mount = Path(copy.path)
        _assert_closed_to_root(mount)
        _assert_closed_to_root(Path(copy.previous_path))
        with rig.image(copy) as image:
            _assert_closed_to_root(image)
            os.sync()
            assert _fingerprint(image) == before
        assert _fingerprint(mount) == before
        (listed,) = rig.copies()
        assert listed["phase"] == "sealed"
        assert sealed.context == int(taken.context)
        parameters = rig.parameters(mapping.exposed_share)
        assert parameters["read only"] == "yes"
        assert parameters["vfs objects"] == "acl_xattr streams_xattr"
        taken.delete()
    rig.assert_nothing_left()
    assert sorted(os.listdir(volume)) == ["data", "link"]


_POLLER = """
import errno, os, sys
top = sys.argv[1]
print("ready", flush=True)
seen, said = {}, set()
os.set_blocking(0, False)
def attempt(path, name, flags):
    try:
        fd = os.open(path + name, flags)
    except OSError as exc:
        return errno.errorcode[exc.errno]
    os.close(fd)
    return "OPENED"
while True:
    try:
        copies = os.listdir(top)
    except FileNotFoundError:
        copies = []
    for name in copies:
        # The file is there only once the mount is.
        result = attempt(top + "/" + name, "/data", os.O_RDWR)
        if result != "ENOENT":
            seen.setdefault(name, {}).setdefault(result, 0)
            seen[name][result] += 1
    try:
        if os.read(0, 1) == b"":
            break
    except BlockingIOError:
        pass
print(repr(seen), flush=True)
"""


@pytest.mark.member(file_system="btrfs")
def test_without_recovery_never_writable(rig: "Rig") -> None:
    rig.share("vms", rig.volume())
    rig.start()
    answers: set[str] = set()
    exposed = rig.daemon.run_directory / "exposed" / "vms"
    with rig.client() as client, _program(_POLLER, str(exposed)) as poller:
        for _ in range(ROUNDS):
            taken = rig.expose(client, "vms", recovery=False)
            with rig.session(taken.mappings[0].exposed_share) as session:
                answers.add(_refused(session.write, "data", b"x"))
                answers.add(_refused(session.write, "new", b"x"))
                answers.add(_refused(session.remove, "data"))
                assert session.read("data").startswith(b"from the source")
            rig.wait_for_phase(Phase.SEALED)
            with rig.session(taken.mappings[0].exposed_share) as session:
                answers.add(_refused(session.write, "data", b"x"))
            taken.delete()
        assert poller.stdin is not None
        assert poller.stdout is not None
        poller.stdin.close()
        seen = ast.literal_eval(poller.stdout.read())
    print(f"smbd answered {sorted(answers)}, the kernel {seen}")
    assert len(seen) == ROUNDS
    assert {result for results in seen.values() for result in results} == {"EROFS"}
    rig.assert_nothing_left()


def test_what_samba_said_later_is_in_the_mark(rig: "Rig") -> None:
    """Without AUTO_RECOVERY a copy is sealed before its client has completed anything."""
    rig.share("vms", rig.volume())
    rig.start()
    provider = rig.fs.provider(identity_of(rig.daemon))

    def said() -> SetState | None:
        (image,) = provider.inventory().images
        assert image.mark.sealed is not None
        return image.mark.sealed.state

    with rig.client() as client:
        taken = rig.expose(client, "vms", recovery=False)
        rig.wait_for_phase(Phase.SEALED)
        assert said() in (SetState.COMMITTED, SetState.EXPOSED)
        taken.complete()
        recovered = SetState.RECOVERED
        wait_until("the ledger knows", lambda: rig.ledger()[0].state is recovered)
        assert rig.command("reconcile").returncode == 0
        assert said() is recovered
        taken.delete()
    rig.assert_nothing_left()


def _write_when_allowed(rig: "Rig", share: str, data: bytes) -> int:
    """Write as soon as a new connection may; return how many were refused before."""
    from samba_rvss.testing.smbclient import SmbError

    deadline = time.monotonic() + 60
    for refused in itertools.count():
        with rig.session(share) as session:
            try:
                session.write("recovered", data)
            except SmbError as exc:
                if exc.name != "NT_STATUS_ACCESS_DENIED" or time.monotonic() > deadline:
                    raise
            else:
                return refused
    raise AssertionError


@pytest.mark.member(file_system="btrfs", binding="seal")
def test_read_only_share_can_recover(rig: "Rig") -> None:
    """The exposed share of a read-only share opens a moment after Expose: Samba clones it first.

    A client that connects within that moment is refused, and has to connect again.
    """
    volume = rig.volume()
    rig.share("vms", volume, {"read only": "yes"})
    rig.start()
    early = 0
    with rig.client() as client:
        for number in range(ROUNDS):
            taken = rig.expose(client, "vms")
            exposed = taken.mappings[0].exposed_share
            early += _write_when_allowed(rig, exposed, b"%d" % number) > 0
            taken.complete()
            rig.wait_for_phase(Phase.SEALED)
            _wait_for_parameter(rig, exposed, "read only", "yes")
            with rig.session(exposed) as session:
                _refused(session.write, "recovered", b"late")
                assert session.read("recovered") == b"%d" % number
            taken.delete()
    print(f"{early} of {ROUNDS} clients were too early")
    with rig.session("vms") as session:
        _refused(session.write, "data", b"x")
    rig.assert_nothing_left()


# A local user's way around the mount: a namespace born meanwhile has a mount of its own, whose
# writers nobody counts. It says what each of its writes came to.
_IN_OWN_NAMESPACE = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS if os.getuid() else CLONE_NEWNS):
    sys.exit(os.strerror(ctypes.get_errno()))
fd = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(fd, b"held", 0)
print("ready", flush=True)
sys.stdin.readline()
try:
    os.pwrite(fd, b"late", 4)
    os.fsync(fd)
    print("written", flush=True)
except OSError as exc:
    print(errno.errorcode[exc.errno], flush=True)
sys.stdin.read()
"""


@pytest.mark.vm(seconds=45, long=True, file_system="zfs", how="namespace")
@pytest.mark.parametrize("how", ["open", "mapped", "namespace"])
def test_a_writer_that_does_not_let_go_changes_nothing(rig: "Rig", how: str) -> None:
    """Nobody is waited for: what is open leads to what is no part of the image."""
    rig.share("vms", rig.volume())
    rig.start()
    user = rig.operator.uid if how == "namespace" else 0
    text = {"open": _HOLDER, "mapped": _MAPPER, "namespace": _IN_OWN_NAMESPACE}[how]
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        file = Path(copy.path) / "data"
        with _program(text, str(file), uid=user) as holder:
            taken.complete()
            rig.wait_for_phase(Phase.SEALED, state=SetState.RECOVERED)
            with rig.image(copy) as image:
                before = _fingerprint(image)
            assert holder.stdin is not None
            assert holder.stdout is not None
            if how != "open":
                holder.stdin.write("\n")
                holder.stdin.flush()
                answer = holder.stdout.readline()
                print("what came of the last write:", answer or holder.wait(20))
            os.sync()
            _assert_closed_to_root(Path(copy.path))
            with rig.image(copy) as image:
                assert _fingerprint(image) == before
        content = file.read_bytes()
        assert content.startswith(b"held")
        assert not content.startswith((b"heldlate", b"heldlast"))
        with rig.session(taken.mappings[0].exposed_share) as session:
            _refused(session.write, "data", b"x")
            assert session.read("data") == content
        taken.delete()
    rig.assert_nothing_left()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_recovery_completed_while_the_daemon_is_down(rig: "Rig", how: str) -> None:
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        with rig.session(taken.mappings[0].exposed_share) as session:
            handle = session.open("data", write=True)
            handle.write(b"recovered")
            if how == "stop":
                rig.daemon.stop()
            else:
                rig.daemon.kill()
            taken.complete()
            handle.write(b"still open, as nobody is there to close it")
            rig.daemon.start()
            rig.wait_for_phase(Phase.SEALED)
            with rig.image(copy) as image:
                before = _fingerprint(image)
            _refused(handle.write, b"too late")
        _assert_closed_to_root(Path(copy.path))
        with rig.image(copy) as image:
            assert _fingerprint(image) == before
        with rig.session(taken.mappings[0].exposed_share) as session:
            _refused(session.write, "data", b"x")
            assert session.read("data").startswith(b"still open")
        (exposed,) = taken.exposed_shares
        _wait_for_parameter(rig, exposed, "read only", "yes")
        taken.delete()
    rig.assert_nothing_left()


def test_source_goes_on(rig: "Rig") -> None:
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with (volume / "journal").open("r+b", buffering=0) as file:
            while not stop.is_set():
                file.write(b"%08d" % written)
                written += 1
                time.sleep(0.001)

    (volume / "journal").touch()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        with rig.client() as client:
            taken = rig.expose(client, "vms")
            exposed = taken.mappings[0].exposed_share
            with rig.session(exposed) as session:
                session.write("data", b"consistent")
                session.write("added", b"by recovery")
                frozen = session.read("journal")
            taken.complete()
            (copy,) = rig.wait_for_phase(Phase.SEALED)
            after = written
            with rig.session(exposed) as session:
                assert session.read("data") == b"consistent"
                assert session.read("added") == b"by recovery"
                assert session.read("journal") == frozen
            with rig.image(copy) as image:
                assert (image / "added").read_bytes() == b"by recovery"
            assert (volume / "data").read_bytes().startswith(b"from the source")
            assert not (volume / "added").exists()
            wait_until("the source is written to", lambda: written > after)
            taken.delete()
    finally:
        stop.set()
        writer.join()
    assert len((volume / "journal").read_bytes()) == 8 * written
    rig.assert_nothing_left()


@pytest.mark.parametrize("origin", ["global", "copy"])
def test_what_is_inherited_stays(rig: "Rig", origin: str) -> None:
    """An exposed share keeps the modules that its base share did not name itself, and its name."""
    name = rig.operator.name
    path = rig.volume(name) / "5% of My VMs"
    path.mkdir()
    (path / "data").write_bytes(b"captured")
    given = {"vfs objects": 'acl_xattr, "shell_snap",streams_xattr'}
    more = {"path": f'"{rig.fs.path}/%S/{path.name}/"', "valid users": "%S"}
    if origin == "global":
        rig.samba.set_options(given)
        section = re.sub(".*vfs objects =.*\n", "", rig.daemon.share(name, path, more))
    else:
        rig.share("base", rig.volume("base"), given | {"valid users": "%S"})
        section = f"[{name}]\n    copy = base\n    path = {more['path']}\n"
    rig.samba.set_share(name, section)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, name)
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        exposed = taken.mappings[0].exposed_share
        _wait_for_parameter(rig, exposed, "vfs objects", "acl_xattr streams_xattr")
        with rig.session(exposed) as session:
            assert session.read("data") == b"captured"
        taken.delete()
    rig.assert_nothing_left()
