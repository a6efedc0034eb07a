"""What a flood of refused connections costs a client that is served.

    /usr/bin/python3 tests/bench/flood.py [--rounds N] [--commits N] [--rate N] [--json]

Needs root, and what tests/run installs. A process of a user whom nobody has let in connects to the
hook's socket without end, as often a second as `--rate` says, while a client of Samba takes shadow
copies. Rounds with and without the flood alternate, so that both meet the same moods of the
machine; the processor that the flood itself takes is part of what it costs. Exit status 1 if a
sequence failed, or if a Commit in a flood takes longer than a backup program would notice.
"""

import argparse
import json
import math
import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.errors import RvssError
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.remote import Remote
from tests.samba.lanes import SHARES, lane

NOBODY = 65534
LIMIT = 1.0  # seconds for the 95th percentile of a Commit in a flood
AT_ONCE = 200  # connections that the flood has open: more than the daemon queues
SECONDS = 60.0


def flood(path: str, rate: float) -> None:
    """Connect until standard input ends; print how often a second, and how often refused.

    What the daemon has no place for in its queue, the kernel refuses.
    """
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    print("begun", flush=True)
    os.set_blocking(0, False)
    opened: deque[socket.socket] = deque()
    tried = answered = 0
    began = time.monotonic()
    while _goes_on():
        for _ in range(50):
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            tried += 1
            try:
                peer.connect(path)
            except BlockingIOError:
                peer.close()
            else:
                opened.append(peer)
            while len(opened) > AT_ONCE or (opened and _is_answered(opened[0])):
                answered += _is_answered(opened[0])
                opened.popleft().close()
        time.sleep(max(0.0, began + tried / rate - time.monotonic()))
    seconds = time.monotonic() - began
    print(json.dumps({"tried": tried / seconds, "refused": answered / seconds}))


def _goes_on() -> bool:
    with suppress(BlockingIOError):
        return bool(os.read(0, 1))
    return True


def _is_answered(peer: socket.socket) -> bool:
    try:
        return bool(peer.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    except OSError:  # it was closed before it was answered
        return True


@contextmanager
def flooded(path: Path, rate: float, told: list[dict[str, float]]) -> Iterator[None]:
    """Flood a socket for the time of the block, and append what the flood says of itself."""
    with subprocess.Popen(
        [sys.executable, __file__, "--flood", str(path), "--rate", str(rate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"begun\n"
            yield
        finally:
            out, _ = process.communicate(timeout=SECONDS)
        told.append(json.loads(out))


def commit_time(client: Remote) -> float:
    """Return the seconds that CommitShadowCopySet takes; the set is deleted again."""
    taken = CopySet(client)
    taken.prepare(SHARES[0])
    taken.commit()
    spent = taken.calls[-1].seconds
    taken.expose()
    taken.delete()
    return spent


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that a share of all do not exceed."""
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def measure(rounds: int, commits: int, rate: float) -> dict[str, float]:
    """Return the figures, times in seconds."""
    times: dict[bool, list[float]] = {False: [], True: []}
    told: list[dict[str, float]] = []
    failed = 0
    with ExitStack() as undo:
        made = undo.enter_context(lane("btrfs", {}))
        hook = made.rig.daemon.run_directory / "hook.sock"
        client = made.near(undo)
        commit_time(client)
        for _ in range(rounds):
            for floods in secrets.SystemRandom().sample([False, True], 2):
                with flooded(hook, rate, told) if floods else ExitStack():
                    for _ in range(commits):
                        try:
                            times[floods].append(commit_time(client))
                        except RvssError as exc:
                            print(f"{'flood' if floods else 'quiet'}: {exc}", file=sys.stderr)
                            failed += 1
    quiet, busy = times[False], times[True]
    return {
        "connections tried, each second": statistics.median(each["tried"] for each in told),
        "of which samba-rvss refused": statistics.median(each["refused"] for each in told),
        "sequences failed": failed,
        "sequences": len(quiet) + len(busy) + failed,
        "Commit": statistics.median(quiet),
        "Commit, 95th percentile": percentile(quiet, 0.95),
        "Commit in a flood": statistics.median(busy),
        "Commit in a flood, 95th percentile": percentile(busy, 0.95),
        "flood / none": statistics.median(busy) / statistics.median(quiet),
        "flood / none, 95th percentile": percentile(busy, 0.95) / percentile(quiet, 0.95),
    }


def main() -> int:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description="measure what a flood costs a served client")
    parser.add_argument("--rounds", type=int, default=10, help="with and without (10)")
    parser.add_argument("--commits", type=int, default=10, help="in each round (10)")
    parser.add_argument("--rate", type=float, default=10_000.0, help="connections a second (10000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--flood", metavar="SOCKET", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.flood:
        flood(arguments.flood, arguments.rate)
        return 0
    found = measure(arguments.rounds, arguments.commits, arguments.rate)
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            is_time = name.startswith("Commit")
            print(f"{name:36} {value * 1000 if is_time else value:10.2f}{' ms' * is_time}")
    slow = found["Commit in a flood, 95th percentile"] > LIMIT
    return int(slow or bool(found["sequences failed"]))


if __name__ == "__main__":
    sys.exit(main())
