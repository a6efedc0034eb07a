"""A virtual machine, as far as its disk goes: a VHDX and a qemu-io that keeps writing to it.

Place: a rig for tests and for the demonstration; it stands on `run`. Contract: leaving the
context ends the process; whoever owns the directory of the disk removes the disk. Nothing here
knows of shadow copies: a disk is a path, wherever it was copied to.

The disk holds known content, a block that says whether the machine runs, and then the machine's
writes, each in a part of the disk that had none before. Such a write changes the block allocation
table and so goes through VHDX's log ([MS-VHDX] 2.3): a copy of the disk taken at that instant has a
log to be replayed.
"""

import json
import secrets
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import environment, run, tool
from samba_rvss.testing.undoing import Undoing

KNOWN = 8 << 20
"""Bytes of known content at the beginning of the disk."""

SIZE = 8 << 30
"""Size of the disk, in bytes; almost all of it is a hole."""

_SECONDS = 30.0
_FIRST = 16 << 20
_STRIDE = 1 << 20
_BLOCK = 4096
_RUNNING, _SHUT_DOWN = 0x11, 0x22


def make_disk(disk: Path, known: Path) -> None:
    """Make a VHDX and a raw file whose beginnings are random and the same."""
    with known.open("wb") as raw:
        raw.write(secrets.token_bytes(KNOWN))
        raw.write(bytes([_RUNNING]) * _BLOCK)
        raw.truncate(SIZE)
    words = ["-f", "raw", "-O", "vhdx", "-o", f"block_size={_STRIDE}", str(known), str(disk)]
    run(["qemu-img", "convert", *words], timeout=_SECONDS)


def repair(disk: Path) -> bool:
    """Make a disk that was copied from a running machine consistent.

    Returns:
        Whether its log held something and was replayed.

    Raises:
        RvssError: TOOL if it is beyond repair.
    """
    out = run(["qemu-img", "check", "-f", "vhdx", "-r", "all", str(disk)], timeout=_SECONDS)
    return "repaired" in out


def shut_down(disk: Path) -> None:
    """Note on a repaired disk that its machine does not run."""
    command = f"write -P {_SHUT_DOWN} {KNOWN} {_BLOCK}"
    run(["qemu-io", "-f", "vhdx", "-c", command, str(disk)], timeout=_SECONDS)


def says_running(disk: Path) -> bool:
    """Return whether the disk says that its machine runs."""
    return _holds(disk, [f"read -P {_RUNNING} {KNOWN} {_BLOCK}"])


def says_shut_down(disk: Path) -> bool:
    """Return whether `shut_down` was called on the disk or on what it is a copy of."""
    return _holds(disk, [f"read -P {_SHUT_DOWN} {KNOWN} {_BLOCK}"])


def verdict(disk: Path) -> str:
    """Return what qemu-img finds wrong with a disk, without changing it; empty if nothing."""
    words = ["qemu-img", "check", "-f", "vhdx", str(disk)]
    try:
        out = run(words, timeout=_SECONDS)
    except RvssError as exc:
        return str(exc)
    return "" if "No errors were found" in out else out.strip()


def known_is_intact(disk: Path, known: Path) -> bool:
    """Return whether the disk's beginning still equals that of the raw file."""
    files = [{"driver": "file", "filename": str(path)} for path in (known, disk)]
    parts = [files[0], {"driver": "vhdx", "file": files[1]}]
    images = [{"driver": "raw", "offset": 0, "size": KNOWN, "file": part} for part in parts]
    words = [f"json:{json.dumps(image)}" for image in images]
    out = run(["qemu-img", "compare", *words], timeout=_SECONDS, allow=frozenset({0, 1}))
    return out.strip() == "Images are identical."


def has_writes(disk: Path, numbers: Iterable[int]) -> bool:
    """Return whether a disk has all of these writes of its machine."""
    return _holds(disk, [f"read {_place(number)}" for number in numbers])


def lacks_writes(disk: Path, numbers: Iterable[int]) -> bool:
    """Return whether a disk has none of these writes of its machine."""
    places = [_place(number, pattern=0) for number in numbers]
    return _holds(disk, [f"read {place}" for place in places])


def _place(number: int, pattern: int | None = None) -> str:
    """Return pattern, offset and length of a write, as qemu-io wants them."""
    value = number % 255 + 1 if pattern is None else pattern
    return f"-P {value} {_FIRST + number * _STRIDE} {_BLOCK}"


def _holds(disk: Path, commands: Sequence[str]) -> bool:
    words = [word for command in commands for word in ("-c", command)]
    argv = ["qemu-io", "-r", "-f", "vhdx", *words, str(disk)]
    out = run(argv, timeout=_SECONDS, allow=frozenset({0, 1}))
    # The exit status does not tell which command failed, or whether the disk could be opened.
    read = sum(line.startswith(f"read {_BLOCK}/{_BLOCK} bytes") for line in out.splitlines())
    return read == len(commands) and "verification failed" not in out


class Machine(Undoing):
    """A context manager: a machine that writes block after block, each when the last is on disk.

    A true point-in-time copy of its disk therefore holds an unbroken series.

    Args:
        disk: what `make_disk` made.
        uid, gid: the user and group of its process.

    Attributes:
        pause: seconds between two writes.
        begun: number of the last write that was sent; the first is 1.
        done: number of the last write that was acknowledged.
    """

    def __init__(self, disk: Path, *, uid: int, gid: int) -> None:
        super().__init__()
        self._disk = disk
        self._uid, self._gid = uid, gid
        self._process: subprocess.Popen[str] | None = None
        self._end = threading.Event()
        self._failure = ""
        self.pause = 0.0
        self.begun = self.done = 0

    def _set_up(self) -> None:
        self._process = process = subprocess.Popen(
            [tool("qemu-io"), "-f", "vhdx", str(self._disk)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
            user=self._uid,
            group=self._gid,
            extra_groups=(),
            start_new_session=True,
            text=True,
        )
        self._thread = threading.Thread(target=self._write, args=(process,), daemon=True)
        self._thread.start()
        self._undo.callback(self.stop)

    def stop(self) -> None:
        """End it after the write that is under way; nothing to do if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        self._end.set()
        self._thread.join(_SECONDS)
        if self._thread.is_alive():
            process.kill()
            self._thread.join()
        try:
            process.communicate(timeout=_SECONDS)  # closes its input, at whose end it ends
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def wait_until(self, done: int) -> None:
        """Wait until so many writes are acknowledged.

        Raises:
            RvssError: TOOL if the machine has failed, or does not come so far within 30 s.
        """
        deadline = time.monotonic() + _SECONDS
        while self.done < done:
            if self._failure or time.monotonic() > deadline:
                said = self._failure or f"only {self.done} of {done} blocks are written"
                raise RvssError(Problem.TOOL, f"the machine that writes to {self._disk}: {said}")
            time.sleep(0.002)

    def _write(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while not self._end.wait(self.pause):
                self.begun += 1
                print(f"write {_place(self.begun)}", file=process.stdin, flush=True)
                for line in process.stdout:
                    if f"wrote {_BLOCK}/{_BLOCK} bytes" in line:
                        break
                    if "failed" in line:
                        self._failure = line.strip()
                        return
                else:
                    self._failure = "qemu-io has ended"
                    return
                self.done = self.begun
        except OSError as exc:
            self._failure = f"qemu-io has ended ({exc.strerror})"
