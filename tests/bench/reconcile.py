"""What it costs to see and plan for many copies: no data, no count of copies may make it dear.

    /usr/bin/python3 tests/bench/reconcile.py [--sizes 100,1000,10000] [--json] [--profile]

Needs root, and what tests/run installs. Real images, mounts, records, sets, shares and security
descriptors of that many recovered copies, in a mount namespace of its own, on a btrfs in a file;
no smbd runs. Each measurement is a fresh process that has read smb.conf, as the daemon has, and
looks three times; the best counts, less the time that it waited for a processor. Beside it stands
how long the same minute's processor takes for a fixed piece of Python. Exit status 1 if a limit is
missed.
"""

import argparse
import cProfile
import itertools
import json
import os
import pstats
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import tdb

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.clock import moment
from samba_rvss.copies import identity
from samba_rvss.copies.instance import Instance
from samba_rvss.ledger import Ledger
from samba_rvss.model import (
    Context,
    Mark,
    Nested,
    Phase,
    SambaCopy,
    SambaSet,
    SambaState,
    Sealed,
    SetState,
    ShadowCopy,
    Volume,
)
from samba_rvss.mounts import Mounts
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.reconcile.observation import Observation, Sources, observe
from samba_rvss.reconcile.plan import plan
from samba_rvss.samba import conf
from samba_rvss.samba.process import SambaProcess
from samba_rvss.testing import fss_records
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.smbd import PrivateSmbd
from tests.imaging import make_image

