"""The one door to other programs, with real programs behind it."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from multiprocessing import Pipe
from pathlib import Path

import pytest

from samba_rvss.child import Child
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.priority import nice, prefer
from samba_rvss.kernel.processes import end_session
from samba_rvss.run import Stopped, ToolError, beginning, call, environment, run, tool
from samba_rvss.testing.waiting import wait_until


def _gone(pid: int) -> bool:
    """Tell whether a process has ended (a zombie that init has not reaped yet has)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while not _gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def _program(directory: Path, text: str) -> str:
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def _sent(error: ToolError) -> ToolError:
    """Return an error as another process gets it."""
    receiver, sender = Pipe(duplex=False)
    with receiver, sender:
        sender.send(error)
        received = receiver.recv()
    assert isinstance(received, ToolError)
    return received


def test_output() -> None:
    assert run(["printf", "%s|", "a b", "", "c"], timeout=5) == "a b||c|"


def test_output_may_hold_any_bytes() -> None:
    assert os.fsencode(run(["printf", r"\377\n"], timeout=5)) == b"\xff\n"


def test_standard_error_is_no_output(tmp_path: Path) -> None:
    assert run([_program(tmp_path, "echo out; echo err >&2")], timeout=5) == "out\n"


def test_large_output_on_both_streams_does_not_block(tmp_path: Path) -> None:
    program = _program(tmp_path, "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero")
    assert len(run([program], timeout=20)) == 300000


def test_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    words = dict(line.split("=", 1) for line in run(["env"], timeout=5).splitlines())
    assert words == environment()


def test_environment_can_be_added_to() -> None:
    assert "POOL=tank\n" in run(["env"], timeout=5, env={"POOL": "tank"})


def test_standard_input_is_empty() -> None:
    assert run(["cat"], timeout=5) == ""


def test_failure_tells_argv_status_and_standard_error(tmp_path: Path) -> None:
    program = _program(tmp_path, "echo some output; echo no such pool >&2; exit 3")
    with pytest.raises(ToolError) as caught:
        run([program, "tank"], timeout=5)
    error = caught.value
    assert error.problem is Problem.TOOL
    assert error.message == f"{program} tank ended with status 3 and said: no such pool"
    assert (error.argv, error.status) == ((program, "tank"), 3)
    assert (error.stdout, error.stderr) == ("some output\n", "no such pool\n")
    assert error.said == "no such pool"


def test_failure_without_standard_error_tells_the_output(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"said: only this$") as caught:
        run([_program(tmp_path, "echo only this; exit 1")], timeout=5)
    assert (caught.value.said, caught.value.stderr) == ("only this", "")
    with pytest.raises(RvssError, match=r"said: nothing$"):
        run(["false"], timeout=5)


def test_death_by_signal_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="status -9") as caught:
        run([_program(tmp_path, "kill -KILL $$")], timeout=5)
    assert caught.value.status == -9


def test_failure_that_names_itself_like_our_sentence(tmp_path: Path) -> None:
    """What was run and what it said are kept apart, whatever they are."""
    program = _program(tmp_path, "echo 'and said: no' >&2; exit 1")
    with pytest.raises(ToolError) as caught:
        run([program, "tank and said: yes"], timeout=5)
    assert caught.value.argv[1:] == ("tank and said: yes",)
    assert caught.value.said == "and said: no"


