"""Only Samba gets in: who may use the sockets, and what it takes to wear the daemon out."""

import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss import wire
from samba_rvss.errors import Problem
from samba_rvss.run import environment
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

_WORKER = "/usr/libexec/samba/rpcd_fsrvp"
_NOBODY = 65534


def _as_user(
    rig: "Rig", text: str, *words: str, program: str = sys.executable
) -> "subprocess.CompletedProcess[str]":
    """Run a Python program as the user that the operator is, with no help from Samba."""
    uid = rig.operator.uid
    return subprocess.run(
        [program, "-ISEc", text, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        cwd="/",
        timeout=120,
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
    )


# Both are run as programs: the hook below whatever the test puts above it, and the bare socket.
_CALL_HOOK = """
import subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True, stdin=subprocess.DEVNULL)
print(done.returncode, done.stderr or done.stdout)
"""

_SPEAK = """
import socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
peer.settimeout(10)
peer.connect(sys.argv[1])
try:
    peer.send(b"\\0".join(word.encode() for word in sys.argv[2:]))
except OSError:
    pass
try:
    reply = peer.recv(16384)
except ConnectionResetError:
    reply = peer.recv(16384)
print(reply[0], reply[1:].decode())
"""

# The child waits until its parent has become the real program, and stops it there.
_BECOME_WORKER = """
import os, signal, subprocess, sys, time
worker, *words = sys.argv[1:]
parent = os.getpid()
child = os.fork()
if child == 0:
    while os.readlink("/proc/%d/exe" % parent) != worker:
        time.sleep(0.001)
    os.kill(parent, signal.SIGSTOP)
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    print(done.returncode, done.stderr or done.stdout, flush=True)
    os.kill(parent, signal.SIGKILL)
    os._exit(0)
os.execv(worker, [worker, "--foreground", "--configfile=/dev/null"])
"""


def _assert_refused(rig: "Rig", done: "subprocess.CompletedProcess[str]") -> None:
    status, _, sentence = done.stdout.partition(" ")
    assert status == str(int(Problem.REFUSED)), (done.stdout, done.stderr)
    assert f"of user {rig.operator.uid} may not use the hook" in sentence
    assert rig.ledger() == []
    rig.assert_nothing_left()
    assert f"refused: {sentence.strip().removeprefix('samba-rvss hook: ')}" in rig.daemon.log()
    time.sleep(1.1)  # refusals of one user are logged once a second


def test_user_gets_nothing(rig: "Rig") -> None:
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    hook = [*rig.daemon.hook.split(), "create", str(volume)]
    done = rig.hook("create", str(volume), uid=rig.operator.uid)
    assert done.returncode == Problem.REFUSED
    assert done.stdout == ""
    assert "may not use the hook: no rpcd_fsrvp of root started it" in done.stderr
    time.sleep(1.1)
    for verb in ("check", "create", "delete"):
        words = [str(rig.daemon.run_directory / "hook.sock"), verb, str(volume), "/x"]
        _assert_refused(rig, _as_user(rig, _SPEAK, *words))

    # What calls itself by the worker's name
    home = rig.directory / "user"
    home.mkdir()
    os.chown(home, rig.operator.uid, rig.operator.uid)
    binary = home / "rpcd_fsrvp"
    shutil.copy(Path(sys.executable).resolve(), binary)
    for owner in (rig.operator.uid, 0):
        os.chown(binary, owner, owner)
        binary.chmod(0o755)
        _assert_refused(rig, _as_user(rig, _CALL_HOOK, *hook, program=str(binary)))
    binary.unlink()
    script = home / "rpcd_fsrvp"
    script.write_text(f"#!{sys.executable} -ISE\n{_CALL_HOOK}")
    script.chmod(0o755)
    done = subprocess.run(
        [script, *hook],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        cwd="/",
        timeout=60,
        check=False,
        user=rig.operator.uid,
        group=rig.operator.uid,
        extra_groups=[],
    )
    _assert_refused(rig, done)
    # The worker's own program, run by the user
    if not os.access(_WORKER, os.X_OK):
        pytest.fail(f"{_WORKER} is not where Debian has it")
    done = _as_user(rig, _BECOME_WORKER, _WORKER, *hook)
    _assert_refused(rig, done)

    # Samba's own worker is let in, for the same user
    rig.assert_a_fresh_set_works()
    rig.assert_nothing_left()


_CONNECT = """
import socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    peer.connect(sys.argv[1])
except PermissionError:
    print("denied")
"""

_LOOK_AROUND = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.listdir(path)
    except PermissionError:
        print("denied")
"""


@pytest.mark.vm(seconds=45, long=True, file_system="zfs")
def test_user_sees_nothing_of_ours(rig: "Rig") -> None:
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.ledger()
        done = _as_user(rig, _CONNECT, str(rig.daemon.run_directory / "admin.sock"))
        assert done.stdout == "denied\n", done
        places = (
            rig.daemon.state_directory,
            rig.daemon.run_directory / "exposed",
            rig.daemon.run_directory / "exposed" / "vms",
            *rig.fs.hidden(copy.id),
        )
        done = _as_user(rig, _LOOK_AROUND, *map(str, places))
        assert done.stdout == "denied\n" * len(places), done
        taken.delete()
    rig.assert_nothing_left()


@contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(str(path))  # without a time limit it waits for a place in the queue
        peer.settimeout(20)
        yield peer


def _requests(source: random.Random, share: Path) -> Iterator[tuple[str, bytes]]:
    """Yield kinds and bytes of requests that nobody should send."""

    def noise(longest: int) -> bytes:
        return source.randbytes(source.randrange(1, longest))

    makers: list[tuple[str, Callable[[], bytes]]] = [
        ("noise", lambda: noise(300)),
        ("long noise", lambda: noise(wire.MAXIMUM)),
        ("verb and noise", lambda: source.choice([b"check", b"create", b"delete"]) + noise(200)),
        ("words of noise", lambda: b"delete\0" + noise(100) + b"\0" + noise(100)),
        ("a verb alone", lambda: source.choice([b"check", b"create\0", b"delete\0\0"])),
        ("too few words", lambda: b"delete\0" + os.fsencode(share)),
        ("a foreign path", lambda: b"delete\0" + os.fsencode(share) + b"\0/etc/passwd"),
        ("another share", lambda: b"create\0" + os.fsencode(share) + b"x"),
        ("a thousand words", lambda: b"check" + b"\0a" * 1000),
        ("a reply of ours", lambda: wire.encode_reply(0, "/a/path")),
    ]
    while True:
        kind, make = source.choice(makers)
        yield kind, make()


def test_malformed_requests_change_nothing(rig: "Rig") -> None:
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    path = rig.daemon.run_directory / "hook.sock"
    source = random.Random(1)  # noqa: S311 - the same requests every time
    requests = _requests(source, volume)

    def batch(count: int) -> None:
        for _ in range(count):
            kind, data = next(requests)
            with _connected(path) as peer:
                peer.send(data)
                reply = peer.recv(wire.MAXIMUM)
            assert reply[0] in set(Problem) - {Problem.INTERNAL}, (kind, data[:100], reply)

    def odd(count: int) -> None:
        for number in range(count):
            with _connected(path) as peer:
                if number % 3 == 0:
                    peer.send(b"")
                elif number % 3 == 1:
                    peer.send(source.randbytes(wire.MAXIMUM + 1 + number % 1000))
                else:
                    continue  # closed without a word
                assert peer.recv(wire.MAXIMUM)[0] == Problem.BAD_REQUEST

    # What it has after its first thousand requests is what it needs.
    batch(1000)
    odd(300)
    with _connected(path):
        pass
    _serves(rig, volume)
    time.sleep(0.5)  # until the daemon has closed its end of the last one
    before, descriptors = rig.daemon.memory(), rig.daemon.descriptors()
    with ExitStack() as silent:
        for _ in range(200):
            silent.enter_context(_connected(path))
        batch(8000)
        odd(1500)
        _serves(rig, volume)
        # The silent are sent away although they still hold their ends.
        wait_until("the silent are gone", lambda: rig.daemon.descriptors() <= descriptors)
    grown = rig.daemon.memory() - before
    print(f"memory grew by {grown / 1024:.0f} KiB from {before / 1048576:.1f} MiB")
    assert grown < 4 << 20
    assert "Traceback" not in rig.daemon.log()
    # Samba is still served
    rig.assert_a_fresh_set_works()
    rig.assert_nothing_left()


def _serves(rig: "Rig", share: Path) -> None:
    done = rig.hook("check", str(share))
    assert (done.returncode, done.stderr) == (0, "")


_KNOCK = """
import socket, sys
refused = 0
for number in range(int(sys.argv[2])):
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.connect(sys.argv[1])
    peer.settimeout(20)
    try:
        peer.send(b"create\\0/srv")
    except OSError:
        pass
    try:
        reply = peer.recv(16384)
    except ConnectionResetError:
        reply = peer.recv(16384)
    refused += reply[0] == 19
    peer.close()
print(refused)
"""


_FLOOD = """
import os, socket, sys
parent, served = os.getppid(), 0
while os.getppid() == parent:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.settimeout(0)
    try:
        peer.connect(sys.argv[1])
    except OSError:
        pass
    peer.close()
"""


def test_a_flood_stops_nobody(rig: "Rig") -> None:
    """A user connects as fast as he can, in several processes; others' clients are served."""
    rig.share("vms", rig.volume())
    rig.start()
    path = str(rig.daemon.run_directory / "hook.sock")
    with rig.client() as client, ExitStack() as stack:

        def commit() -> float:
            taken = rig.expose(client, "vms", recovery=False)
            taken.delete()
            return max(call.seconds for call in taken.calls)

        alone = statistics.median(commit() for _ in range(5))
        for _ in range(3):
            flood = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-ISEc", _FLOOD, path],
                    env=environment(),
                    cwd="/",
                    user=_NOBODY,
                    group=_NOBODY,
                    extra_groups=[],
                )
            )
            stack.callback(flood.kill)
        wait_until("it is refused", lambda: "refused too often" in rig.daemon.log())
        among = statistics.median(commit() for _ in range(10))
        print(
            f"the longest call took {1000 * alone:.0f} ms, and {1000 * among:.0f} ms in the flood"
        )
    rig.assert_a_fresh_set_works()
    rig.assert_nothing_left()


