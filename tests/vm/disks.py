"""A test machine whose disks outlive it: it can be booted, lose its power, and be booted again.

Place: beside `machine`, above `qemu`; for tests of reboots and of power losses. Contract: the
disks are files in a directory that belongs to the caller; nothing else is left of a boot. Every
boot runs one command, started once multi-user.target is reached, with this checkout at CHECKOUT.

What a power loss takes: all that the guest's kernel had not written to its disks, and all that it
had written and not yet flushed which QEMU still kept for itself, namely which clusters of the
qcow2 file hold what (`cache=writeback`). What the guest flushed is kept: QEMU has written it to
the host's files by then, and the host does not crash. What reached QEMU without a flush may be
kept or lost, each write by itself, as with a disk's own cache.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from samba_rvss.errors import RvssError
from samba_rvss.run import run
from tests.vm import image, qemu
from tests.vm.machine import CHECKOUT, Result, pack, unpack

if TYPE_CHECKING:
    import subprocess

BOOT_SECONDS = 2400.0
LONG_SECONDS = 2400.0  # where packages are installed
_REBOOTED = b"reboot: Restarting system"
_MORE = {"btrfs": "2G", "zfs": "2G"}


class Running:
    """A machine that runs its command.

    Args:
        ends: what it is connected to.
        seconds: its life.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", port: int, ends: qemu.Ends, seconds: float
    ) -> None:
        self._process = process
        self._port = port
        self._ends = ends
        self._deadline = time.monotonic() + seconds
        self._said = bytearray()
        self._read = 0

    def line(self) -> str | None:
        """Return the next line of the command's output, or None at its end.

        Raises:
            RvssError: TOOL if none comes within the machine's life.
        """
        while (end := self._said.find(b"\n", self._read)) < 0:
            piece = qemu.read(self._port, self._deadline)
            if piece is None:
                raise self.dead("it was still running at its end and was killed")
            if not piece:
                return None
            self._said += piece
        line = self._said[self._read : end].decode("utf-8", "replace")
        self._read = end + 1
        return line

    def cut(self) -> None:
        """Take its power away, in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> Result:
        """Let the command end and the machine reboot in good order, and return what came of it.

        Raises:
            RvssError: TOOL if it crashed, hung, or did not reboot as systemd does.
        """
        while self.line() is not None:
            pass
        self._process.wait()
        found = unpack(self._ends.target)
        if found is None or _REBOOTED not in self.console():
            raise self.dead("it ended before its command did, or without a reboot")
        return Result(status=found[0], output=bytes(self._said), files=found[1])

    def console(self) -> bytes:
        """Return what the kernel and systemd have said."""
        return qemu.content(self._ends.console)

    def dead(self, message: str) -> RvssError:
        """Return an error with the last that was heard of it."""
        return qemu.dead(message, self._ends, bytes(self._said))


class Disks:
    """The disks of one machine: its root, and one for each file system of the shares.

    Args:
        directory: where the files are to be; it must exist.
        below: the disks that these begin as; they must not change any more. Without, the root
            disk begins as the image's, and the others empty.
    """

    def __init__(self, directory: Path, below: "Disks | None" = None) -> None:
        self._built = image.image()
        self._files = {name: directory / f"{name}.qcow2" for name in ("root", *_MORE)}
        for name, file in self._files.items():
            words = ["qemu-img", "create", "-q", "-f", "qcow2"]
            if below is not None:
                words += ["-F", "qcow2", "-b", str(below._files[name]), str(file)]
            elif name == "root":
                words += ["-F", "raw", "-b", str(self._built.root), str(file)]
            else:
                words += [str(file), _MORE[name]]
            run(words, timeout=60)

    @contextmanager
    def boot(
        self,
        command: Sequence[str],
        *,
        seconds: float = BOOT_SECONDS,
        more: Mapping[str, Path] = MappingProxyType({}),
    ) -> Iterator[Running]:
        """Boot a machine with these disks, from nothing, and lose its power at the end.

        Args:
            command: argv, started in CHECKOUT as root.
            seconds: the machine's life.
            more: files for it besides the checkout, by where they are to be.
        """
        root, *others = self._files.values()
        start = qemu.Start(
            disk=f"file={root},format=qcow2",
            arguments=qemu.cold(self._built).arguments,
            cache="writeback",
        )
        words = [f"file={file},format=qcow2,if=virtio,cache=writeback" for file in others]
        drives = [word for drive in words for word in ("-drive", drive)]
        with qemu.new_ends() as ends:
            pack(ends.source, command, {}, more)
            with qemu.machine(start, ends, drives) as (process, port):
                yield Running(process, port, ends, seconds)

    def run(
        self,
        command: Sequence[str],
        *,
        seconds: float = BOOT_SECONDS,
        more: Mapping[str, Path] = MappingProxyType({}),
    ) -> Result:
        """Boot, let a command run, and reboot in good order.

        Raises:
            RvssError: TOOL if the machine failed, or the command did.
        """
        with self.boot(command, seconds=seconds, more=more) as running:
            result = running.finish()
            if result.status:
                raise running.dead(f"the command ended with status {result.status}")
        return result


def furnished(directory: Path, package: Path) -> tuple[Disks, Result]:
    """Return the disks of a machine on which an administrator has set everything up.

    Args:
        directory: where the files are to be.
        package: what he installs.

    Returns:
        the disks, and what came of setting it up.

    Raises:
        RvssError: TOOL.
    """
    disks = Disks(directory)
    place = f"/root/{package.name}"
    words = ["sh", f"{CHECKOUT}/tests/vm/furnish.sh", place]
    result = disks.run(words, seconds=LONG_SECONDS, more={place: package})
    return disks, result
