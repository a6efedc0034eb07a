"""Hearing of changes of the mount table, for an event loop that waits for reading only."""

import os
import select


class MountWatch:
    """A descriptor that can be read once the mount table has changed; its owner closes it.

    /proc/self/mountinfo can always be read, and says by POLLPRI that it has changed
    (fs/proc_namespace.c, mounts_poll()); an epoll instance around it can be read then only.
    """

    def __init__(self) -> None:
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._epoll = select.epoll()
            self._epoll.register(self._table, select.EPOLLPRI)
        except BaseException:
            os.close(self._table)
            raise

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._epoll.fileno()

    def heard(self) -> None:
        """Have the descriptor wait for the next change; this does not block."""
        self._epoll.poll(0)

    def close(self) -> None:
        """Close it."""
        self._epoll.close()
        os.close(self._table)
