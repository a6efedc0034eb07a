"""The hook as Samba runs it: a program of its own, against a daemon that says what we want."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

import samba_rvss
from samba_rvss.errors import Problem
from samba_rvss.kernel.processes import peer_credentials
from samba_rvss.testing.waiting import wait_until
from samba_rvss.wire import MAXIMUM, encode_reply

HOOK = Path(samba_rvss.__file__).parent / "hook.py"
Serve: TypeAlias = Callable[[socket.socket], object]


def run(
    *words: str | bytes,
    hook: Path = HOOK,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Run the hook as its first line says; with more options, in another environment."""
    return subprocess.run(
        [sys.executable, "-ISE", *options, str(hook), *words],
        capture_output=True,
        env=None if env is None else {"PATH": os.environ["PATH"], **env},
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=30,
        cwd="/",
    )


@contextmanager
def daemon(path: Path, serve: Serve) -> Iterator[list[bytes]]:
    """Listen and serve one connection; the list gets the request if ``serve`` reads one."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield requests
        finally:
            thread.join()


def _answering(requests: list[bytes], reply: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        requests.append(connection.recv(MAXIMUM + 1))
        connection.send(reply)

    return serve


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hook.sock"


def ask(path: Path, reply: bytes, *words: str | bytes) -> "tuple[list[bytes], Result]":
    """Run the hook against a daemon that gives one reply; return what was asked and said."""
    requests: list[bytes] = []
    with daemon(path, _answering(requests, reply)):
        done = run("-S", str(path), *words)
    return requests, done


Result: TypeAlias = "subprocess.CompletedProcess[bytes]"

# what is asked


@pytest.mark.parametrize(
    "words",
    [
        ["check", "/srv/vms"],
        ["create", "/srv/My", "VMs", "&", "(x)"],
        ["create", "/srv/a'b\"c\\d`e$f;g|h*?[i]#j~k\nl"],
        ["delete", "/srv/vms", "/run/samba-rvss/exposed/vms/20240229T235959Z-0123abcd"],
        ["create", "", "/srv/vms", ""],
        ["create", "-S", "x"],
        ["create", "/srv/Ünï"],
    ],
)
def test_words_reach_the_daemon_as_they_came(path: Path, words: list[str]) -> None:
    requests, done = ask(path, encode_reply(0, ""), *words)
    assert requests == [b"\0".join(word.encode() for word in words)]
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_bytes_that_are_no_text_reach_the_daemon(path: Path) -> None:
    requests, done = ask(path, encode_reply(0, ""), "create", b"/srv/\xff\xfe")
    assert requests == [b"create\0/srv/\xff\xfe"]
    assert done.returncode == 0


# what is answered


def test_create_prints_the_path(path: Path) -> None:
    _, done = ask(path, encode_reply(0, "/run/exposed/vms/name"), "create", "/srv/vms")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"/run/exposed/vms/name\n", b"")


def test_paths_may_hold_any_bytes(path: Path) -> None:
    _, done = ask(path, b"\0/run/exposed/\xff", "create", "/srv/vms")
    assert (done.returncode, done.stdout) == (0, b"/run/exposed/\xff\n")


def test_words_and_paths_are_the_same_in_any_locale(path: Path) -> None:
    """Samba's are UTF-8; smbd may have been started in a locale that is not."""
    requests: list[bytes] = []
    place = "/run/exposed/Архив"
    with daemon(path, _answering(requests, encode_reply(0, place))):
        done = run(
            *("-S", str(path), "create", "/srv/Архив"),
            options=["-X", "utf8=0"],
            env={"LC_ALL": "C"},
        )
    assert requests == ["create\0/srv/Архив".encode()]
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{place}\n".encode(), b"")


def test_a_line_of_sambas_log_cannot_be_forged(path: Path) -> None:
    reply = bytes([Problem.BUSY]) + b"'a\n[2026/01/01, 0] all is lost\x1b\xff' is in use"
    _, done = ask(path, reply, "create", "/srv/vms")
    shown = rb"'a\n[2026/01/01, 0] all is lost\x1b\udcff' is in use"
    assert done.stderr == b"samba-rvss hook: " + shown + b"\n"


