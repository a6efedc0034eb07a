"""How long a Commit of many shares takes, and whether their copies are of one instant.

    /usr/bin/python3 tests/bench/sets.py [--delay MILLISECONDS] [--rounds N] [--proof N]
                                         [--nested] [--json]

Needs root, and what tests/run installs. Everything happens on a private Samba and a btrfs in a
file, each share on a subvolume of its own; with --nested with another one inside; with --delay on a
disk that takes so long for each reading and writing, one after the other. The first table compares
Commits of sets of 1, 8 and 64 shares, measured in turns, and how long the first callout of each
took, which takes the images of the whole set: the rest is Samba's, its shell's and that of the
callouts that claim them. Then a writer goes over all shares of a set without a pause: it writes the
next number into one file after the other, each on the disk before the next. In copies of one
instant the numbers never rise from a file to the next one, and differ by one at most. Exit status 1
if a limit is missed, or copies that are said to be of one instant are not.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, ShadowCopy
from samba_rvss.run import run
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.results import FsrvpError
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.disk import SickDisk
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import BackupOperator
from tests.bench.writing import is_of_one_instant, writing

SIZES = (1, 8, 64)
LIMITS = {8: 3.0, 64: 12.0}
"""How many times as long as one share a set may take on a slow disk."""
SIZE = 16 << 30  # not so small that there is little room for metadata
PAUSE = 0.1
_SELDOM = 4
_NUMBER = "number"
_NOT_MET = "snapshots did not meet at try"
"""What the daemon logs after each try but the last one."""


class Bench:
    """The measurements, on one private Samba.

    Args:
        delay: seconds that the disk takes for each reading and writing; 0 for a file.
        nested: whether each share has a volume inside.
    """

    def __init__(self, delay: float, *, nested: bool) -> None:
        self.delay = delay
        self.places = (_NUMBER, f"nested/{_NUMBER}") if nested else (_NUMBER,)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Set everything up, and clear it away."""
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rvss-bench-")))
            directory.chmod(0o755)
            disk = None
            if self.delay:
                sick = SickDisk(directory, size=SIZE, delay=self.delay)
                disk = stack.enter_context(sick).file
            self.fs = stack.enter_context(LoopBtrfs(directory, size=SIZE, mixed=False, disk=disk))
            self.samba = stack.enter_context(PrivateSmbd())
            self.samba.set_options({"rvss:commit deadline": "50 s"})
            self.daemon = stack.enter_context(RvssDaemon(self.samba))
            self.names = [f"share{number}" for number in range(max(SIZES))]
            for name in self.names:
                path = self.fs.subvolume(name)
                for place in self.places[1:]:
                    self.fs.subvolume(f"{name}/{Path(place).parent}")
                options = {"rvss:nested": "include"} if len(self.places) > 1 else {}
                self.samba.set_share(name, self.daemon.share(name, path, options))
            operator = stack.enter_context(BackupOperator(self.samba))
            self.daemon.start()
            self.samba.start()
            self.client = stack.enter_context(Client(self.samba.address, operator.logon))
            yield

    def commit(self, shares: Sequence[str]) -> tuple[float, float, list[ShadowCopy], CopySet]:
        """Take a set; return the seconds of its Commit and of the first callout, copies, and it."""
        taken = CopySet(self.client, Context.AUTO_RECOVERY)
        taken.prepare(*shares)
        try:
            taken.commit()
        except FsrvpError:
            print(self.daemon.log()[-20000:], file=sys.stderr)
            raise
        path = str(self.daemon.state_directory / "ledger.db")
        with closing(Ledger(path, read_only=True)) as ledger:
            copies = ledger.copies()
            callouts = [event.duration or 0.0 for event in ledger.events_of("taken")]
        return taken.calls[-1].seconds, callouts[-len(shares)], copies, taken

    def generation(self) -> int:
        """Return the number of the file system's last transaction, once it is on the disk."""
        told = run(["btrfs", "inspect-internal", "dump-super", self.fs.device], timeout=60)
        (line,) = (line for line in told.splitlines() if line.startswith("generation"))
        return int(line.split()[1])

    def times(self, rounds: int) -> list[dict[str, Any]]:
        """Compare Commits of sets of several sizes."""
        seconds: dict[int, list[float]] = {size: [] for size in SIZES}
        firsts: dict[int, list[float]] = {size: [] for size in SIZES}
        spread: dict[int, list[int]] = {size: [] for size in SIZES}
        groups: dict[int, list[int]] = {size: [] for size in SIZES}
        for number in range(rounds + 1):
            for size in SIZES:
                if size == max(SIZES) and number % _SELDOM not in (0, 1):
                    continue  # all those shares take a minute to go again
                time.sleep(PAUSE)
                os.sync()
                before = self.generation()
                spent, first, copies, taken = self.commit(self.names[:size])
                after = self.generation()
                taken.expose()
                taken.delete()
                print(f"{size}: {spent:.3f} s", file=sys.stderr, flush=True)
                if number:
                    seconds[size].append(spent)
                    firsts[size].append(first)
                    spread[size].append(len({copy.transid for copy in copies}))
                    groups[size].append(after - before)
        one = statistics.median(seconds[1])
        return [
            {
                "shares": size,
                "seconds": statistics.median(seconds[size]),
                "first": statistics.median(firsts[size]),
                "ratio": statistics.median(seconds[size]) / one,
                "limit": LIMITS.get(size) if self.delay else None,
                "transactions": statistics.median(groups[size]),
                "instants": dict(Counter(spread[size])),
            }
            for size in SIZES
        ]

    def proof(self, sets: int, shares: int = 8) -> dict[str, Any]:
        """Take sets while somebody writes to all shares in turn, and read what is in them."""
        found: Counter[str] = Counter()
        order = {name: place for place, name in enumerate(self.names)}
        files = [
            self.fs.path / name / place for name in self.names[:shares] for place in self.places
        ]
        read = len(self.daemon.log())
        with writing(files) as writer:
            for number in range(sets):
                _, _, copies, taken = self.commit(self.names[:shares])
                paths = [copy.path for copy in sorted(copies, key=lambda c: order[c.share])]
                numbers = [int(Path(path, at).read_text()) for path in paths for at in self.places]
                whole = is_of_one_instant(numbers)
                instants = {copy.transid for copy in copies}
                said = len(copies) == shares and len(instants) == 1 and 0 not in instants
                found[
                    f"said {'one' if said else 'several'}, in order: {'yes' if whole else 'no'}"
                ] += 1
                found["wrong"] += said and not whole
                with writer.resting():
                    taken.expose()
                    taken.delete()
                log = self.daemon.log()[read:]
                read += len(log)
                for tries in range(1, log.count(_NOT_MET) + 1):
                    found[f"needed try {tries + 1}"] += 1
                if number % 50 == 49:
                    print(f"{number + 1} sets: {dict(found)}", file=sys.stderr, flush=True)
        return dict(found)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds of the disk")
    parser.add_argument("--rounds", type=int, default=10, help="Commits of each size")
    parser.add_argument("--proof", type=int, default=50, help="sets while somebody writes")
    parser.add_argument("--nested", action="store_true", help="each share has a volume inside")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    bench = Bench(arguments.delay / 1000, nested=arguments.nested)
    with bench.standing():
        rows = bench.times(arguments.rounds) if arguments.rounds else []
        proof = bench.proof(arguments.proof) if arguments.proof else {}
    if arguments.json:
        print(json.dumps({"commits": rows, "proof": proof}, indent=2))
    else:
        for row in rows:
            limit = f" (limit {row['limit']:g})" if row["limit"] else ""
            print(
                f"Commit of {row['shares']:2} shares: {row['seconds'] * 1000:7.1f} ms,"
                f" {row['ratio']:5.2f} x one{limit}; first callout {row['first'] * 1000:.1f} ms,"
                f" {row['transactions']:g} transactions,"
                f" instants: {row['instants']}"
            )
        print(f"sets while somebody writes: {proof}")
    missed = [row for row in rows if row["limit"] and row["ratio"] > row["limit"]]
    return 1 if missed or proof.get("wrong") else 0


if __name__ == "__main__":
    sys.exit(main())
