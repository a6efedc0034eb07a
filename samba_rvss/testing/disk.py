"""A disk that stands still, fails or answers late when a test wants it: a file, for a loop device.

Place: a rig for tests; it stands on `run`. nbdkit serves memory with faults in between, and nbdfuse
shows it as a file (nbdkit-pause-filter(1), nbdkit-error-filter(1), nbdkit-delay-filter(1)), because
not every kernel has device-mapper. Contract: entering starts both; leaving lets the disk go on and
ends both. Whoever uses the file has let go of it by then.
"""

import os
import socket
import subprocess
from pathlib import Path

from samba_rvss.kernel import files
from samba_rvss.run import environment, run, tool
from samba_rvss.testing.undoing import Undoing
from samba_rvss.testing.waiting import wait_until

_SECONDS = 30.0


class SickDisk(Undoing):
    """A context manager: a disk in memory, healthy at first.

    Args:
        directory: where to put its file and sockets; it must exist.
        size: in bytes.
        delay: seconds that each reading and each writing takes.

    Attributes:
        file: the disk.
    """

    def __init__(self, directory: Path, *, size: int = 256 << 20, delay: float = 0.0) -> None:
        super().__init__()
        self._directory = directory / "disk"
        self._size = size
        self._delay = delay
        self.file = self._directory / "mount" / "disk"

    def _set_up(self) -> None:
        self._directory.mkdir(mode=0o700)
        self._undo.callback(self._directory.rmdir)
        mount = self.file.parent
        mount.mkdir()
        self._undo.callback(mount.rmdir)
        filters, options = ["pause", "error"], []
        if self._delay:
            filters.append("delay")
            # nbdkit-delay-filter(1): seconds have no fractions.
            each = f"{round(self._delay * 1000)}ms"
            options = [f"rdelay={each}", f"wdelay={each}"]
        self._start(
            tool("nbdkit"),
            "--foreground",
            "--unix",
            str(self._socket),
            *(f"--filter={name}" for name in filters),
            "memory",
            f"size={self._size}",
            f"pause-control={self._control}",
            "error=EIO",
            "error-rate=100%",
            f"error-file={self._trigger}",
            *options,
        )
        self._undo.callback(self._clear)
        wait_until("nbdkit", self._socket.exists, _SECONDS)
        self._start(tool("nbdfuse"), str(self.file), "--unix", str(self._socket))
        self._undo.callback(self._unmount)
        wait_until("nbdfuse", self.file.exists, _SECONDS)
        self._undo.callback(self.heal)

    @property
    def _socket(self) -> Path:
        return self._directory / "nbd"

    @property
    def _control(self) -> Path:
        return self._directory / "control"

    @property
    def _trigger(self) -> Path:
        return self._directory / "fails"

    def _start(self, *argv: str) -> "subprocess.Popen[bytes]":
        null = subprocess.DEVNULL
        process = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, env=environment())
        self._undo.callback(process.wait, _SECONDS)
        self._undo.callback(process.terminate)
        return process

    def _unmount(self) -> None:
        run(["umount", "--lazy", str(self.file.parent)], timeout=_SECONDS)

    def _clear(self) -> None:
        for path in (self._socket, self._control, self._trigger):
            path.unlink(missing_ok=True)

    def _forget(self) -> None:
        """Have the kernel read from the disk what it has of the file in memory."""
        with files.opened(os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)) as fd:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _say(self, letter: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(_SECONDS)
            control.connect(str(self._control))
            control.sendall(letter)
            if control.recv(1).lower() != letter:
                raise AssertionError(letter)

    # faults

    def stand_still(self) -> None:
        """Answer nothing from now on."""
        self._forget()
        self._say(b"p")

    def fail(self) -> None:
        """Answer with an input/output error from now on."""
        self._forget()
        self._trigger.touch()

    def heal(self) -> None:
        """Work as a healthy disk does, and answer what has waited."""
        self._trigger.unlink(missing_ok=True)
        self._say(b"r")