@pytest.mark.parametrize("problem", Problem)
def test_a_refusal_is_the_exit_status_and_a_line_for_samba_s_log(
    path: Path, problem: Problem
) -> None:
    _, done = ask(path, encode_reply(problem, "no room: free some"), "create", "/srv/vms")
    assert done.returncode == problem
    assert done.stdout == b""
    assert done.stderr == b"samba-rvss hook: no room: free some\n"


def test_a_refusal_may_hold_any_bytes(path: Path) -> None:
    _, done = ask(path, b"\x0c/srv/\xff is gone", "check", "/srv/vms")
    assert done.returncode == Problem.BAD_PATH
    assert done.stderr == b"samba-rvss hook: /srv/\\udcff is gone\n"


def test_a_refusal_may_come_before_the_request_is_read(path: Path) -> None:
    """The daemon refuses strangers unread; the kernel tells of that before it gives the answer."""

    def serve(connection: socket.socket) -> None:
        time.sleep(0.3)  # the request is waiting to be read by now
        connection.send(encode_reply(Problem.REFUSED, "you may not"))

    with daemon(path, serve):
        done = run("-S", str(path), "check", "/srv/vms")
    assert done.returncode == Problem.REFUSED
    assert done.stderr == b"samba-rvss hook: you may not\n"


def test_a_refusal_may_come_before_the_request_is_sent(path: Path, tmp_path: Path) -> None:
    """The connection is closed already when the hook writes to it."""
    slow = tmp_path / "slow.py"
    text = HOOK.read_text().replace("        peer.send(", "        settle()\n        peer.send(")
    slow.write_text(text.replace("import sys\n", "import sys\nfrom wait import settle\n", 1))
    (tmp_path / "wait.py").write_text("import time\ndef settle(): time.sleep(0.5)\n")
    with daemon(
        path,
        lambda connection: connection.send(encode_reply(Problem.REFUSED, "you may not")) and None,
    ):
        done = subprocess.run(
            [sys.executable, str(slow), "-S", str(path), "check", "/srv/vms"],
            capture_output=True,
            check=False,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (
        Problem.REFUSED,
        b"samba-rvss hook: you may not\n",
    )


# no answer


def test_no_daemon(path: Path) -> None:
    done = run("-S", str(path), "check", "/srv/vms")
    assert done.returncode == Problem.NO_DAEMON
    assert str(path) in done.stderr.decode()
    assert b"start samba-rvss.service" in done.stderr


def test_a_socket_that_nobody_listens_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(path))
    done = run("-S", str(path), "check", "/srv/vms")
    assert done.returncode == Problem.NO_DAEMON


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    done = run("-S", str(tmp_path / ("x" * 200)), "check", "/srv/vms")
    assert done.returncode == Problem.NO_DAEMON
    assert b"Traceback" not in done.stderr


def test_a_daemon_that_closes_without_a_word(path: Path) -> None:
    with daemon(path, lambda connection: connection.recv(MAXIMUM)):
        done = run("-S", str(path), "create", "/srv/vms")
    assert (done.returncode, done.stdout) == (Problem.NO_DAEMON, b"")
    assert b"without an answer" in done.stderr


def test_a_daemon_that_dies(path: Path) -> None:
    """With the request still unread, the connection is reset."""
    with daemon(path, lambda connection: time.sleep(0.3)):
        done = run("-S", str(path), "create", "/srv/vms")
    assert (done.returncode, done.stdout) == (Problem.NO_DAEMON, b"")
    assert b"Traceback" not in done.stderr