SECONDS_LIMIT = 2.0
MEMORY_LIMIT = 100 << 20
GROWTH_LIMIT = 1.5
LIMITED = 10_000
SHARE = "vms"
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
_ROUNDS = 3
_INSIDE = "SAMBA_RVSS_BENCH_INSIDE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one size costs; times in seconds, memory in bytes.

    Attributes:
        copies: how many there are.
        observe: the shortest time to see everything, less what was spent waiting for a processor.
        wall: the shortest time by the clock.
        plan: the shortest time to plan.
        cpu: the least processor time for both, with that of python-samba's process.
        memory: what the process and python-samba's grew by at their largest.
        locked: seconds for both while another process holds the ledger's write lock.
        yardstick: seconds for a fixed piece of Python.
        actions: how many the plan has; none is right.
        left_alone: how many it leaves; all of them is right.
    """

    copies: int
    observe: float
    wall: float
    plan: float
    cpu: float
    memory: int
    locked: float
    yardstick: float
    actions: int
    left_alone: int

    @property
    def total(self) -> float:
        """Seconds for both."""
        return self.observe + self.plan


# what there is to see


def _identifier(number: int) -> str:
    return f"{CREATED:%Y%m%dT%H%M%SZ}-{number:08x}"


def _guid(kind: int, number: int) -> str:
    return str(uuid.UUID(int=(kind << 64) + number))


def _exposed(number: int) -> str:
    return f"{SHARE}@{{{_guid(2, number)}}}"


class Stock:
    """Many recovered copies, and all that belongs to them.

    Args:
        config: smb.conf as it was read.
        volume: what they are copies of.
        path: the share's directory.
    """

    def __init__(self, config: conf.Config, volume: Volume, path: Path) -> None:
        self.config = config
        self._volume = volume
        self._path = str(path)
        self._provider = Btrfs(identity.make(config))
        self._mounts = Mounts(config.run_directory)
        self._count = 0

    def grow(self, count: int) -> None:
        """Make copies until there are so many."""
        new = range(self._count, count)
        for number in new:
            self._make_image(number)
        self._write_ledger(new)
        self._count = count
        self._write_shares()
        self._write_sets()
        self._write_descriptors()

    def _path_of(self, number: int) -> str:
        return self._mounts.exposed_path(SHARE, _identifier(number))

    def _make_image(self, number: int) -> None:
        name = _identifier(number)
        make_image(
            self._provider,
            Mark(
                id=name,
                share=SHARE,
                share_path=self._path,
                volume=self._volume,
                created=CREATED,
            ),
        )
        self._provider.seal(
            self._volume,
            name,
            Sealed(set_id="", copy_id="", context=0, exposed_share="", state=None),
            opened=True,
        )
        parts = self._provider.open(self._volume, name)
        try:
            self._mounts.attach(parts, self._path_of(number))
        finally:
            for _, part in parts:
                os.close(part)

    def _write_ledger(self, new: range) -> None:
        """Write the records as `Ledger.add` does, in one transaction instead of one for each."""
        with closing(Ledger(self.config.ledger)) as ledger:
            for number in new[:1]:
                ledger.add(self._copy(number), "sealed")
        with closing(sqlite3.connect(self.config.ledger)) as database, database:
            cursor = database.execute("SELECT * FROM copies WHERE id = ?", (_identifier(new[0]),))
            names = [column[0] for column in cursor.description]
            row = cursor.fetchone()
            for number in new[1:]:
                copy = self._copy(number)
                changed = {
                    "id": copy.id,
                    "path": copy.path,
                    "set_id": copy.set_id,
                    "copy_id": copy.copy_id,
                    "exposed_share": copy.exposed_share,
                }
                values = [changed.get(name, old) for name, old in zip(names, row, strict=True)]
                marks = ", ".join("?" * len(values))
                database.execute(f"INSERT INTO copies VALUES ({marks})", values)  # noqa: S608

    def _copy(self, number: int) -> ShadowCopy:
        return ShadowCopy(
            id=_identifier(number),
            share=SHARE,
            share_path=self._path,
            volume=self._volume,
            created=CREATED,
            phase=Phase.SEALED,
            path=self._path_of(number),
            set_id=_guid(1, number),
            copy_id=_guid(2, number),
            context=int(_CONTEXT),
            exposed_share=_exposed(number),
            state=SetState.RECOVERED,
            since=moment(),
        )

    def _write_shares(self) -> None:
        """Write the registry shares as Samba clones them.

        Not by Samba's library, for which each new share costs more than the one before.
        """
        hook = "/usr/libexec/samba-rvss/hook"
        names = [_exposed(number) for number in range(self._count)]
        listed = b"".join(name.encode() + b"\0" for name in names)
        records = {f"{_KEY}\0".encode(): struct.pack("<I", len(names)) + listed}
        for number, name in enumerate(names):
            values = {
                "path": self._path_of(number),
                "comment": "(shadow copy of vms)",
                "read only": "yes",
                "vfs objects": "acl_xattr",
                **{f"shell_snap:{verb} command": f"{hook} {verb}" for verb in _VERBS},
            }
            key = f"{_KEY}\\{name.upper()}\0"
            records[key.encode()] = bytes(4)
            records[f"SAMBA_REGVAL\\{key}".encode()] = _packed(values)
        _store(f"{self.config.samba_state_directory}/registry.tdb", records, anew=False)

    def _write_sets(self) -> None:
        """Write srv_fss.tdb as Samba does: the whole file anew."""
        copies = [
            SambaCopy(
                set_id=_guid(1, number),
                copy_id=_guid(2, number),
                share=SHARE,
                share_path=self._path,
                path=self._path_of(number),
                exposed_share=_exposed(number),
                is_exposed=True,
                state=SetState.RECOVERED,
                context=_CONTEXT,
                created=CREATED,
            )
            for number in range(self._count)
        ]
        sets = [SambaSet(id=copy.set_id, state=copy.state, context=copy.context) for copy in copies]
        state = SambaState(sets=tuple(sets), copies=tuple(copies))
        fss_records.store(self.config.fss_state, fss_records.of_state(state))

    def _write_descriptors(self) -> None:
        descriptors = {
            b"SECDESC/" + os.fsencode(_exposed(number)) + b"\0": bytes(96)
            for number in range(self._count)
        }
        _store(f"{self.config.samba_state_directory}/share_info.tdb", descriptors)


_CONTEXT = Context.AUTO_RECOVERY | Context.PERSISTENT | Context.NO_AUTO_RELEASE
_KEY = "HKLM\\SOFTWARE\\SAMBA\\SMBCONF"
_VERBS = ("check path", "create", "delete")


def _packed(values: dict[str, str]) -> bytes:
    """Pack the values of a registry key (source3/registry/reg_backend_db.c, regdb_pack_values)."""
    data = struct.pack("<I", len(values))
    for name, text in values.items():
        raw = f"{text}\0".encode("utf-16-le")
        data += name.encode() + b"\0" + struct.pack("<II", 1, len(raw)) + raw
    return data


def _store(path: str, records: dict[bytes, bytes], *, anew: bool = True) -> None:
    database = tdb.Tdb(path, 0, tdb.DEFAULT, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if anew:
            database.clear()
        database.transaction_start()
        for key, value in records.items():
            database.store(key, value)
        database.transaction_commit()
    finally:
        database.close()


# what is measured: in a process of its own


def measure(configfile: str, *, locked: bool, profile: bool) -> dict[str, float]:
    """Look and plan some times; return what it took."""
    with ExitStack() as stack:
        samba = SambaProcess()
        stack.callback(samba.close)
        config = samba.call(conf.load, configfile)
        ledger = stack.enter_context(closing(Ledger(config.ledger, read_only=locked)))
        instance = Instance(
            config=config,
            ledger=ledger,
            mounts=Mounts(config.run_directory),
            providers=(Btrfs(identity.read(config)),),
            samba=samba,
        )
        sources = Sources(instance=instance)
        samba.call(conf.load, configfile)
        before = _peak(os.getpid()) + _peak(samba.pid)
        seen: list[Observation] = []
        observing, waiting, planning, cpu = [], [], [], []
        for _ in range(_ROUNDS):
            begun = time.process_time() + _cpu(samba.pid)
            waited = _waited(samba.pid)
            spent = _timed(lambda: seen.append(observe(sources)), profile=profile)
            observing.append(spent)
            waiting.append(_waited(samba.pid) - waited)
            planning.append(_timed(lambda: plan(seen[-1]), profile=profile))
            cpu.append(time.process_time() + _cpu(samba.pid) - begun)
            if len(seen) == 1:
                after = _peak(os.getpid()) + _peak(samba.pid)
                decided = plan(seen[0])
                counts = (len(decided.actions), len(decided.left_alone))
                assert not decided.problems, decided.problems
                del decided
            seen.clear()
            yardstick = _timed(_yardstick)
    return {
        "observe": min(a - b for a, b in zip(observing, waiting, strict=True)),
        "wall": min(observing),
        "plan": min(planning),
        "cpu": min(cpu),
        "memory": after - before,
        "yardstick": yardstick,
        "actions": counts[0],
        "left_alone": counts[1],
    }


def _timed(function: Callable[[], object], *, profile: bool = False) -> float:
    profiler = cProfile.Profile() if profile else None
    started = time.perf_counter()
    if profiler:
        profiler.runcall(function)
    else:
        function()
    spent = time.perf_counter() - started
    if profiler:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(18)
    return spent


def _yardstick() -> None:
    for _ in range(20):
        json.loads(json.dumps([{"number": number} for number in range(5000)]))


def _waited(pid: int) -> float:
    """Return how long this process and another have waited for a processor, in seconds.

    They work in turns, so it is time that both would not need on an idle machine.
    """
    words = [Path(f"/proc/{one}/schedstat").read_text("ascii").split() for one in ("self", pid)]
    return sum(int(one[1]) for one in words) / 1e9


def _cpu(pid: int) -> float:
    """Return the processor time of a process, in seconds (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak(pid: int) -> int:
    """Return the most memory that a process ever had resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    (size,) = (line.split()[1] for line in status.splitlines() if "VmHWM" in line)
    return int(size) << 10


# the frame


@contextmanager
def standing() -> Iterator[Stock]:
    """Set everything up, and clear it away."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rvss-bench-")))
        fs = stack.enter_context(LoopBtrfs(directory, size=16 << 30))
        samba = stack.enter_context(PrivateSmbd())
        daemon = stack.enter_context(RvssDaemon(samba))
        path = fs.subvolume(SHARE)
        (path / "data").write_bytes(b"data")
        samba.set_share(SHARE, daemon.share(SHARE, path))
        daemon.run_directory.mkdir()
        daemon.state_directory.mkdir()
        samba.net("conf", "list")  # makes the registry
        with closing(SambaProcess()) as process:
            config = process.call(conf.load, str(samba.configuration))
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            volume = Btrfs(identity.read(config)).probe(fd, str(path), Nested.REFUSE)
        finally:
            os.close(fd)
        assert volume is not None
        yield Stock(config, volume, path)


