"""The test machine's hardware, and a machine that has booted already.

Place: between `image` and `machine`. Contract: a machine lives as long as its ``with`` block, and
no longer than the process that started it. `booted` boots an image once, to where it waits for a
job, and keeps memory and disk beside the image; every job then starts from there, since a boot
costs an emulated processor most of a minute.
"""

import hashlib
import json
import os
import selectors
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import environment, run, tool
from tests.vm import image

BOOT_SECONDS = 600.0
SOURCE_SIZE = 64 << 20  # bytes; the disk with the job, a sparse file
TARGET_SIZE = 256 << 20  # bytes; the disk for results, a sparse file
_SHOWN_LINES = 60
_PANIC = "Kernel panic - not syncing"

# `-cx16`: QEMU 7.2 ends in a double fault in kernel 6.12's cmpxchg16b. What else is taken away
# costs an emulated processor more than it gives: wide vectors, checks on every access, a fifth
# level of page tables, and a second processor, whose locks become calls. `-icount`: its clock goes
# on with what it does, so that time limits of tests hold however busy the host is. Hardware
# acceleration is not tried: nested in another virtual machine it may hang instead of failing.
_HARDWARE = (
    "-nodefaults -no-user-config -display none -nic none -no-reboot"
    " -accel tcg,thread=single,tb-size=1024 -smp 1 -m 3G"
    " -cpu max,-cx16,-avx,-avx2,-smap,-smep,-pku,-umip,-la57"
    " -icount shift=1,sleep=on -rtc clock=vm"
    " -device virtio-rng-pci -device virtio-serial-pci"
    " -device virtserialport,chardev=output,name=job"
)
# `norandmaps`: QEMU keeps what it has translated by virtual address. Without it every program is
# translated anew at each start, and /bin/true takes four times as long.
_KERNEL_ARGUMENTS = (
    "root=/dev/vda rw rootflags=noatime console=ttyS0 loglevel=5 panic=-1 fsck.mode=skip"
    " nokaslr norandmaps mitigations=off audit=0 systemd.show_status=1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The host's ends of what a machine is connected to: files without a name.

    Attributes:
        source: the disk with the job.
        target: the disk for results.
        console: what the kernel and systemd say.
        said: what QEMU itself says.
    """

    source: IO[bytes]
    target: IO[bytes]
    console: IO[bytes]
    said: IO[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """From where a machine starts: its disk, and QEMU's arguments for the rest.

    ``cache`` is how QEMU treats that disk; the default forgets what it is told to write out.
    """

    disk: str
    arguments: Sequence[str]
    cache: str = "unsafe"


@contextmanager
def new_ends() -> Iterator[Ends]:
    """Make the files for one machine; the disks are empty."""
    with ExitStack() as stack:
        source, target, console, said = (
            stack.enter_context(tempfile.TemporaryFile(prefix="samba-rvss-vm-")) for _ in range(4)
        )
        source.truncate(SOURCE_SIZE)
        target.truncate(TARGET_SIZE)
        yield Ends(source=source, target=target, console=console, said=said)


def cold(built: image.Image) -> Start:
    """Return the start from nothing; what is written to the image is forgotten."""
    boot = ["-kernel", str(built.kernel), "-initrd", str(built.initrd)]
    return Start(
        disk=f"file={built.root},format=raw,snapshot=on",
        arguments=[*boot, "-append", _KERNEL_ARGUMENTS],
    )


def booted(built: image.Image) -> Start:
    """Return the start from a machine that waits for its job; boot it where there is none.

    Raises:
        RvssError: it did not boot; the error holds the end of what its console said.
    """
    version = run(["qemu-system-x86_64", "--version"], timeout=60)
    made_from = repr((version, _HARDWARE, _KERNEL_ARGUMENTS, SOURCE_SIZE, TARGET_SIZE))
    name = f"booted-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    home = built.root.parent / name
    if not home.is_dir():
        with image.lock(time.monotonic() + 2 * BOOT_SECONDS):
            if not home.is_dir():
                _boot(built, home)
    return Start(
        disk=f"file={home / 'disk.qcow2'},format=qcow2,snapshot=on",
        arguments=["-incoming", f"exec:cat {shlex.quote(str(home / 'memory'))}"],
    )


def _boot(built: image.Image, home: Path) -> None:
    """Boot a machine and keep its memory and disk; the lock is ours."""
    partial = home.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with ExitStack() as guard:
        partial.mkdir(mode=0o700)
        guard.callback(shutil.rmtree, partial)
        disk = str(partial / "disk.qcow2")
        base = os.path.join("..", built.root.name)
        form = ["-q", "-f", "qcow2", "-F", "raw", "-b", base]
        run(["qemu-img", "create", *form, disk], timeout=60)
        start = Start(disk=f"file={disk},format=qcow2", arguments=cold(built).arguments)
        ours, theirs = socket.socketpair()
        with ours, theirs, new_ends() as ends:
            control = ["-chardev", f"socket,id=control,fd={theirs.fileno()}"]
            control += ["-mon", "chardev=control,mode=control"]
            with machine(start, ends, control, [theirs.fileno()]) as (process, port):
                theirs.close()
                _wait_until_ready(port, ends)
                _save(ours, partial / "memory")
                process.wait(60)
        partial.rename(home)
        guard.pop_all()


def _wait_until_ready(port: int, ends: Ends) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    heard = b""
    while b"ready\n" not in heard:
        piece = read(port, deadline)
        if not piece:
            raise dead(f"it did not boot within {BOOT_SECONDS:g} s, or ended", ends, heard)
        heard += piece


def _save(control: socket.socket, memory: Path) -> None:
    """Let QEMU write a machine's memory to a file, and end."""
    control.settimeout(BOOT_SECONDS)
    with control.makefile("rw", encoding="utf-8") as stream:
        stream.readline()  # its greeting
        _ask(stream, "qmp_capabilities")
        _ask(stream, "migrate", {"uri": f"exec:cat >{shlex.quote(str(memory))}"})
        deadline = time.monotonic() + BOOT_SECONDS
        while (status := _ask(stream, "query-migrate").get("status")) != "completed":
            if status in {"failed", "cancelled"} or time.monotonic() > deadline:
                raise RvssError(Problem.TOOL, f"QEMU could not save the test machine: {status}")
            time.sleep(0.2)
        _ask(stream, "quit")


def _ask(stream: IO[str], command: str, arguments: object = None) -> dict[str, Any]:
    """Give QEMU a command in its JSON protocol and return the answer; events are passed over."""
    words = {"execute": command, **({"arguments": arguments} if arguments else {})}
    stream.write(json.dumps(words))
    stream.flush()
    for line in stream:
        message: dict[str, Any] = json.loads(line)
        if "return" in message:
            return dict(message["return"])
        if "error" in message:
            raise RvssError(Problem.TOOL, f"QEMU refused {command}: {message['error']['desc']}")
    raise RvssError(Problem.TOOL, f"QEMU ended when it was asked to {command}")


@contextmanager
def machine(
    start: Start, ends: Ends, more: Sequence[str] = (), inherited: Sequence[int] = ()
) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """Start a machine; the kernel kills it should we be killed.

    Args:
        start: from where.
        ends: what it is connected to.
        more: more arguments of QEMU.
        inherited: descriptors that these name.

    Returns:
        QEMU, and a descriptor from which the job's output can be read.
    """
    port, output = os.pipe()
    numbers = [ends.source.fileno(), ends.target.fileno(), ends.console.fileno(), output]
    source, target, console, pipe = (f"/proc/self/fd/{number}" for number in numbers)
    words = [
        *("setpriv", "--pdeathsig", "KILL", tool("qemu-system-x86_64"), *_HARDWARE.split()),
        *("-drive", f"{start.disk},if=virtio,cache={start.cache}"),
        *("-drive", f"file={source},format=raw,readonly=on,if=virtio,cache=unsafe"),
        *("-drive", f"file={target},format=raw,if=virtio,cache=unsafe"),
        *("-serial", f"file:{console}"),
        *("-chardev", f"file,id=output,path={pipe}"),
        *start.arguments,
        *more,
    ]
    with ExitStack() as stack:
        stack.callback(os.close, port)
        with ExitStack() as guard:
            guard.callback(os.close, output)
            process = stack.enter_context(
                subprocess.Popen(
                    [tool(words[0]), *words[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=ends.said,
                    stderr=subprocess.STDOUT,
                    env=environment({"TMPDIR": tempfile.gettempdir()}),
                    pass_fds=[*numbers, *inherited],
                    start_new_session=True,
                )
            )
        stack.callback(process.kill)
        _give_way_alike(process.pid)
        yield process, port


def _give_way_alike(pid: int) -> None:
    """Give a process's session the niceness that we have.

    Where the kernel groups tasks by their sessions, that alone counts between them (sched(7), "The
    autogroup feature").
    """
    with suppress(OSError):  # it does not, or the process has ended
        Path(f"/proc/{pid}/autogroup").write_text(str(os.nice(0)), "ascii")


def read(port: int, deadline: float) -> bytes | None:
    """Return the next piece of output; nothing at its end, None if none comes in time."""
    with selectors.DefaultSelector() as selector:
        selector.register(port, selectors.EVENT_READ)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            return None
        return os.read(port, 1 << 16)


def dead(message: str, ends: Ends, output: bytes) -> RvssError:
    """Return an error with the last that was heard of a machine."""
    words = []
    for title, text in (
        ("QEMU said", content(ends.said)),
        ("the end of its console", content(ends.console)),
        ("the end of the job's output", output),
    ):
        lines = last_words(text.decode("utf-8", "replace"))
        words += [f"{title}:", *lines] if lines else []
    return RvssError(Problem.TOOL, f"the test machine failed: {message}", "\n".join(words))


def last_words(said: str) -> list[str]:
    """Return the last lines of what a machine said, and a kernel's panic from its first line on.

    How many lines a panic has nobody knows: its trace names every return address that is still on
    the stack, those of calls that are over included, and these are none or fifty.
    """
    lines = said.splitlines()
    panics = [number for number, line in enumerate(lines) if _PANIC in line]
    return lines[min(max(0, len(lines) - _SHOWN_LINES), *panics[-1:], len(lines)) :]


def content(file: IO[bytes]) -> bytes:
    """Return what QEMU has written to a file that it shares with us."""
    # QEMU has opened it once more: our offset is not its.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
