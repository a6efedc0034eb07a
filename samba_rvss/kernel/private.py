"""A program in a mount namespace of its own, in which things are mounted that nobody else sees.

Contract: the namespace belongs to a thread that ends, and to the program that it has started. When
that and its children have ended, whatever ended them, the namespace is gone with all that is
mounted in it. What is mounted in it is seen nowhere else; what is unmounted outside goes there too,
or it would stay in use as long as the program runs.
"""

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from samba_rvss.kernel.libc import checked, libc
from samba_rvss.kernel.mounting import CLONE_NEWNS, MS_REC, MS_SLAVE

_PASSED_ON = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_SI_KERNEL = 0x80  # asm-generic/siginfo.h
# What Python ignores (Python/pylifecycle.c, init_signals()), and its children must not.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


def run(prepare: Callable[[], object], words: list[str], inherited: Sequence[int]) -> int:
    """Run a program to its end, with our environment, standard files and working directory.

    Signals are passed on to it. Those of a terminal are not: it gets them as we do.

    Args:
        prepare: is called in the namespace before the program starts, in a thread with a working
            directory of its own; the program starts in that.
        words: the program, which is looked for in PATH, and its arguments.
        inherited: descriptors that it gets besides.

    Returns:
        Its exit status; 128 and a signal's number if that ended it.

    Raises:
        OSError: it could not be started. What `prepare` raises.
    """
    waited = {*_PASSED_ON, signal.SIGCHLD}
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nobody is told
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)  # the thread's, too
    try:
        with ThreadPoolExecutor(1) as thread:
            child = thread.submit(_start, prepare, words, inherited, before).result()
        status = _wait(child, waited)
        _drop_told()
        return status
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGCHLD, handler)


def _start(
    prepare: Callable[[], object],
    words: list[str],
    inherited: Sequence[int],
    mask: set[int | signal.Signals],
) -> int:
    # CLONE_NEWNS implies CLONE_FS (unshare(2)): the other threads keep their directories.
    checked(libc.unshare(CLONE_NEWNS))
    # What covers a mount that goes stays where it is (fs/pnode.c, propagate_umount()).
    checked(libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None))
    prepare()
    for fd in inherited:
        os.set_inheritable(fd, True)  # noqa: FBT003 - it takes no keywords
    return os.posix_spawnp(words[0], words, os.environ, setsigmask=mask, setsigdef=_IGNORED)


def _drop_told() -> None:
    """Take away what a terminal has sent while nobody looked: the program, which has ended, had it.

    What somebody has sent to us alone comes when it is not blocked any more.
    """
    ours = []
    while told := signal.sigtimedwait(_PASSED_ON, 0):
        if told.si_code != _SI_KERNEL:
            ours.append(told.si_signo)
    for number in ours:
        os.kill(os.getpid(), number)


def _wait(child: int, waited: set[signal.Signals]) -> int:
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        told = signal.sigwaitinfo(waited)
        if told.si_signo in _PASSED_ON and told.si_code != _SI_KERNEL:
            os.kill(child, told.si_signo)