def _child(configfile: str, *words: str) -> dict[str, float]:
    argv = [sys.executable, __file__, "--measure", configfile, *words]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def cost(stock: Stock, copies: int, *, profile: bool) -> Cost:
    """Measure one size."""
    print(f"making {copies} copies", file=sys.stderr, flush=True)
    stock.grow(copies)
    print("measuring", file=sys.stderr, flush=True)
    configfile = stock.config.file
    found = _child(configfile, *(["--profile"] if profile else []))
    with closing(sqlite3.connect(stock.config.ledger, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        locked = _child(configfile, "--locked")
        writer.execute("ROLLBACK")
    return Cost(
        copies=copies,
        locked=locked["observe"] + locked["plan"],
        observe=found["observe"],
        wall=found["wall"],
        plan=found["plan"],
        cpu=found["cpu"],
        memory=int(found["memory"]),
        yardstick=found["yardstick"],
        actions=int(found["actions"]),
        left_alone=int(found["left_alone"]),
    )


def missed(costs: list[Cost]) -> list[str]:
    """Return what is not as it should be, as sentences."""
    wrong = []
    for one in costs:
        if one.actions or one.left_alone != one.copies:
            wrong.append(f"{one.copies}: {one.actions} actions, {one.left_alone} left alone")
        if one.copies <= LIMITED and one.total > SECONDS_LIMIT:
            wrong.append(f"{one.copies}: {one.total:.2f} s, over {SECONDS_LIMIT:g} s")
        if one.memory > MEMORY_LIMIT:
            wrong.append(f"{one.copies}: {one.memory >> 20} MiB, over {MEMORY_LIMIT >> 20} MiB")
    rates = _rates(costs)
    if len(rates) > 1 and rates[-1] > GROWTH_LIMIT * rates[0]:
        wrong.append(f"a copy more costs {rates[-1] / rates[0]:.2f} times what it did among few")
    return wrong


def _rates(costs: list[Cost]) -> list[float]:
    """Return what one copy more costs, in seconds, between each two sizes."""
    pairs = itertools.pairwise(costs)
    return [(b.total - a.total) / (b.copies - a.copies) for a, b in pairs]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="100,1000,10000", help="how many copies, rising")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    parser.add_argument("--locked", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        found = measure(arguments.measure, locked=arguments.locked, profile=arguments.profile)
        print(json.dumps(found))
        return 0
    if os.environ.get(_INSIDE) != "1":
        # Ten thousand mounts would be in the way of everybody else on this machine.
        os.environ[_INSIDE] = "1"
        argv = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvp(argv[0], argv)  # noqa: S606
    with standing() as stock:
        sizes = [int(word) for word in arguments.sizes.split(",")]
        costs = [cost(stock, size, profile=arguments.profile) for size in sizes]
    wrong = missed(costs)
    if arguments.json:
        print(json.dumps({"costs": [asdict(one) for one in costs], "missed": wrong}, indent=2))
        return 1 if wrong else 0
    for one in costs:
        print(
            f"{one.copies} copies: observe {one.observe * 1000:.0f} ms (by the clock"
            f" {one.wall * 1000:.0f} ms), plan"
            f" {one.plan * 1000:.0f} ms (processor {one.cpu * 1000:.0f} ms), together"
            f" {one.total / one.yardstick:.2f} yardsticks of {one.yardstick * 1000:.0f} ms;"
            f" {one.memory / (1 << 20):.1f} MiB; {one.actions} actions,"
            f" {one.left_alone} left alone;"
            f" with the ledger locked {one.locked * 1000:.0f} ms"
        )
    for rate, one in zip(_rates(costs), costs[1:], strict=False):
        print(f"one copy more, up to {one.copies}: {rate * 1e6:.0f} µs")
    for sentence in wrong:
        print(f"MISSED: {sentence}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
