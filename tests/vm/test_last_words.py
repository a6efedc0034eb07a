"""What is told of a machine that came to a bad end: its last words, whatever their number."""

import subprocess
from pathlib import Path

import pytest

from tests.vm import background, machine, qemu

CHATTER = [f"[ 1.{number}] systemd[1]: Started unit {number}." for number in range(200)]
PANIC = "[ 2.0] Kernel panic - not syncing: sysrq triggered crash"


@pytest.mark.parametrize("frames", [0, 20, 70, 300])
def test_a_panic_is_told_from_its_first_line_on(frames: int) -> None:
    trace = [f"[ 2.1]  ? do_syscall_64+{number:#x}/0x180" for number in range(frames)]
    told = qemu.last_words("\r\n".join([*CHATTER, PANIC, *trace]))
    assert PANIC in told
    assert told[-frames:] == trace[-frames:] or not frames
    assert len(told) == max(60, frames + 1)


def test_without_a_panic_the_end_is_told() -> None:
    assert qemu.last_words("\n".join(CHATTER)) == CHATTER[-60:]
    assert qemu.last_words("\n".join(CHATTER[:3])) == CHATTER[:3]
    assert qemu.last_words("") == []


@pytest.mark.parametrize("lines", [1, 100])
def test_what_the_machines_program_says_is_told_whole(tmp_path: Path, lines: int) -> None:
    """It names the reason first, and repeats the end of the job's output after it."""
    own = [f"{machine.NAME}: it crashed: the end of its console:", PANIC, *CHATTER[:lines]]
    (tmp_path / "output").write_text("\n".join(["begun", *CHATTER, *own]))
    with subprocess.Popen(["true"]) as process:
        process.wait()
        ended = background.Background(nodes=["a", "b"], directory=tmp_path, process=process)
    told = ended.explain().splitlines()
    assert "it crashed" in told[1]
    assert told[2:] == [PANIC, *CHATTER[:lines]]
    assert ended.explain() == "it did not run, see the first such test"


def test_of_a_program_that_says_nothing_the_end_is_told(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("\n".join(CHATTER))
    with subprocess.Popen(["false"]) as process:
        process.wait()
        ended = background.Background(nodes=["a"], directory=tmp_path, process=process)
    told = ended.explain().splitlines()
    assert "ended with status 1" in told[0]
    assert told[1:] == CHATTER[-60:]
