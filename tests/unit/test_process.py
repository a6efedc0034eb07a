"""python-samba in a process of its own: whatever happens there, the owner goes on."""

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tdb

import samba_rvss
from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import ToolError, run
from samba_rvss.samba import conf, modules, registry
from samba_rvss.samba.process import SambaProcess

by_python = pytest.mark.vm(seconds=2)  # what its version decides

ROOT = str(Path(samba_rvss.__file__).parent.parent)


@pytest.fixture
def samba() -> Iterator[SambaProcess]:
    with closing(SambaProcess()) as made:
        yield made


@by_python
def test_a_call_runs_in_one_child_that_stays(samba: SambaProcess) -> None:
    assert samba.pid == 0
    first = samba.call(os.getpid)
    assert first == samba.pid != os.getpid()
    assert samba.call(os.getpid) == first
    assert samba.call(modules.amended, ["shell_snap", "acl_xattr"]) == "acl_xattr"


def test_the_child_has_nothing_of_ours(
    samba: SambaProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert samba.call(os.getenv, "SECRET") is None
    # its standard streams and its end of the pipe
    links = samba.call(os.listdir, "/proc/self/fd")
    assert len(links) <= 5


def test_known_errors_keep_their_problem(samba: SambaProcess, tmp_path: Path) -> None:
    (tmp_path / "share_info.tdb").write_bytes(b"no database" * 100)
    with pytest.raises(RvssError, match=r"cannot change .*share_info\.tdb") as caught:
        samba.call(registry.remove_security, str(tmp_path), ("vms",))
    assert caught.value.problem is Problem.SAMBA


@by_python
def test_security_is_removed_in_a_transaction(samba: SambaProcess, tmp_path: Path) -> None:
    """The file has every share's descriptor: a power loss must find it as it was, or as it is.

    Who holds a tdb's transaction lock (lib/tdb/common/tdb_private.h, TRANSACTION_LOCK) keeps
    others from transactions, and from nothing else.
    """
    path = tmp_path / "share_info.tdb"
    names = {f"vms@{{0f0e0d0c-0b0a-0908-0706-05040302010{n}}}" for n in range(2)}
    with closing(tdb.Tdb(str(path), 0, tdb.DEFAULT, os.O_RDWR | os.O_CREAT)) as database:
        for name in names:
            database.store(b"SECDESC/" + name.encode() + b"\0", b"descriptor")
    gone, left = sorted(names)
    removed: list[object] = []
    # The child's end of it is a thread's, because it waits.
    call = threading.Thread(
        target=lambda: removed.extend(samba.call(registry.remove_security, str(tmp_path), (gone,)))
    )
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 8)
        call.start()
        call.join(1.0)
        assert call.is_alive()
        assert removed == []
    call.join(30.0)
    assert removed == [gone]
    assert registry.exposed_descriptors(str(tmp_path)) == (left,)


def test_known_errors_keep_their_hint(samba: SambaProcess) -> None:
    with pytest.raises(RvssError) as caught:
        samba.call(conf.load, "/no/such/smb.conf")
    assert caught.value.problem is Problem.CONFIG
    assert (caught.value.message, caught.value.hint) == (
        "cannot read /no/such/smb.conf, which does not exist",
        "name another file with -s",
    )
    assert samba.call(os.getpid) == samba.pid


def test_failures_of_programs_keep_their_fields(samba: SambaProcess) -> None:
    with pytest.raises(ToolError, match="ended with status 1 and said: nothing") as caught:
        samba.call(run, ["false"], timeout=10.0)
    assert (caught.value.problem, caught.value.status) == (Problem.TOOL, 1)
    assert samba.call(os.getpid) == samba.pid


def test_unknown_errors_are_told_with_their_function(samba: SambaProcess) -> None:
    with pytest.raises(RuntimeError, match=r"rmdir: FileNotFoundError: .*/no/such"):
        samba.call(os.rmdir, "/no/such")
    assert samba.call(os.getpid) == samba.pid


def test_a_call_that_hangs_is_ended_and_the_next_works(samba: SambaProcess) -> None:
    hung = samba.call(os.getpid)
    samba.seconds = 0.5
    started = time.monotonic()
    with pytest.raises(RvssError, match=r"sleep: no answer within 0\.5 s") as caught:
        samba.call(time.sleep, 60.0)
    assert time.monotonic() - started < 5
    assert caught.value.problem is Problem.SAMBA
    assert not Path(f"/proc/{hung}").exists()
    samba.seconds = 20.0
    assert samba.call(os.getpid) not in (hung, 0)


def test_a_child_that_ignores_signals_is_ended(samba: SambaProcess) -> None:
    samba.call(os.getpid)
    os.kill(samba.pid, signal.SIGSTOP)
    samba.seconds = 0.5
    with pytest.raises(RvssError, match="no answer"):
        samba.call(os.getpid)
    samba.seconds = 20.0
    assert samba.call(os.getpid) == samba.pid


