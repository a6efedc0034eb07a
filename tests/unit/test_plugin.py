"""What a test is said to have left behind."""

import os
import signal
import subprocess

import pytest

from samba_rvss.testing.leftovers import ASIDE, belongings

_PROGRAM = 'read go; sh -c "sleep 60 & echo started; wait" & wait'


def _started_below(program: "subprocess.Popen[bytes]") -> list[str]:
    """Let a program start others, and return what is told of them."""
    assert program.stdin is not None
    assert program.stdout is not None
    before = belongings()
    program.stdin.write(b"\n")
    program.stdin.flush()
    program.stdout.readline()
    return sorted(words for key, words in belongings().items() if key not in before)


@pytest.mark.parametrize("aside", [False, True])
def test_what_is_started_by_who_works_aside_is_no_test_s(*, aside: bool) -> None:
    pipe, words = subprocess.PIPE, ["sh", "-c", _PROGRAM]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, start_new_session=True) as program:
        try:
            if aside:
                ASIDE.add(program.pid)
            told = _started_below(program)
        finally:
            ASIDE.discard(program.pid)
            os.killpg(program.pid, signal.SIGKILL)
    assert len(told) == (0 if aside else 2), told
