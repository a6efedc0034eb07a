"""What each step of a shadow copy on ZFS costs: in time, and in transaction groups waited for.

    tests/vm/machine.py run -- python3 tests/bench/zfs.py [--rounds N] [--iops N] [--busy]

Needs root and ZFS; everything happens in a pool in a file. The same steps are done by zfs(8), by
libzfs_core in this process and by a channel program, in turns. On a machine that does nothing else
a transaction group is short, and what counts is the processes; with ``--iops`` the pool is on a
device that does no more than so many operations per second (qemu-nbd), and what counts is the
waits. With ``--busy`` somebody writes all the time, so that one transaction group follows the
other, as on a server at work: steps that begin together then wait together. With ``--sets``,
shadow copies of 1, 8 and 64 shares are taken at once, and said in how many groups the pool's
history has a change of them; exit status 1 if 8 take more than three times as long as one, or 64
more than twelve times. With ``--proof N``, sets of eight are taken while somebody writes to all of
them in turn; exit status 1 if one is not of one instant. With ``--bare`` too, no more is taken than
their snapshots, which are what decides the instant: clones and holds, made of them later, take most
of an emulated processor's time. With ``--nested``, each share of these has another dataset inside.
Medians, with the median absolute deviation (MAD).
"""

import argparse
import ctypes
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.errors import RvssError
from samba_rvss.kernel import mounting
from samba_rvss.model import Identity, Mark, Nested, Sealed, Taken, Volume
from samba_rvss.providers.beside import side_by_side
from samba_rvss.providers.zfs import snapshots
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.holding import HOLD
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import COPIED, FIXED, MARK, options
from samba_rvss.providers.zfs.provider import Zfs
from samba_rvss.providers.zfs.snapshots import Snapshots
from samba_rvss.providers.zfs.tree import HOME
from samba_rvss.run import run
from tests.bench.writing import is_of_one_instant, writing
from tests.imaging import take_image

zfs = Command()
POOL = "rvss-bench"
SHARE = f"{POOL}/vms"
DEVICE = "/dev/nbd0"
VALUE = "x" * 400  # about as long as a mark
SIZE = 640 << 20
INNER = "inner"
SIZES = (1, 8, 64)
LIMITS = (3.0, 12.0)
_DESTROY = """
for _, name in ipairs((...)["argv"]) do
    assert(zfs.sync.destroy{name, defer=name:find("@") and true or nil} == 0)
end
"""
LIKE = {"acltype": "posix", "xattr": "sa", "recordsize": "65536", "compression": "off"}


class Core:
    """libzfs_core, as far as lists of names and texts go (libzfs_core.h, libnvpair.h)."""

    def __init__(self) -> None:
        self._core = ctypes.CDLL("libzfs_core.so.3")
        self._pairs = ctypes.CDLL("libnvpair.so.3")
        if self._core.libzfs_core_init():
            raise OSError("libzfs_core cannot be used")

    def snapshot(self, name: str) -> None:
        """Take a snapshot with a user property."""
        self._call("lzc_snapshot", self._list({name: None}), self._list({MARK: VALUE}))

    def hold(self, name: str) -> None:
        """Hold a snapshot."""
        self._call("lzc_hold", self._list({name: HOLD}), ctypes.c_int(-1))

    def clone(self, origin: str, name: str, properties: dict[str, str]) -> None:
        """Clone a snapshot, with user properties."""
        texts = (ctypes.c_char_p(name.encode()), ctypes.c_char_p(origin.encode()))
        self._check(self._core.lzc_clone(*texts, self._list(dict(properties)), None, 0))

    def sync(self) -> None:
        """Wait for the next transaction group."""
        how = self._list({})
        self._check(self._pairs.nvlist_add_boolean_value(how, b"force", 0))
        self._call("lzc_sync", ctypes.c_char_p(POOL.encode()), how)

    def _list(self, pairs: dict[str, str | None]) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._check(self._pairs.nvlist_alloc(ctypes.byref(made), 1, 0))
        for name, text in pairs.items():
            if text is None:
                self._check(self._pairs.nvlist_add_boolean(made, name.encode()))
            else:
                self._check(self._pairs.nvlist_add_string(made, name.encode(), text.encode()))
        return made

    def _call(self, function: str, *arguments: object) -> None:
        errors = ctypes.c_void_p()
        self._check(getattr(self._core, function)(*arguments, ctypes.byref(errors)))

    def _check(self, result: int) -> None:
        if result:
            raise OSError(result, os.strerror(result))