def test_failure_passes_between_processes(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        run([_program(tmp_path, r"printf '\377'; echo no >&2; exit 3"), "tank"], timeout=5)
    error = caught.value
    copy = _sent(error)
    assert (copy.problem, copy.message, copy.hint) == (error.problem, error.message, error.hint)
    assert (copy.argv, copy.status) == (error.argv, 3)
    assert (copy.stdout, copy.stderr, copy.said) == ("\udcff", "no\n", "no")


def test_allowed_statuses(tmp_path: Path) -> None:
    program = _program(tmp_path, "echo yes; exit 255")
    assert run([program], timeout=5, allow=frozenset({0, 255})) == "yes\n"


def test_missing_tool() -> None:
    with pytest.raises(RvssError, match="no-such-tool-here is not installed") as caught:
        run(["no-such-tool-here"], timeout=5)
    assert caught.value.problem is Problem.MISSING


@pytest.mark.parametrize(
    ("text", "mode", "words", "reason"),
    [
        (None, 0, [], "No such file or directory"),
        ("#!/bin/sh", 0o644, [], "Permission denied"),
        ("no program", 0o755, [], "Exec format error"),
        ("", 0o755, [], "Exec format error"),
        ("#!/no/such/interpreter", 0o755, [], "No such file or directory"),
        ("#!/bin/sh", 0o755, ["x" * (1 << 18)], "Argument list too long"),
        ("#!/bin/sh", 0o755, ["a\0b"], "embedded null byte"),
        ("#!/bin/sh", 0o755, ["\ud800"], "surrogates not allowed"),
    ],
)
def test_a_program_that_cannot_be_started_is_named(
    tmp_path: Path, text: str | None, mode: int, words: list[str], reason: str
) -> None:
    program = tmp_path / "program"
    if text is not None:
        program.write_text(text)
        program.chmod(mode)
    with pytest.raises(ToolError, match=f"cannot be started: .*{reason}$") as caught:
        run([str(program), *words], timeout=5)
    error = caught.value
    assert error.message.startswith(f"{program} ")
    assert (error.problem, error.argv, error.status) == (
        Problem.TOOL,
        (str(program), *words),
        None,
    )


def test_a_program_that_was_moved_is_found_again(tmp_path: Path) -> None:
    """It may be upgraded, or moved, while the daemon runs."""
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    _program(second, "echo second")
    search = f"{first}:{second}"
    program = _program(first, "echo first")
    assert run([tool("program", search)], timeout=5) == "first\n"
    os.unlink(program)
    with pytest.raises(ToolError, match="cannot be started"):
        run([tool("program", search)], timeout=5)
    assert run([tool("program", search)], timeout=5) == "second\n"


def test_nothing_can_be_started_without_descriptors() -> None:
    """Of programs and of our own children the error is one that says so, and nothing is left."""
    before = os.listdir("/proc/self/fd")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        with pytest.raises(ToolError, match=r"/true cannot be started: Too many open files$"):
            run(["/bin/true"], timeout=5)
        with pytest.raises(ToolError, match=r"cannot be started: Too many open files$") as caught:
            Child()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.argv == (sys.executable,)
    assert os.listdir("/proc/self/fd") == before


def test_tool_is_found_on_our_path_not_the_callers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _program(tmp_path, "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert os.path.isabs(tool("mount"))
    with pytest.raises(RvssError, match="is not installed"):
        tool("program")
    assert tool("program", f"/nowhere:{tmp_path}") == str(tmp_path / "program")


def test_beginning_of_an_output() -> None:
    """Any bytes; who prints more is ended, and who fails before that has failed."""
    assert beginning(["/bin/printf", r"\r\n\377"], 99, timeout=5) == b"\r\n\xff"
    assert beginning(["/bin/cat", "/dev/zero"], 200_000, timeout=5) == bytes(200_000)
    assert beginning(["/bin/sh", "-c", "printf 123; exit 1"], 3, timeout=5) == b"123"
    with pytest.raises(ToolError, match="ended with status 1") as caught:
        beginning(["/bin/sh", "-c", "printf 123; exit 1"], 4, timeout=5)
    assert caught.value.status == 1
    with pytest.raises(ToolError, match=r"did not end within 0\.1 s") as caught:
        beginning(["/bin/sh", "-c", "printf 123; sleep 60"], 4, timeout=0.1)
    assert caught.value.status is None
    with pytest.raises(ToolError, match="cannot be started"):
        beginning(["/there/is/none"], 1, timeout=5)


def test_timeout_kills_the_program_and_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = _program(tmp_path, f"sleep 300 & echo $$ $! >{pids}; wait")
    started = time.monotonic()
    with pytest.raises(ToolError, match=r"did not end within 3 s and was killed") as caught:
        run([program], timeout=3)
    assert caught.value.problem is Problem.TOOL
    assert (caught.value.argv, caught.value.status) == ((program,), None)
    assert _sent(caught.value).status is None
    assert time.monotonic() - started < 60
    for pid in pids.read_text().split():
        _wait_until_gone(int(pid))


def test_timeout_kills_a_program_that_ignores_signals(tmp_path: Path) -> None:
    program = _program(tmp_path, "trap '' TERM INT HUP; while :; do sleep 1; done")
    with pytest.raises(RvssError, match="was killed"):
        run([program], timeout=0.5)


def test_timeout_holds_when_a_child_in_its_own_session_keeps_the_output_open(
    tmp_path: Path,
) -> None:
    """Such a child cannot be killed with the program's group: it must not hold us up."""
    pid = tmp_path / "pid"
    program = _program(tmp_path, f"setsid sh -c 'echo $$ >{pid}; exec sleep 30' & wait")
    started = time.monotonic()
    try:
        with pytest.raises(RvssError, match="was killed"):
            run([program], timeout=3)
        assert time.monotonic() - started < 25
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)
        _wait_until_gone(int(pid.read_text()))


def test_a_named_program_is_over_when_it_exits(tmp_path: Path) -> None:
    """What it leaves running holds its output, and is let go on."""
    left = tmp_path / "left"
    started = time.monotonic()
    call([_program(tmp_path, f"sleep 60 & echo $! > {left}")], timeout=30, env={})
    assert time.monotonic() - started < 20
    pid = int(left.read_text())
    assert not _gone(pid)
    os.kill(pid, signal.SIGKILL)


def test_of_what_a_named_program_says_the_end_is_kept(tmp_path: Path) -> None:
    program = _program(tmp_path, "head -c 30000000 /dev/zero; echo no such database >&2; exit 3")
    with pytest.raises(ToolError) as caught:
        call([program], timeout=60, env={})
    assert (caught.value.status, len(caught.value.stdout)) == (3, 4096)
    assert caught.value.said.endswith("no such database")


def test_a_named_program_has_an_end(tmp_path: Path) -> None:
    program = _program(tmp_path, "exec >&- 2>&-; sleep 60")
    with pytest.raises(ToolError, match="did not end within"):
        call([program], timeout=0.3, env={})
    with pytest.raises(Stopped):
        call([program], timeout=60, env={}, stopped=lambda: True)
    call([_program(tmp_path, 'test "$A" = b')], timeout=60, env={"A": "b"})


def _called(program: str) -> None:
    call([program], timeout=60, env={})


def test_programs_of_a_child_that_was_killed_can_be_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = _program(tmp_path, f"sleep 60 & echo $! > {pid}.new; mv {pid}.new {pid}; wait")
    with Child(apart=True) as child:
        with pytest.raises(TimeoutError):
            child.call(0.0, _called, program)
        wait_until("it runs", pid.exists)
        os.kill(child.pid, signal.SIGKILL)
        end_session(child.pid)
        _wait_until_gone(int(pid.read_text()))


@pytest.mark.parametrize("answers", [True, False])
def test_a_child_whose_owner_was_killed_ends_without_a_word(*, answers: bool) -> None:
    """Whether that was before it answered, or before the answer was read."""
    code = "import sys; from samba_rvss.child import serve; serve(int(sys.argv[1]), None)"
    owner, end = Pipe()
    with closing(owner), closing(end):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(end.fileno())],
            pass_fds=[end.fileno()],
            stderr=subprocess.PIPE,
            env=environment({"PYTHONPATH": str(Path(__file__).parents[2])}),
        )
        with process:
            end.close()
            owner.send(("os", "getpid", (), {}))
            if answers:
                assert owner.poll(30)
            owner.close()
            _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.require("root")
@pytest.mark.parametrize(("preferred", "expected"), [(True, -10), (False, 0)])
def test_what_is_not_to_be_preferred(*, preferred: bool, expected: int) -> None:
    """Whoever has started it stays so."""
    code = "import os, sys; sys.stdin.read(); print(os.getpriority(os.PRIO_PROCESS, 0))"
    found: list[int] = []

    def work() -> None:
        prefer()
        said = run([sys.executable, "-c", code], timeout=60, text="now", preferred=preferred)
        found.extend((int(said), nice()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [expected, -10]
