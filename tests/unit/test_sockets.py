"""Listening: a socket that somebody holds stays his, and one that nobody holds is replaced."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.daemon import sockets
from samba_rvss.daemon.sockets import listen
from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.conf import Config
from tests.unit.values import CONFIG

KINDS = {
    "seqpacket": socket.SOCK_SEQPACKET,
    "stream": socket.SOCK_STREAM,
    "datagram": socket.SOCK_DGRAM,
    "not listening": socket.SOCK_SEQPACKET,
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return replace(CONFIG, run_directory=str(tmp_path))


def _refused(config: Config) -> None:
    with ExitStack() as cleanup, pytest.raises(RvssError) as caught:
        listen(config, cleanup)
    assert caught.value.problem is Problem.BUSY
    assert f"somebody else's socket is at {config.run_directory}/" in caught.value.message


@pytest.mark.parametrize("kind", KINDS)
def test_a_living_socket_stays(config: Config, tmp_path: Path, kind: str) -> None:
    """Whatever it is, by whatever name it was bound, and without its owner's noticing."""
    (tmp_path / "link").symlink_to(".")
    with socket.socket(socket.AF_UNIX, KINDS[kind]) as holder:
        holder.bind(f"{tmp_path}/link/hook.sock")
        if kind in ("seqpacket", "stream"):
            holder.listen()
        holder.settimeout(0)
        inode = os.stat(config.hook_socket).st_ino
        _refused(config)
        assert os.stat(config.hook_socket).st_ino == inode
        if kind != "not listening":
            with pytest.raises(BlockingIOError):
                holder.recv(1) if kind == "datagram" else holder.accept()
    assert not os.path.exists(config.admin_socket)


@pytest.mark.require("root")
def test_a_socket_of_another_network_namespace_stays(config: Config, tmp_path: Path) -> None:
    """/proc/net/unix does not show it."""
    script = (
        "import socket, sys\n"
        "holder = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "holder.bind('admin.sock'); holder.listen(); print('listens', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"listens\n"
        _refused(config)
        assert os.path.exists(config.admin_socket)
        # Nor does what had been opened by then stay.
        assert not os.path.exists(config.hook_socket)
        holder.kill()
    # It was killed, and left its socket behind.
    with ExitStack() as cleanup:
        for listener in listen(config, cleanup):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(listener.getsockname())
    assert os.listdir(tmp_path) == []


def test_what_is_no_socket_stays(config: Config, tmp_path: Path) -> None:
    (tmp_path / "hook.sock").write_text("somebody's")
    _refused(config)
    (tmp_path / "hook.sock").unlink()
    (tmp_path / "hook.sock").symlink_to("elsewhere")
    _refused(config)


def test_what_has_come_in_our_place_stays(config: Config) -> None:
    """systemd replaces a socket whoever holds it, when its unit is started."""
    with ExitStack() as cleanup:
        listen(config, cleanup)
        os.unlink(config.hook_socket)
        theirs = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.bind(config.hook_socket)
            cleanup.close()
            assert os.path.exists(config.hook_socket)


def test_the_queue_of_a_socket_of_systemds_is_as_short_as_ours(
    config: Config, tmp_path: Path
) -> None:
    """Whoever is in it is before a callout of Samba's; by itself systemd lets thousands in."""
    script = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[2]), 3)\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "from contextlib import ExitStack\n"
        "from dataclasses import replace\n"
        "from samba_rvss.daemon.sockets import listen\n"
        "from tests.unit.values import CONFIG\n"
        "with ExitStack() as cleanup:\n"
        "    listen(replace(CONFIG, run_directory=sys.argv[1]), cleanup)\n"
    )
    with ExitStack() as stack:
        theirs = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        theirs.bind(config.hook_socket)
        theirs.listen(4096)
        environment = {**os.environ, "LISTEN_FDS": "1", "PYTHONSAFEPATH": "1"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            timeout=60,
            check=True,
        )
        waiting = 0
        with suppress(BlockingIOError):
            while waiting < 100:
                client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                client.settimeout(0)
                client.connect(config.hook_socket)
                waiting += 1
        assert waiting < 100


def test_a_request_counts_that_came_while_the_daemon_had_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "_REQUEST_SECONDS", 0.01)

    async def story() -> bytes:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.settimeout(0)
            request = asyncio.ensure_future(sockets.receive(ours))
            await asyncio.sleep(0)
            theirs.send(b"check")
            time.sleep(0.1)
            return await request

    assert asyncio.run(story()) == b"check"