def group() -> int:
    """Return the number of the pool's newest transaction group."""
    groups = Path(f"/proc/spl/kstat/zfs/{POOL}/txgs").read_text().splitlines()
    return int(groups[-1].split()[0])


@contextmanager
def pool(iops: int) -> Iterator[None]:
    """Make the pool; with a limit, on a device that keeps it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, ExitStack() as undo:
        file = Path(directory, "pool.img")
        with file.open("wb") as made:
            made.truncate(SIZE)
        device = str(file)
        if iops:
            run(["modprobe", "nbd", "max_part=0"], timeout=30)
            node = "driver=throttle,throttle-group=slow,file.driver=raw"
            node += f",file.file.driver=file,file.file.filename={file}"
            limit = ["--object", f"throttle-group,id=slow,x-iops-total={iops}"]
            words = ["qemu-nbd", "--fork", "-c", DEVICE, *limit, "--image-opts", node]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=30)
            undo.callback(run, ["qemu-nbd", "-d", DEVICE], timeout=30)
            device = DEVICE
        root = [word for key, text in LIKE.items() for word in ("-O", f"{key}={text}")]
        where = ["-O", f"mountpoint={directory}/top", "-o", "cachefile=none"]
        run(["zpool", "create", *where, *root, POOL, device], timeout=120)
        undo.callback(run, ["zpool", "destroy", "-f", POOL], timeout=120)
        zfs("create", "-o", "mountpoint=none", f"{POOL}/{HOME}")
        yield


@contextmanager
def writer(path: str, core: Core) -> Iterator[None]:
    """Write all the time, and have transaction groups written out one after the other."""
    ended = threading.Event()

    def write() -> None:
        with open(path, "wb", buffering=0) as file:
            while not ended.is_set():
                file.seek(0)
                file.write(os.urandom(1 << 20))
                core.sync()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def datasets_of(volume: Volume, nested: Nested) -> list[str]:
    """Return the names of a share's datasets."""
    inside = [f"{volume.name}/{INNER}"] if nested is Nested.INCLUDE else []
    return [volume.name, *inside]


def proof(
    sets: int, volumes: Sequence[Volume], provider: Zfs, nested: Nested, *, bare: bool
) -> dict[str, int]:
    """Take sets while somebody writes to all shares in turn, and read what is in them.

    Args:
        sets: how many.
        volumes: the shares.
        provider: takes the images.
        nested: whether each has another dataset inside.
        bare: whether no more is taken than their snapshots.

    Returns:
        How many sets were in order, and how many were not.
    """
    found = {"in order": 0, "out of order": 0}
    datasets = [name for volume in volumes for name in datasets_of(volume, nested)]
    with writing([Path(mountpoint(name), "number") for name in datasets]) as writer:
        for number in range(sets):
            marks = marks_of(volumes, number, nested)
            numbers = []
            for part in snapshots_of(marks) if bare else images_of(provider, marks):
                numbers.append(int(Path(f"/proc/self/fd/{part}/number").read_text()))
                os.close(part)
            if len(numbers) != len(datasets):
                raise AssertionError(f"{numbers} of {datasets}")
            found["in order" if is_of_one_instant(numbers) else "out of order"] += 1
            with writer.resting():
                destroy_all(marks, bare=bare)
            if number % 10 == 9:
                print(f"{number + 1} sets: {found}", file=sys.stderr, flush=True)
    return found


def marks_of(volumes: Sequence[Volume], number: int, nested: Nested = Nested.REFUSE) -> list[Mark]:
    """Return the marks of a set's images."""
    return [
        Mark(
            id=f"20240229T235959Z-{number:04x}{len(volumes):02x}{place:02x}",
            share=volume.name,
            share_path=mountpoint(volume.name),
            volume=volume,
            nested=nested,
            created=datetime.now(UTC),
        )
        for place, volume in enumerate(volumes)
    ]