def test_mount_namespaces(rig: "Rig") -> None:
    """Where recovery mounts do not appear, a backup would be empty."""
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    run = rig.daemon.run_directory
    follow = ["unshare", "--mount", "--propagation", "slave"]
    hide = ["sh", "-c", f'mkdir -p {run}/exposed && mount -t tmpfs x {run}/exposed && "$@"', "sh"]
    apart = ["unshare", "--mount", "--propagation", "private"]
    for above in (apart, [*follow, *hide]):
        done = rig.hook("check", str(volume), above=above)
        assert done.returncode == Problem.REFUSED, done.stderr
        assert f"what is mounted below {run} does not appear there" in done.stderr
    told = rig.command("status")
    assert told.returncode == 1
    assert f"Samba's requests are refused: {done.stderr.split('hook: ')[1]}" in told.stdout
    done = rig.hook("check", str(volume), above=follow)
    assert (done.returncode, done.stderr) == (0, "")
    assert rig.command("status").returncode == 0
    rig.assert_a_fresh_set_works()
    rig.assert_nothing_left()


def test_refused_connects_cost_nothing(rig: "Rig") -> None:
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    words = [str(rig.daemon.run_directory / "hook.sock")]
    assert _as_user(rig, _KNOCK, *words, "200").stdout == "200\n"
    before, descriptors = rig.daemon.memory(), rig.daemon.descriptors()
    started, size = time.monotonic(), len(rig.daemon.log())
    done = _as_user(rig, _KNOCK, *words, "2000")
    spent = time.monotonic() - started
    assert done.stdout == "2000\n", done
    lines = rig.daemon.log()[size:].splitlines()
    grown = rig.daemon.memory() - before
    print(f"2000 refusals in {spent:.1f} s, {len(lines)} lines, {grown / 1024:.0f} KiB more")
    assert len(lines) <= spent + 2
    assert grown < 4 << 20
    wait_until("the last one is gone", lambda: rig.daemon.descriptors() <= descriptors)
    _serves(rig, volume)
    rig.assert_nothing_left()
