"""What samba-rvss costs, against baselines measured in the same run.

    /usr/bin/python3 tests/bench/commit.py [--quick] [--json]

Needs root, and what tests/run installs. Everything happens on a private Samba and a btrfs in a
file. Machines differ and are busy in turns: so every figure with a limit is a ratio to a baseline
that was measured alternately with it, or a time that leaves much room. Medians, with the median
absolute deviation (MAD). Exit status 1 if a limit is missed.
"""

import argparse
import itertools
import json
import math
import os
import secrets
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

import btrfsutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss import wire
from samba_rvss.kernel import processes
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.smbclient import Session
from samba_rvss.testing.smbd import PrivateSmbd, btrfs_share, script_share
from samba_rvss.testing.users import BackupOperator

HOOK_LIMIT = 1.25
COMMIT_LIMIT = 1.4
NOISE = 0.10
SEAL_LIMIT = 0.200
MEMORY_LIMIT = 64 << 20
PAUSE = 0.05  # seconds in which btrfs clears away what the last round deleted
SECONDS = 60.0
PYTHON = "/usr/bin/python3"

Samples: TypeAlias = dict[str, list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. Without a limit it is for information; times are in seconds."""

    name: str
    value: float
    unit: str
    n: int
    note: str = ""
    limit: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the limit, if there is one, is kept."""
        return self.limit is None or self.value <= self.limit

    def cells(self) -> tuple[str, ...]:
        """Return the row as it is printed."""
        verdict = "" if self.limit is None else "pass" if self.passed else "FAIL"
        limit = "" if self.limit is None else f"<= {self._shown(self.limit)}"
        return (self.name, self._shown(self.value), str(self.n), limit, verdict, self.note)

    def _shown(self, value: float) -> str:
        match self.unit:
            case "s":
                return f"{value * 1000:.1f} ms"
            case "bytes":
                return f"{value / (1 << 20):.1f} MiB"
            case _:
                return f"{value:.3f} {self.unit}"


def mad(samples: Sequence[float]) -> float:
    """Return the median absolute deviation."""
    middle = statistics.median(samples)
    return statistics.median(abs(sample - middle) for sample in samples)


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that a share of all do not exceed."""
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def time_row(name: str, samples: Sequence[float]) -> Row:
    """Return a median for information."""
    note = f"MAD {mad(samples) * 1000:.1f} ms"
    return Row(name=name, value=statistics.median(samples), unit="s", n=len(samples), note=note)


def ratio_row(
    name: str, samples: Sequence[float], baseline: Sequence[float], limit: float | None = None
) -> Row:
    """Return the ratio of two medians; the note has that of their fastest tenths.

    On a busy machine the second says more: work that is passed on from process to process waits
    for a processor more often than a process that works alone.
    """
    ratio = statistics.median(samples) / statistics.median(baseline)
    fastest = percentile(samples, 0.1) / percentile(baseline, 0.1)
    note = f"fastest tenths {fastest:.3f} x"
    return Row(name=name, value=ratio, unit="x", n=len(samples), limit=limit, note=note)


def noise_row(name: str, samples: Sequence[float], baseline: Sequence[float]) -> Row:
    """Return the ratio of two medians that should differ by noise only."""
    noise = max(NOISE, 2 * mad(baseline) / statistics.median(baseline))
    row = ratio_row(name, samples, baseline, 1 + noise)
    said = "within noise" if row.passed else "MORE THAN NOISE"
    return replace(row, note=f"{said} ({noise:.0%}); {row.note}")


def alternate(runs: dict[str, Callable[[], float]], rounds: int) -> Samples:
    """Take samples in turns, each round in another order; the first round is not counted.

    What ran before leaves work behind, such as trees that btrfs clears away: nobody may always
    come after the same one.
    """
    samples: Samples = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in secrets.SystemRandom().sample(list(runs), len(runs)):
            value = runs[name]()
            if number:
                samples[name].append(value)
    return samples


def spawn(*argv: str, status: int = 0) -> float:
    """Return the seconds from a program's start to its end."""
    null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    quiet = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
    started = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, {"PATH": "/usr/bin"}, file_actions=[null, quiet])
    _, waited = os.waitpid(pid, 0)
    spent = time.perf_counter() - started
    assert os.waitstatus_to_exitcode(waited) == status, argv
    return spent