def images_of(provider: Zfs, marks: Sequence[Mark]) -> list[int]:
    """Take images of one instant; return their mounts in the order of their marks."""
    return [part for made in taken(provider, marks) for _, part in made.mounts]


def changes(marks: Sequence[Mark]) -> set[str]:
    """Return the transaction groups in which anything of images was changed, by the history."""
    lines = zfs.zpool("history", "-i", POOL).splitlines()
    ours = [line for line in lines if any(mark.id in line for mark in marks)]
    return {found[1] for line in ours if (found := re.search(r"txg:(\d+)", line))}


def names_of(marks: Sequence[Mark]) -> dict[str, list[str]]:
    """Return the names of the images' snapshots, by the images' ids."""
    return {
        mark.id: [f"{name}@rvss-{mark.id}" for name in datasets_of(mark.volume, mark.nested)]
        for mark in marks
    }


def snapshots_of(marks: Sequence[Mark]) -> list[int]:
    """Take the snapshots of images, and mount them, in the order of their marks."""
    names = names_of(marks)
    wanted = {image: Snapshots(names=each, mark=VALUE) for image, each in names.items()}
    every = [name for each in names.values() for name in each]
    failures = snapshots.take(zfs, Pool(name=POOL, guid=""), wanted)
    if failures:
        raise next(iter(failures.values()))
    words = ("get", "-H", "-p", "-o", "value", "createtxg", *every)
    groups = set(zfs(*words).split())
    if len(groups) != 1:
        raise AssertionError(f"{len(every)} snapshots are of the groups {groups}")
    return [mounting.detached_mount("zfs", {"source": name}) for name in every]


def destroy_all(marks: Sequence[Mark], *, bare: bool) -> None:
    """Destroy images, or only their snapshots, with as few programs as that takes."""
    names = [name for each in names_of(marks).values() for name in each]
    clones: list[str] = []
    if not bare:
        zfs("release", HOLD, *names)
        told = zfs("get", "-H", "-p", "-o", "value", "clones", *names)
        clones = sorted(told.replace("\n", ",").strip(",").split(","), reverse=True)
    zfs.fed(_DESTROY, "program", POOL, "-", *clones, *names)


def taken(provider: Zfs, marks: Sequence[Mark]) -> list[Taken]:
    """Take images of one instant; return them in the order of their marks."""
    made = provider.create(marks, math.inf)
    found = []
    for mark in marks:
        image = made[mark.id]
        if isinstance(image, RvssError):
            raise image
        found.append(image)
    if len({each.transid for each in found}) != 1:
        raise AssertionError(f"{len(marks)} copies are of several instants")
    return found


def destroy(provider: Zfs, marks: Sequence[Mark]) -> None:
    """Destroy images, side by side."""
    side_by_side([partial(provider.destroy, mark.volume, mark.id) for mark in marks], 16)