@by_python
def test_a_child_that_dies_is_replaced(samba: SambaProcess) -> None:
    """Samba's libraries end the process when a database is damaged (tdb_panic, smb_panic)."""
    with pytest.raises(RvssError, match="abort: its process died") as caught:
        samba.call(os.abort)
    assert caught.value.problem is Problem.SAMBA
    first = samba.call(os.getpid)
    os.kill(first, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(RvssError, match="getpid: "):
        samba.call(os.getpid)
    assert samba.call(os.getpid) not in (first, 0)


def test_a_result_that_cannot_be_sent_is_a_failure(samba: SambaProcess) -> None:
    with pytest.raises(RvssError, match="its process died"):
        samba.call(os.scandir, "/")
    assert samba.call(os.getpid) == samba.pid


def test_large_arguments_and_results(samba: SambaProcess) -> None:
    words = ["x" * 1000] * 5000
    assert samba.call(modules.amended, words) == " ".join(words)


def test_calls_from_many_threads(samba: SambaProcess) -> None:
    answers: list[str] = []

    def work(number: int) -> None:
        for index in range(50):
            word = f"{number}.{index}"
            assert samba.call(modules.amended, [word]) == word
            answers.append(word)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 300


def test_close_ends_the_child(samba: SambaProcess) -> None:
    pid = samba.call(os.getpid)
    samba.close()
    assert not Path(f"/proc/{pid}").exists()
    assert samba.pid == 0
    samba.close()


def test_ctrl_c_is_the_owner_s(samba: SambaProcess) -> None:
    pid = samba.call(os.getpid)
    os.kill(pid, signal.SIGINT)
    assert samba.call(os.getpid) == pid


@by_python
def test_the_child_ends_with_its_owner() -> None:
    """Also when the owner had no time to say so."""
    program = (
        "import os, sys\n"
        f"sys.path.insert(0, {ROOT!r})\n"
        "from samba_rvss.samba.process import SambaProcess\n"
        "samba = SambaProcess()\n"
        "print(samba.call(os.getpid), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        child = os.pidfd_open(int(owner.stdout.readline()))
        try:
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            ended, _, _ = select.select([child], [], [], 10)
        finally:
            os.close(child)
    assert ended


def test_a_child_of_another_version_does_nothing(tmp_path: Path) -> None:
    """A package may be upgraded while its old daemon runs; it is restarted a moment later.

    Of what is loaded by then an old child makes use, and loads nothing more; a new one does not
    even look at what it is sent, a value of ours that says so as soon as it is loaded.
    """
    package = Path(samba_rvss.__file__).parent
    shutil.copytree(package, tmp_path / "samba_rvss", ignore=shutil.ignore_patterns("*.pyc"))
    (tmp_path / "samba_rvss" / "value.py").write_text(
        "class Value:\n"
        "    def __setstate__(self, state):\n"
        "        raise AssertionError('it was loaded')\n"
    )
    (tmp_path / "samba_rvss" / "more.py").write_text("def name():\n    return 'more'\n")
    program = (
        "import os, shutil, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from samba_rvss import child, more, value\n"
        "from samba_rvss.child import Child\n"
        "from samba_rvss.errors import Problem, RvssError\n"
        "def serve(*_): pass\n"
        "serve.__module__ = 'samba_rvss.more'\n"
        "it = value.Value()\n"
        "it.x = 1\n"
        "def refused(called, *args):\n"
        "    try:\n"
        "        print('it ran:', called.call(30, *args))\n"
        "    except RvssError as exc:\n"
        "        assert exc.problem is Problem.BUSY\n"
        "        print(exc.line())\n"
        "old = Child()\n"
        "assert old.call(30, os.getpid) == old.pid\n"
        f"file = {str(tmp_path / 'samba_rvss' / '__init__.py')!r}\n"
        "shutil.copystat(file, shutil.copy(file, file + '.new'))\n"
        "os.rename(file + '.new', file)\n"
        "assert old.call(30, os.getpid) == old.pid\n"
        "refused(old, more.name)\n"
        "refused(old, os.fspath, it)\n"
        "new = Child()\n"
        "refused(new, os.getpid)\n"
        "refused(new, os.fspath, it)\n"
        "old.close()\n"
        "new.close()\n"
        "process, ours = child.start(serve, fd=0)\n"
        "print('it ended with', process.wait())\n"
        "ours.close()\n"
    )
    told = run([sys.executable, "-I", "-c", program], timeout=60).splitlines()
    refusal = (
        "another version of samba-rvss was installed while this one runs:"
        " systemctl restart samba-rvss.service"
    )
    assert told == [*[refusal] * 4, "it ended with 1"]


def test_a_child_apart_is_in_a_session_of_its_own(samba: SambaProcess) -> None:
    """Others are in ours: what is mounted on demand is mounted for no process of our group."""
    assert samba.call(os.getpgid, 0) == os.getpgid(0)
    with closing(SambaProcess(apart=True)) as other:
        assert other.call(os.getsid, 0) == other.pid
