#!/usr/bin/python3
"""The test machine: Debian with OpenZFS and Samba, emulated, anew for each job.

Place: above `qemu` and `image`; for tests that need a kernel or a Samba which this machine has
not, and a tool: `tests/vm/machine.py run -- COMMAND...`. Contract: a job gets this checkout at
CHECKOUT, runs as root with all of systemd around it, and gives back its exit status, its output
and the files that it put into $JOB_RESULTS. The machine is gone when the call ends, however it
ends; its files never had a name. What a job writes is forgotten.

The checkout goes in on a second disk, files come out on a third one, and the output through a
virtual port of its own, where no kernel message can mix with it.
"""

import argparse
import io
import os
import shlex
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # we may have been started as a program

from samba_rvss.errors import Problem, RvssError  # noqa: E402
from samba_rvss.run import run  # noqa: E402
from tests.vm import image, qemu  # noqa: E402

NAME = "machine.py"
CHECKOUT = "/root/samba-rvss"
JOB_SECONDS = 1800.0
_FAILED = 125  # as env(1) and timeout(1) when they themselves fail

# What the job's service runs. A shell's redirection, because the port is no terminal.
_SCRIPT = """\
exec </dev/null >/dev/virtio-ports/job 2>&1
{clock}
export HOME=/root PYTHONUNBUFFERED=1 LC_ALL=C.UTF-8 JOB_RESULTS=/run/job/results {environment}
mkdir -p "$JOB_RESULTS" && cd {checkout}
{command}
echo $? >/run/job/status
tar -c -C /run/job status results | dd of=/dev/vdc bs=1M conv=fsync status=none
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a job gave back."""

    status: int
    output: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)


def run_job(
    command: Sequence[str],
    *,
    seconds: float = JOB_SECONDS,
    env: Mapping[str, str] | None = None,
    listen: Callable[[bytes], object] = lambda _: None,
    fresh: bool = False,
) -> Result:
    """Start the machine, run one command in it and switch it off.

    Args:
        command: argv, started in CHECKOUT as root.
        seconds: the machine's life.
        env: more variables for the command.
        listen: is called with each piece of output as it comes.
        fresh: boot for this job; else it starts from a machine that has booted before.

    Raises:
        RvssError: there is no such machine, or it hung or crashed; the error holds the end of
            what its console said.
    """
    built = image.image()
    start = qemu.cold(built) if fresh else qemu.booted(built)
    with qemu.new_ends() as ends:
        pack(ends.source, command, env or {}, now=time.time())
        output = bytearray()
        deadline = time.monotonic() + seconds
        with qemu.machine(start, ends) as (process, port):
            while (piece := qemu.read(port, deadline)) != b"":
                if piece is None:
                    message = f"it was still running after {seconds:g} s and was killed"
                    raise qemu.dead(message, ends, bytes(output))
                output.extend(piece)
                listen(piece)
            status = process.wait()
        found = unpack(ends.target)
        if found is None:
            message = f"it ended with status {status} before the job did"
            raise qemu.dead(message, ends, bytes(output))
        return Result(status=found[0], output=bytes(output), files=found[1])


def pack(
    disk: IO[bytes],
    command: Sequence[str],
    env: Mapping[str, str],
    more: Mapping[str, Path] = MappingProxyType({}),
    *,
    now: float | None = None,
) -> None:
    """Write a disk with a job and the checkout on it, as tar does.

    Args:
        disk: an empty file.
        command: argv, started in CHECKOUT.
        env: more variables for it.
        more: more files, by where they are to be in the machine.
        now: what the machine's clock is to say, in seconds since the epoch, if it is to be set.

    Raises:
        RvssError: NO_SPACE.
    """
    variables = " ".join(f"{name}={shlex.quote(text)}" for name, text in env.items())
    script = _SCRIPT.format(
        clock="" if now is None else f"date -u -s @{int(now)} >/dev/null",
        environment=variables,
        checkout=shlex.quote(CHECKOUT),
        command=shlex.join(command),
    ).encode()
    with tarfile.open(fileobj=disk, mode="w") as tar:
        member = tarfile.TarInfo("run/job/run")
        member.size = len(script)
        tar.addfile(member, io.BytesIO(script))
        for name in checkout():
            tar.add(ROOT / name, f"{CHECKOUT[1:]}/{name}", recursive=False, filter=_owned_by_root)
        for place, file in more.items():
            tar.add(file, place.removeprefix("/"), filter=_owned_by_root)
    disk.flush()
    if disk.tell() > qemu.SOURCE_SIZE:
        raise RvssError(Problem.NO_SPACE, f"{ROOT} is too large for the test machine")


def checkout() -> list[str]:
    """Return the names of this checkout's files, those included that are not committed yet."""
    git = ["git", "-C", str(ROOT), "-c", "safe.directory=*", "ls-files", "-z"]
    names = run([*git, "--cached", "--others", "--exclude-standard"], timeout=60).split("\0")
    return [name for name in sorted(set(names)) if name and os.path.lexists(ROOT / name)]


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def unpack(disk: IO[bytes]) -> tuple[int, dict[str, bytes]] | None:
    """Return the job's exit status and its files, or None if it did not come to its end."""
    disk.seek(0)
    files = {}
    try:
        with tarfile.open(fileobj=disk, mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None:
                    files[member.name] = content.read()
        status = int(files.pop("status"))
    except (tarfile.ReadError, KeyError, ValueError):
        return None
    return status, {name.removeprefix("results/"): text for name, text in files.items()}


def _print(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command in the machine, or only see that there is one; return an exit status."""
    parser = argparse.ArgumentParser(prog=NAME, description="The test machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="make the image, where it is missing, and print its place")
    runner = verbs.add_parser("run", help=f"run a command in {CHECKOUT}, the checkout's place")
    runner.add_argument("--seconds", type=float, default=JOB_SECONDS, help="the machine's life")
    runner.add_argument("--env", action="append", default=[], metavar="NAME=TEXT")
    runner.add_argument("--results", type=Path, help="a directory for the files in $JOB_RESULTS")
    runner.add_argument("--fresh", action="store_true", help="boot for it")
    runner.add_argument("command", nargs="+", help="the command, after --")
    chosen = parser.parse_args(argv)
    try:
        if chosen.verb == "build":
            print(image.image().root.parent)
            return 0
        env = dict(word.partition("=")[::2] for word in chosen.env)
        result = run_job(
            chosen.command, seconds=chosen.seconds, env=env, listen=_print, fresh=chosen.fresh
        )
    except RvssError as exc:
        # On a line of its own: the job may have ended in the middle of one.
        print(f"\n{NAME}: {exc}", file=sys.stderr)
        return _FAILED
    for name, content in result.files.items() if chosen.results else ():
        (chosen.results / name).parent.mkdir(parents=True, exist_ok=True)
        (chosen.results / name).write_bytes(content)
    return result.status


if __name__ == "__main__":
    raise SystemExit(main())