class Bench:
    """The measurements, on one private Samba.

    Args:
        quick: fewer rounds, copies and files.
    """

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 15 if quick else 60
        self.copies = 100 if quick else 1000
        self.files = 5000 if quick else 100_000
        self.set_rounds = 2 if quick else 5
        self.rows: list[Row] = []
        self._stack = ExitStack()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Set everything up, and clear it away."""
        with self._stack as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rvss-bench-")))
            directory.chmod(0o755)
            self.fs = stack.enter_context(LoopBtrfs(directory, size=8 << 30))
            self.samba = stack.enter_context(PrivateSmbd())
            self.daemon = stack.enter_context(RvssDaemon(self.samba))
            self.paths: dict[str, Path] = {}
            for name in ("plain", "files", "crowd"):
                self.paths[name] = self.fs.subvolume(name)
                unlimited = {"rvss:maximum copies": "0"}
                self.samba.set_share(name, self.daemon.share(name, self.paths[name], unlimited))
            self._fill(self.paths["files"])
            stock = self.fs.subvolume("stock")
            self.samba.set_share("stock", btrfs_share("stock", stock))
            bare = self.fs.subvolume("bare")
            script = directory / "script"
            script.write_text(f'#!{PYTHON} -ISE\nprint("{bare}")\n')
            script.chmod(0o755)
            self.samba.set_share("bare", script_share("bare", bare, script))
            self.many = []
            volumes = [self.fs.subvolume(f"volume{number}") for number in range(3)]
            for number, volume in zip(range(64), itertools.cycle(volumes), strict=False):
                path = volume / f"share{number}"
                path.mkdir(mode=0o777)
                self.many.append(path.name)
                self.samba.set_share(path.name, self.daemon.share(path.name, path))
            self.operator = stack.enter_context(BackupOperator(self.samba))
            self.daemon.start()
            self.samba.start()
            self.client = stack.enter_context(Client(self.samba.address, self.operator.logon))
            yield

    def _fill(self, path: Path) -> None:
        for number in range(self.files):
            if number % 1000 == 0:
                below = path / f"{number // 1000}"
                below.mkdir()
            (below / f"{number}").touch()

    # what is measured

    def hook(self) -> None:
        """Compare the hook's process with an interpreter that does nothing."""
        program, _, socket_path = self.daemon.hook.split(" ")
        path = str(self.paths["plain"])
        missing = f"{socket_path}.none"
        samples = alternate(
            {
                "python": lambda: spawn(PYTHON, "-ISE", "-c", "pass"),
                "hook": lambda: spawn(program, "-S", socket_path, "check", path),
                "alone": lambda: spawn(program, "-S", missing, "check", path, status=22),
            },
            self.rounds * 3,
        )
        self.rows += [
            time_row("python3 -ISE -c pass", samples["python"]),
            time_row("hook check", samples["hook"]),
            time_row("hook without a daemon", samples["alone"]),
            ratio_row(
                "hook check / python3 -ISE -c pass", samples["hook"], samples["python"], HOOK_LIMIT
            ),
        ]

    def commit_time(self, *shares: str) -> float:
        """Return the seconds that CommitShadowCopySet takes; the set is deleted again."""
        time.sleep(PAUSE)
        taken = CopySet(self.client)
        taken.prepare(*shares)
        taken.commit()
        spent = taken.calls[-1].seconds
        taken.expose()
        taken.delete()
        return spent

    def _snapshot_time(self, name: str) -> float:
        """Return the seconds that the kernel takes for a snapshot; it is deleted again."""
        time.sleep(PAUSE)
        snapshot = str(self.fs.path / "snapshot")
        started = time.perf_counter()
        btrfsutil.create_snapshot(str(self.paths[name]), snapshot)
        spent = time.perf_counter() - started
        btrfsutil.delete_subvolume(snapshot)
        return spent

    def _stock_commit_time(self) -> float:
        """As `commit_time`, with vfs_btrfs, whose names collide within one second."""
        time.sleep(1.1)
        return self.commit_time("stock")

    def commits(self) -> None:
        """Compare a Commit with others, and with one of a share full of files."""
        samples = alternate(
            {
                "bare": lambda: self.commit_time("bare"),
                "ours": lambda: self.commit_time("plain"),
                "files": lambda: self.commit_time("files"),
                "btrfs": lambda: self._snapshot_time("plain"),
                "btrfs files": lambda: self._snapshot_time("files"),
            },
            self.rounds,
        )
        # For each snapshot btrfs counts references anew for every child of the tree's root node
        # (fs/btrfs/ctree.c, btrfs_copy_root()): 0 in an empty tree, at most what fits into a node.
        more = statistics.median(samples["btrfs files"]) - statistics.median(samples["btrfs"])
        without = [sample - more for sample in samples["files"]]
        stock = alternate(
            {"stock": self._stock_commit_time, "ours": lambda: self.commit_time("plain")},
            max(5, self.rounds // 5),
        )
        self.rows += [
            time_row("Commit, shell_snap with a script that prints a line", samples["bare"]),
            time_row("Commit, samba-rvss", samples["ours"]),
            ratio_row(
                "Commit, samba-rvss / script", samples["ours"], samples["bare"], COMMIT_LIMIT
            ),
            time_row("Commit, vfs_btrfs", stock["stock"]),
            ratio_row("Commit, samba-rvss / vfs_btrfs", stock["ours"], stock["stock"]),
            ratio_row(
                f"Commit, {self.files} files / none in the share",
                samples["files"],
                samples["ours"],
            ),
            time_row("  btrfs's snapshot alone, no files", samples["btrfs"]),
            time_row(f"  btrfs's snapshot alone, {self.files} files", samples["btrfs files"]),
            noise_row("  Commit, less that difference / none", without, samples["ours"]),
        ]

    def crowd(self) -> None:
        """Compare a Commit among many copies with those before and after there were any."""
        path = str(self.paths["crowd"])
        runs = {
            "bare": lambda: self.commit_time("bare"),
            "ours": lambda: self.commit_time("crowd"),
        }
        before = alternate(runs, self.rounds)
        started = time.perf_counter()
        made = [self._ask("create", path) for _ in range(self.copies)]
        creating = (time.perf_counter() - started) / len(made)
        among = alternate(runs, self.rounds)
        started = time.perf_counter()
        for copy in made:
            self._ask("delete", path, copy)
        deleting = (time.perf_counter() - started) / len(made)
        after = alternate(runs, self.rounds)
        alone = before["ours"] + after["ours"]
        n = len(made)
        self.rows += [
            time_row(f"Commit, {n} copies exist", among["ours"]),
            noise_row(f"Commit, {n} copies / none before and after", among["ours"], alone),
            # The script has no copies: it shows the machine's mood, and Samba's share of it.
            ratio_row(
                f"  the script's Commit at the same times, {n} / none",
                among["bare"],
                before["bare"] + after["bare"],
            ),
            Row(name="create at the hook's socket, each", value=creating, unit="s", n=n),
            Row(name="delete at the hook's socket, each", value=deleting, unit="s", n=n),
        ]

    def _ask(self, *words: str) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(str(self.daemon.run_directory / "hook.sock"))
            peer.send("\0".join(words).encode())
            reply = peer.recv(wire.MAXIMUM)
        assert reply[0] == 0, reply
        return reply[1:].decode()

    def seals(self) -> None:
        """Time from RecoveryComplete to a copy that is verified to be read-only."""
        for kind, keep in (("nobody connected", False), ("a writer connected", True)):
            samples = [self._seal_time(keep_writer=keep) for _ in range(self.rounds // 2 + 1)][1:]
            limit = None if keep else SEAL_LIMIT
            row = time_row(f"RecoveryComplete to sealed, {kind}", samples)
            self.rows += [
                replace(row, limit=limit),
                Row(
                    name="  95th percentile",
                    value=percentile(samples, 0.95),
                    unit="s",
                    n=len(samples),
                    limit=limit,
                ),
            ]

    def _seal_time(self, *, keep_writer: bool) -> float:
        taken = CopySet(self.client, Context.AUTO_RECOVERY)
        taken.prepare("plain")
        taken.commit()
        (exposed,) = taken.expose()
        copy_id = str(taken.copies["plain"])
        with ExitStack() as stack:
            path = str(self.daemon.state_directory / "ledger.db")
            ledger = stack.enter_context(closing(Ledger(path, read_only=True)))
            session = stack.enter_context(Session(self.samba.address, exposed, self.operator.logon))
            file = session.open("data", write=True, create=True)
            for piece in range(4):
                file.write(os.urandom(1 << 20), piece << 20)
            if not keep_writer:
                file.close()
                session.close()
            taken.complete()
            started = time.perf_counter()
            while True:
                # It learns what Samba calls the copy a moment after Samba has told its client.
                copy = next(iter(ledger.find(copy_id)), None)
                sealed = copy is not None and copy.phase is Phase.SEALED
                if copy and sealed and os.statvfs(copy.path).f_flag & os.ST_RDONLY:
                    break
                assert time.perf_counter() - started < SECONDS, "it is never sealed"
                time.sleep(0.001)
            spent = time.perf_counter() - started
        taken.delete()
        return spent

    def large_set(self) -> None:
        """Commit 64 shares on three subvolumes as one set."""
        one = statistics.median(self.commit_time(self.many[0]) for _ in range(5))
        samples = [self.commit_time(*self.many) for _ in range(self.set_rounds)]
        row = time_row("Commit, 64 shares on 3 subvolumes", samples)
        each = row.value / len(self.many)
        note = f"one alone takes {one * 1000:.1f} ms"
        self.rows += [row, Row(name="  for each share", value=each, unit="s", n=row.n, note=note)]

    def memory(self) -> None:
        """Read what the daemon and its helper have resident."""
        self.rows.append(
            Row(
                name="resident memory of the daemon and its helper (Pss)",
                value=self.daemon.memory(),
                unit="bytes",
                n=1,
                limit=MEMORY_LIMIT,
            )
        )
        for pid in (self.daemon.pid, *processes.descendants(self.daemon.pid)):
            status = Path(f"/proc/{pid}/status").read_text("ascii")
            (size,) = (line.split()[1] for line in status.splitlines() if "VmRSS" in line)
            what = "the daemon" if pid == self.daemon.pid else "its helper"
            self.rows.append(
                Row(name=f"  {what} alone (RSS)", value=int(size) << 10, unit="bytes", n=1)
            )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, copies and files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    bench = Bench(quick=arguments.quick)
    with bench.standing():
        parts = (bench.hook, bench.commits, bench.crowd, bench.seals, bench.large_set, bench.memory)
        for part in parts:
            print(f"measuring: {(part.__doc__ or '').rstrip('.')}", file=sys.stderr, flush=True)
            part()
    if arguments.json:
        print(json.dumps([{**asdict(row), "passed": row.passed} for row in bench.rows], indent=2))
    else:
        table = [("MEASURE", "MEDIAN", "N", "LIMIT", "", ""), *(row.cells() for row in bench.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for cells in table:
            shown = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
            print("  ".join(shown).rstrip())
    return 0 if all(row.passed for row in bench.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
