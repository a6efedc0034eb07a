"""What a disk that is slow, stands still or fails does to its own clients, and to everybody else.

    /usr/bin/python3 tests/bench/sick_disk.py [--stage STAGE ...] [--fault FAULT ...] [--json]

Needs root, and what tests/run installs. For each stage of a shadow copy and each fault of the disk
there is a private Samba with two shares: one on a disk that falls ill in that stage, and one on a
good disk, which a second client asks about and root takes and deletes copies of all the while. The
table says what the client was told and after how long, what ``status`` and the log said, how long
the good share had to wait at most, and when all was well again. Exit status 1 if a command or a
client had no answer in its time, if the good share waited longer than it may, or if something was
left in the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.errors import RvssError
from samba_rvss.kernel import mounting
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase
from samba_rvss.run import environment
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.disk import SickDisk
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.remote import Remote
from samba_rvss.testing.smbclient import Session
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import BackupOperator
from samba_rvss.testing.waiting import wait_until

STAGES = ("create", "expose", "seal", "delete", "reconcile", "start")
FAULTS = ("slow", "hung", "EIO")
ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 8.0  # 'rvss:commit deadline'
SEAL_DEADLINE = 5.0  # 'rvss:seal deadline'
DELAY = 0.05  # seconds that the slow disk takes for each reading and writing
ILL = 30.0  # seconds for which a disk stays ill
COMMAND = 40.0  # seconds after which a command of ours has to have ended
CLIENT = DEADLINE + 2.0  # ... and for which a client may wait for what concerns his share alone
GOOD = 4.0  # ... and for which a good share may wait, but for Samba's one worker
WELL = 120.0  # seconds for all to be well again


@dataclass(kw_only=True)
class Result:
    """What one fault did in one stage; times are in seconds.

    Attributes:
        client: what the client was told.
        waited: for how long the client waited.
        status: what `status` said is wrong.
        looked: how long `status` took.
        lines: the lines of the log about it, each once, and how often it came.
        hook: the longest that a callout of the good share took.
        other: the longest that another client waited for IsPathSupported of the good share.
        healed: after how long all was well again, once the disk was.
        failures: what is not as it should be.
    """

    stage: str
    fault: str
    client: str = ""
    waited: float = 0.0
    status: list[str] = field(default_factory=list)
    looked: float = 0.0
    lines: dict[str, int] = field(default_factory=dict)
    hook: float = 0.0
    other: float = 0.0
    healed: float = 0.0
    failures: list[str] = field(default_factory=list)


class Bench:
    """One stage and one fault, on a Samba of its own."""

    def __init__(self, stage: str, fault: str) -> None:
        self.result = Result(stage=stage, fault=fault)
        self._stage = stage
        self._fault = fault
        self._stack = ExitStack()
        self._ended = threading.Event()
        self._fell_ill = 0.0

    def run(self) -> Result:
        """Set everything up, measure, and clear it away."""
        with self._stack as stack:
            self._set_up(stack)
            taken = self._prepare()
            start = len(self.daemon.log())
            stop = self._begin_others(stack)
            self._fall_ill()
            self._act(taken)
            self._look()
            time.sleep(max(0.0, self._fell_ill + ILL - time.monotonic()))
            self._note_lines(self.daemon.log()[start:])
            self._get_well()
            stop()
            self._await_health(taken)
        if max(self.result.hook, self.result.other - DEADLINE) > GOOD:
            self.result.failures.append("the good share waited too long")
        return self.result

    # the rig

    def _set_up(self, stack: ExitStack) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rvss-bench-")))
        directory.chmod(0o755)
        slow = DELAY if self._fault == "slow" else 0.0
        self.disk = stack.enter_context(SickDisk(directory, delay=slow))
        self.sick = stack.enter_context(LoopBtrfs(directory, disk=self.disk.file))
        good = stack.enter_context(LoopBtrfs(directory))
        self.samba = stack.enter_context(PrivateSmbd())
        options = {"commit deadline": f"{DEADLINE:g}", "seal deadline": f"{SEAL_DEADLINE:g}"}
        self.daemon = stack.enter_context(RvssDaemon(self.samba, options=options))
        self.paths = {"sick": self.sick.subvolume("sick"), "good": good.subvolume("good")}
        for name, path in self.paths.items():
            self.samba.set_share(name, self.daemon.share(name, path))
        self.operator = stack.enter_context(BackupOperator(self.samba))
        self.samba.start()
        self.daemon.start()
        address, logon = self.samba.address, self.operator.logon
        self.client = stack.enter_context(Remote(address, logon))
        self.second = stack.enter_context(Remote(address, logon))
        # Whatever happens, nothing is cleared away while the disk is ill.
        stack.callback(self._get_well)

    def _prepare(self) -> CopySet:
        """Bring a set to where the disk falls ill."""
        taken = CopySet(self.client, Context.AUTO_RECOVERY)
        taken.check("sick")
        taken.prepare("sick")
        if self._stage != "create":
            taken.commit()
        if self._stage in ("seal", "delete", "reconcile", "start"):
            (exposed,) = taken.expose()
            with Session(self.samba.address, exposed, self.operator.logon) as session:
                session.write("recovered", os.urandom(1 << 16))
        if self._stage in ("delete", "reconcile", "start"):
            taken.complete()
            wait_until("it is sealed", lambda: Phase.SEALED in self._phases())
        if self._stage == "start":
            self.daemon.stop()
        return taken

    def _phases(self) -> list[Phase]:
        ledger = Ledger(str(self.daemon.state_directory / "ledger.db"), read_only=True)
        try:
            return [copy.phase for copy in ledger.copies()]
        finally:
            ledger.close()

    # the disk

    def _fall_ill(self) -> None:
        self._fell_ill = time.monotonic()
        if self._fault == "hung":
            self.disk.stand_still()
        elif self._fault == "EIO":
            self.disk.fail()
        # Something is always written; a thread, because it may stand still with the disk.
        threading.Thread(target=self._write, daemon=True).start()

    def _write(self) -> None:
        with suppress(OSError):
            (self.paths["sick"] / "dirty").write_bytes(os.urandom(1 << 20))

    def _get_well(self) -> None:
        """Let the disk work again."""
        if self._fell_ill:
            self._fell_ill = 0.0
            self.disk.heal()

    # what is asked

    def _act(self, taken: CopySet) -> None:
        """Do what the stage is about, and note what comes of it."""
        steps: dict[str, Callable[[], object]] = {
            "create": taken.commit,
            "expose": taken.expose,
            "seal": taken.complete,
            "delete": taken.delete,
            "reconcile": lambda: self._command("reconcile"),
            "start": self._start,
        }
        started = time.monotonic()
        try:
            said = steps[self._stage]()
        except RvssError as exc:
            self.result.client = exc.message
        else:
            self.result.client = said if isinstance(said, str) else "done"
        self.result.waited = time.monotonic() - started
        limit = COMMAND if self._stage in ("reconcile", "start") else CLIENT
        if self.result.waited > limit:
            self.result.failures.append(f"no answer in {limit:g} s")

    def _start(self) -> str:
        self.daemon.start()
        return "the daemon serves"

    def _command(self, *words: str) -> str:
        """Run ``samba-rvss``; return what it printed, or that it did not end in its time."""
        argv = [sys.executable, "-m", "samba_rvss", "-s", str(self.samba.configuration), *words]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment({"PYTHONPATH": str(ROOT)}),
        )
        try:
            out, _ = process.communicate(timeout=COMMAND)
        except subprocess.TimeoutExpired:
            process.kill()  # it may hang in the kernel until the disk answers
            self._stack.callback(process.communicate)
            self.result.failures.append(f"{words[0]} did not end in {COMMAND:g} s")
            return f"no answer in {COMMAND:g} s"
        lines = [line for line in out.splitlines() if line]
        return f"exit {process.returncode}: {lines[-1] if lines else ''}"

    def _look(self) -> None:
        """Note what `status` says, once the deadline for sealing is over."""
        time.sleep(max(0.0, self._fell_ill + SEAL_DEADLINE + 3.0 - time.monotonic()))
        with tempfile.NamedTemporaryFile("r") as file:
            argv = [sys.executable, "-m", "samba_rvss", "-s", str(self.samba.configuration)]
            started = time.monotonic()
            process = subprocess.Popen(
                [*argv, "status", "--json"],
                stdin=subprocess.DEVNULL,
                stdout=os.open(file.name, os.O_WRONLY),
                stderr=subprocess.DEVNULL,
                env=environment({"PYTHONPATH": str(ROOT)}),
            )
            try:
                process.wait(COMMAND)
            except subprocess.TimeoutExpired:
                process.kill()
                self._stack.callback(process.wait)
                self.result.failures.append(f"status did not end in {COMMAND:g} s")
            else:
                told = json.loads(file.read() or "{}")
                self.result.status = [str(line) for line in told.get("wrong", ["no answer"])]
            self.result.looked = time.monotonic() - started

    def _note_lines(self, log: str) -> None:
        lines = [line for line in log.splitlines() if " warning " in line or " error " in line]
        counts = Counter(line.split(" ", 2)[2] for line in lines)
        self.result.lines = dict(counts)

    # the good share

    def _begin_others(self, stack: ExitStack) -> Callable[[], None]:
        threads = [
            threading.Thread(target=self._repeat, args=(self._call_out, "hook")),
            threading.Thread(target=self._repeat, args=(self._ask, "other")),
        ]
        for thread in threads:
            thread.start()

        def stop() -> None:
            self._ended.set()
            for thread in threads:
                thread.join()

        stack.callback(stop)
        return stop

    def _repeat(self, work: Callable[[], float], name: str) -> None:
        while not self._ended.wait(0.05):
            try:
                spent = work()
            except (RvssError, AssertionError) as exc:
                if self._stage != "start":  # then there is none for a while
                    self.result.failures.append(f"the good share: {exc}")
                continue
            setattr(self.result, name, max(getattr(self.result, name), spent))

    def _call_out(self) -> float:
        path, worst, made = str(self.paths["good"]), 0.0, ""
        for verb in ("check", "create", "delete"):
            words = [verb, path, *([made] if verb == "delete" else [])]
            started = time.monotonic()
            done = subprocess.run(
                [*self.daemon.hook.split(), *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=environment(),
                check=False,
            )
            worst = max(worst, time.monotonic() - started)
            if done.returncode:
                raise AssertionError(f"{verb}: {done.stderr.strip()}")
            made = done.stdout.strip()
        return worst

    def _ask(self) -> float:
        started = time.monotonic()
        self.second.is_path_supported("good")
        return time.monotonic() - started

    # in the end

    def _await_health(self, taken: CopySet) -> None:
        """Do what an administrator does, and wait until nothing is left."""
        started = time.monotonic()
        if self._fault == "EIO":
            # What btrfs has made read-only works again when it is mounted anew.
            with suppress(OSError):
                mounting.umount(str(self.sick.path))
            for copy in self._ids():
                self._command("delete", copy)
            self.sick.mount(self.sick.path)
        elif taken.stage.value in ("exposed", "recovered"):
            with suppress(RvssError):
                taken.delete()
        for copy in self._ids():
            self._command("delete", copy)
        self._command("reconcile")
        try:
            wait_until(
                lambda: f"nothing is left: {self._phases()}", lambda: not self._phases(), WELL
            )
        except AssertionError as exc:
            self.result.failures.append(str(exc))
        self.result.healed = time.monotonic() - started

    def _ids(self) -> list[str]:
        ledger = Ledger(str(self.daemon.state_directory / "ledger.db"), read_only=True)
        try:
            return [copy.id for copy in ledger.copies()]
        finally:
            ledger.close()


def show(results: Sequence[Result]) -> None:
    """Print the table, and below it what `status` and the log said."""
    head = ("STAGE", "FAULT", "CLIENT WAITED", "STATUS TOOK", "WRONG", "LINES", "GOOD: CALLOUT")
    rows = [(*head, "GOOD: CLIENT", "WELL AFTER", "")]
    rows += [
        (
            each.stage,
            each.fault,
            f"{each.waited:.1f} s",
            f"{each.looked:.1f} s",
            str(len(each.status)),
            str(sum(each.lines.values())),
            f"{each.hook:.2f} s",
            f"{each.other:.2f} s",
            f"{each.healed:.1f} s",
            "FAIL" if each.failures else "pass",
        )
        for each in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        shown = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        print("  ".join(shown).rstrip())
    for each in results:
        print(f"\n{each.stage}, {each.fault}\n  client: {each.client}")
        for line in each.status:
            print(f"  status: {line}")
        for line, count in each.lines.items():
            print(f"  log {count} x: {line}")
        for line in each.failures:
            print(f"  FAIL: {line}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stage", action="append", choices=STAGES)
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    results = []
    for stage in arguments.stage or STAGES:
        for fault in arguments.fault or FAULTS:
            print(f"measuring: {stage}, {fault}", file=sys.stderr, flush=True)
            results.append(Bench(stage, fault).run())
    if arguments.json:
        print(json.dumps([asdict(each) for each in results], indent=2))
    else:
        show(results)
    return 1 if any(each.failures for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