def test_a_daemon_that_does_not_answer(path: Path, tmp_path: Path) -> None:
    hasty = tmp_path / "hasty.py"
    text = HOOK.read_text()
    assert "SECONDS = 58\n" in text
    hasty.write_text(text.replace("SECONDS = 58\n", "SECONDS = 1\n"))
    ended = threading.Event()
    with daemon(path, lambda connection: ended.wait(20)):
        started = time.monotonic()
        done = run("-S", str(path), "create", "/srv/vms", hook=hasty)
        spent = time.monotonic() - started
        ended.set()
    assert (done.returncode, done.stdout) == (Problem.NO_DAEMON, b"")
    assert b"did not answer within 1 s" in done.stderr
    assert 0.9 < spent < 10


# what is not even asked


@pytest.mark.parametrize(
    "words", [[], ["check"], ["-S"], ["-S", "x"], ["-S", "x", "check"], ["expose", "/srv/vms"]]
)
def test_usage(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (Problem.USAGE, b"")
    assert done.stderr.startswith(b"samba-rvss hook: usage: ")


def test_longest_request(path: Path) -> None:
    longest = "/" + "x" * (MAXIMUM - len("create\0/"))
    requests, done = ask(path, encode_reply(0, ""), "create", longest)
    assert (done.returncode, len(requests[0])) == (0, MAXIMUM)
    done = run("-S", str(path), "create", longest + "x")
    assert done.returncode == Problem.USAGE
    assert str(MAXIMUM) in done.stderr.decode()


# what it costs, and what it trusts


def test_it_imports_nothing_but_what_the_interpreter_has() -> None:
    """Everything else is time inside a client's freeze window."""
    code = (
        "import sys; before = set(sys.modules);"
        f"exec(open({str(HOOK)!r}).read(), {{'__name__': 'hook'}});"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-ISEc", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['_socket']\n"


def test_the_first_line_trusts_nothing_of_the_caller_s(tmp_path: Path) -> None:
    """smbd's environment and the client's directory are not ours."""
    first = HOOK.read_text().splitlines()[0]
    assert first == "#!/usr/bin/python3 -ISE"
    for name in ("_socket.py", "sitecustomize.py", "encodings.py"):
        (tmp_path / name).write_text("raise SystemExit(99)\n")
    hook = tmp_path / "hook"
    hook.write_text(HOOK.read_text())
    hook.chmod(0o755)
    done = subprocess.run(
        [str(hook), "-S", str(tmp_path / "none"), "check", "/srv/vms"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path), "LC_ALL": "C"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == Problem.NO_DAEMON


def test_texts_outside_ascii_in_a_poor_locale(path: Path, tmp_path: Path) -> None:
    requests: list[bytes] = []
    with daemon(path, _answering(requests, encode_reply(0, "/run/exposed/Ü"))):
        done = subprocess.run(
            [sys.executable, "-ISE", str(HOOK), "-S", str(path), "create", "/srv/Ünï"],
            env={"LC_ALL": "POSIX"},
            capture_output=True,
            check=False,
        )
    assert requests == ["create\0/srv/Ünï".encode()]
    assert (done.returncode, done.stdout) == (0, "/run/exposed/Ü\n".encode())
    assert os.fsencode("Ü") == "Ü".encode()


@pytest.mark.require("root")
def test_it_waits_for_a_place_in_the_queue(tmp_path: Path) -> None:
    """As one of many, behind who does nothing but connect."""
    path = tmp_path / "hook.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        full = False
        while not full:
            other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            other.settimeout(0)
            try:
                other.connect(str(path))
            except BlockingIOError:
                full = True
        words = [sys.executable, "-ISE", str(HOOK), "-S", str(path), "check", "/srv"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as hook:
            waits_in = Path(f"/proc/{hook.pid}/wchan")  # connect(), and has not given up
            wait_until("it connects", lambda: waits_in.read_text() == "unix_wait_for_peer", 30.0)
            listener.settimeout(20)
            while True:
                connection, _ = listener.accept()
                with connection:
                    if peer_credentials(connection).pid == hook.pid:
                        connection.settimeout(20)
                        assert connection.recv(MAXIMUM) == b"check\0/srv"
                        connection.send(encode_reply(0, ""))
                        break
            assert hook.wait(30) == 0