class Round:
    """One round: every step once, on snapshots of its own; figures are milliseconds and groups."""

    def __init__(self, number: int, core: Core, figures: dict[str, list[tuple[float, int]]]):
        self._number, self._core, self._figures = number, core, figures

    def _measure(self, name: str, *steps: Callable[[], object]) -> None:
        before, started = group(), time.perf_counter()
        for step in steps:
            step()
        spent = (time.perf_counter() - started) * 1000
        self._figures.setdefault(name, []).append((spent, group() - before))

    def by_steps(self) -> None:
        """Measure each step alone, whoever does it."""
        measure, core = self._measure, self._core
        one, two, three = (f"{SHARE}@rvss-{way}{self._number}" for way in ("zfs", "lzc", "lua"))
        clone = {name: f"{POOL}/{HOME}/{name}{self._number}" for name in ("zfs", "lzc", "bare")}
        every = options({**LIKE, **FIXED, MARK: VALUE})
        names = ",".join(["guid", *COPIED])
        program = f'zfs.sync.snapshot("{three}"); zfs.sync.set_prop("{three}", "{MARK}", "x")'

        measure("a process: /bin/true", lambda: run(["/bin/true"], timeout=60))
        measure(
            "zfs: snapshot with the mark", lambda: zfs("snapshot", "-o", f"{MARK}={VALUE}", one)
        )
        measure("zfs: hold", lambda: zfs("hold", HOLD, one))
        measure("zfs: read properties", lambda: zfs("get", "-H", "-p", names, SHARE))
        measure("zfs: clone with properties", lambda: zfs("clone", *every, one, clone["zfs"]))
        measure("zfs: clone with none", lambda: zfs("clone", one, clone["bare"]))
        measure("lzc: snapshot with the mark", lambda: core.snapshot(two))
        measure("lzc: hold", lambda: core.hold(two))
        measure(
            "lzc: clone with one property", lambda: core.clone(two, clone["lzc"], {MARK: VALUE})
        )
        with tempfile.NamedTemporaryFile("w") as script:
            script.write(program)
            script.flush()
            measure("program: snapshot with the mark", lambda: zfs("program", POOL, script.name))
        mounts: list[int] = []
        source = {"source": clone["zfs"]}
        measure("mount", lambda: mounts.append(mounting.detached_mount("zfs", source)))
        measure("mount once more", lambda: mounts.append(mounting.detached_mount("zfs", source)))
        measure("unmount", *(lambda fd=fd: os.close(fd) for fd in mounts))
        measure("zfs: set readonly=on", lambda: zfs("set", "readonly=on", clone["zfs"]))
        measure("zfs: destroy the clone", lambda: zfs("destroy", clone["zfs"]))
        measure("zfs: release", lambda: zfs("release", HOLD, one))

    def sets(self, volumes: Sequence[Volume], provider: Zfs) -> dict[int, int]:
        """Measure how long shadow copies of several shares take together.

        Returns:
            By their number, in how many transaction groups anything was changed for them.
        """
        changed = {}
        for size in SIZES:
            marks = marks_of(volumes[:size], self._number)
            made: list[Taken] = []
            self._measure(f"Zfs.create, {size} at once", partial(_extend, made, provider, marks))
            changed[size] = len(changes(marks))
            for each in made:
                for _, part in each.mounts:
                    os.close(part)
            destroy(provider, marks)
        return changed

    def whole(self, volume: Volume, provider: Zfs) -> None:
        """Measure a shadow copy from beginning to end, in the ways that there are."""
        every = options({**LIKE, **FIXED, MARK: VALUE})
        way = {way: f"rvss-{way}{self._number}" for way in ("row", "beside", "core")}

        def clone(name: str) -> None:
            zfs("clone", *every, f"{SHARE}@{name}", f"{POOL}/{HOME}/{name}")

        def row() -> None:
            zfs("snapshot", "-o", f"{MARK}={VALUE}", f"{SHARE}@{way['row']}")
            zfs("hold", HOLD, f"{SHARE}@{way['row']}")
            clone(way["row"])

        def beside() -> None:
            zfs("snapshot", "-o", f"{MARK}={VALUE}", f"{SHARE}@{way['beside']}")
            with ThreadPoolExecutor(1) as other:
                hold = other.submit(zfs, "hold", HOLD, f"{SHARE}@{way['beside']}")
                clone(way["beside"])
                hold.result()

        def core() -> None:
            self._core.snapshot(f"{SHARE}@{way['core']}")
            with ThreadPoolExecutor(1) as other:
                hold = other.submit(self._core.hold, f"{SHARE}@{way['core']}")
                clone(way["core"])
                hold.result()

        self._measure("snapshot, hold, clone: one after the other", row)
        self._measure("snapshot, then hold beside clone", beside)
        self._measure("the same; snapshot and hold by lzc", core)
        sealed = Sealed(set_id="", copy_id="", context=0, exposed_share="", state=None)
        identity = f"20240229T235959Z-{self._number:08x}"
        now = datetime.now(UTC)
        mark = Mark(id=identity, share="vms", share_path="/nowhere", volume=volume, created=now)
        made: list[tuple[str, int]] = []
        self._measure("Zfs.create, opened", lambda: made.extend(take_image(provider, mark).mounts))
        for _, part in made:
            os.close(part)
        parts: list[tuple[str, int]] = []
        self._measure("Zfs.open", lambda: parts.extend(provider.open(volume, identity)))
        self._measure("Zfs.seal", lambda: provider.seal(volume, identity, sealed, opened=True))
        for _, part in parts:
            os.close(part)
        self._measure("Zfs.destroy", lambda: provider.destroy(volume, identity))


