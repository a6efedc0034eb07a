"""What keeping costs a client, and pruning an administrator.

    /usr/bin/python3 tests/bench/keep.py [--rounds N] [--backups N] [--json]

Needs root, and what tests/run installs. Everything happens on a private Samba and a btrfs in a
file. A whole shadow copy set, to which recovery writes, is taken and deleted alternately with
``rvss:keep = no`` and with ``rvss:keep = yes``; then that many backups are made, three of which
something holds, and ``samba-rvss prune --yes`` removes all that no rule keeps. Exit status 1 if it
leaves another number.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase, ShadowCopy
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.smbclient import Session
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import BackupOperator
from samba_rvss.testing.waiting import wait_until

KINDS = ("no", "yes")
STEPS = ("Commit", "delete")
HELD = 3


class Bench:
    """A private Samba with a share of each kind."""

    def __init__(self, undo: ExitStack) -> None:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="rvss-bench-")))
        directory.chmod(0o755)
        fs = undo.enter_context(LoopBtrfs(directory, size=8 << 30))
        self.samba = undo.enter_context(PrivateSmbd())
        self.daemon = undo.enter_context(RvssDaemon(self.samba))
        for kind in KINDS:
            options = {"rvss:keep": kind, "rvss:maximum copies": "0", "rvss:retention": "latest 1"}
            share = self.daemon.share(kind, fs.subvolume(kind), options)
            self.samba.set_share(kind, share)
        self.operator = undo.enter_context(BackupOperator(self.samba))
        self.daemon.start()
        self.samba.start()
        self.client = undo.enter_context(Client(self.samba.address, self.operator.logon))

    def sequence(self, share: str, pause: float = 0.5) -> dict[str, float]:
        """Take a set, recover, complete and delete it; return the seconds of its steps.

        A backup program reads for longer than a sealing takes: so does the pause before the end.
        """
        taken = CopySet(self.client, Context.AUTO_RECOVERY)
        taken.prepare(share)
        taken.commit()
        spent = {"Commit": taken.calls[-1].seconds}
        (exposed,) = taken.expose()
        with Session(self.samba.address, exposed, self.operator.logon) as session:
            session.write("recovered", b"recovered")
        taken.complete()
        time.sleep(pause)
        taken.delete()
        spent["delete"] = taken.calls[-1].seconds
        return spent

    def backups(self) -> list[ShadowCopy]:
        """Return the backups."""
        path = str(self.daemon.state_directory / "ledger.db")
        with closing(Ledger(path, read_only=True)) as ledger:
            return ledger.backups()

    def command(self, *words: str) -> str:
        """Run samba-rvss on this instance; return what it printed."""
        argv = [sys.executable, "-m", "samba_rvss", "-s", str(self.samba.configuration), *words]
        root = Path(__file__).resolve().parents[2]
        return subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description="measure what keeping and pruning cost")
    parser.add_argument("--rounds", type=int, default=30, help="sets of each kind (30)")
    parser.add_argument("--backups", type=int, default=1000, help="how many are pruned (1000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    told: dict[str, float] = {}
    with ExitStack() as undo:
        bench = Bench(undo)
        samples = {f"{step}, {kind}": list[float]() for step in STEPS for kind in KINDS}
        for _ in range(arguments.rounds):
            for kind in KINDS:
                for step, seconds in bench.sequence(kind).items():
                    samples[f"{step}, {kind}"].append(seconds)
        median = {name: statistics.median(found) for name, found in samples.items()}
        for step in STEPS:
            told[f"{step} with keep = no, ms"] = 1000 * median[f"{step}, no"]
            ratio = median[f"{step}, yes"] / median[f"{step}, no"]
            told[f"{step} with keep = yes / with no"] = ratio
        while len(bench.backups()) < arguments.backups:
            print(f"{len(bench.backups())} backups", end="\r", file=sys.stderr, flush=True)
            bench.sequence("yes", pause=0.0)
        wait_until("all are kept", lambda: {b.phase for b in bench.backups()} == {Phase.KEPT})
        for held in bench.backups()[:HELD]:
            bench.command("hold", held.id)
        count = len(bench.backups())
        began = time.monotonic()
        bench.command("prune", "--yes")
        spent = time.monotonic() - began
        left = len(bench.backups())
        told[f"prune {count - left} of {count}, ms each"] = 1000 * spent / (count - left)
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        for name, figure in told.items():
            print(f"{figure:10.2f}  {name}")
    if left != HELD + 1:
        print(f"{left} backups are left, and not {HELD + 1}", file=sys.stderr)
    return 0 if left == HELD + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