@cache
def mountpoint(dataset: str) -> str:
    """Return where a dataset is mounted."""
    return zfs("get", "-H", "-o", "value", "mountpoint", dataset).removesuffix("\n")


def probed(provider: Zfs, dataset: str, nested: Nested = Nested.REFUSE) -> Volume:
    """Return the volume that a dataset is."""
    path = mountpoint(dataset)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        volume = provider.probe(fd, path, nested, thorough=True)
    finally:
        os.close(fd)
    if volume is None:
        raise AssertionError(path)
    provider.ready(volume)
    return volume


def made_volumes(provider: Zfs, count: int, nested: Nested = Nested.REFUSE) -> Iterator[Volume]:
    """Make shares, the first of which is SHARE; yield the volumes that they are."""
    for number in range(count):
        share = f"{SHARE}{number or ''}"
        zfs("create", share)
        if nested is Nested.INCLUDE:
            zfs("create", f"{share}/{INNER}")
        yield probed(provider, share, nested)


def main() -> int:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description="measure the steps of a shadow copy on ZFS")
    parser.add_argument("--rounds", type=int, default=11, help="samples of each (11)")
    parser.add_argument("--iops", type=int, default=0, help="limit of the pool's device (none)")
    parser.add_argument("--busy", action="store_true", help="write all the time")
    parser.add_argument("--sets", action="store_true", help="only sets of 1, 8 and 64 shares")
    parser.add_argument("--proof", type=int, default=0, help="only sets of 8, under a writer")
    parser.add_argument("--bare", action="store_true", help="of these, only the snapshots")
    parser.add_argument(
        "--nested", action="store_true", help="of these, each with a dataset inside"
    )
    arguments = parser.parse_args()
    figures: dict[str, list[tuple[float, int]]] = {}
    core, provider = Core(), Zfs(Identity(id="bench"))
    with ExitStack() as undo:
        undo.enter_context(pool(arguments.iops))
        if arguments.proof:
            nested = Nested.INCLUDE if arguments.nested else Nested.REFUSE
            volumes = [*made_volumes(provider, 8, nested)]
            found = proof(arguments.proof, volumes, provider, nested, bare=arguments.bare)
            print(f"sets while somebody writes: {found}")
            return int(found["out of order"] > 0)
        volumes = [*made_volumes(provider, max(SIZES) if arguments.sets else 1)]
        path = mountpoint(SHARE)
        if arguments.busy:
            undo.enter_context(writer(f"{path}/busy", core))
        for number in range(arguments.rounds + 1):
            if number == 1:
                figures.clear()  # the first round warms up
            turn = Round(number, core, figures)
            if arguments.sets:
                changed = turn.sets(volumes, provider)
                print(f"round {number}: changes in groups, by shares: {changed}", flush=True)
                continue
            turn.by_steps()
            turn.whole(volumes[0], provider)
    print(f"{'':44} {'ms':>8} {'MAD':>7} {'groups':>7}   n={arguments.rounds}")
    for name, samples in figures.items():
        times = [spent for spent, _ in samples]
        middle = statistics.median(times)
        spread = statistics.median(abs(spent - middle) for spent in times)
        groups = statistics.median(count for _, count in samples)
        print(f"{name:44} {middle:8.1f} {spread:7.1f} {groups:7.1f}")
    return missed(figures) if arguments.sets else 0


def _extend(made: list[Taken], provider: Zfs, marks: Sequence[Mark]) -> None:
    made.extend(taken(provider, marks))


def missed(figures: dict[str, list[tuple[float, int]]]) -> int:
    """Say how many times as long as one share sets take; return whether that is too long."""
    one, *several = (statistics.median(ms for ms, _ in samples) for samples in figures.values())
    ratios = [middle / one for middle in several]
    for size, ratio, limit in zip(SIZES[1:], ratios, LIMITS, strict=True):
        print(f"{size} shares: {ratio:.2f} x one (limit {limit:g})")
    return int(any(ratio > limit for ratio, limit in zip(ratios, LIMITS, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
