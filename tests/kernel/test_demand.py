"""Backups that are mounted when somebody looks into them, with the kernel's own autofs."""

import os
import resource
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from samba_rvss.daemon.keeper import Keeper
from samba_rvss.errors import RvssError
from samba_rvss.kernel import autofs, files, mounting, mounttable, processes
from samba_rvss.mounts import Mounts, covering, demand, way
from samba_rvss.testing.waiting import wait_until
from tests import descriptors

pytestmark = pytest.mark.require("root")

NAMES = [f"@GMT-2026.11.20-10.00.{second:02}" for second in range(4)]
OF_A_USER = way.Gate(group=0, by_group=False, others=False, users=((1000, True),))
PRIVATE = way.Gate(group=7, by_group=True, others=False)
LIVE = datetime(2026, 11, 26, 12, tzinfo=UTC)


class Bench:
    """Two directories that a backup may be, and an instance's mounts."""

    def __init__(self, directory: Path, undo: ExitStack) -> None:
        self.run = directory / "run"
        self.run.mkdir()
        self.run.chmod(0o755)
        self.image = directory / "image"
        (self.image / "inner").mkdir(parents=True)
        self.image.chmod(0o755)
        (self.image / "file").write_text("old")
        self.nested = directory / "nested"
        self.nested.mkdir()
        (self.nested / "deep").write_text("nested")
        self.mounts = Mounts(str(self.run))
        self.mounts.prepare(undo)
        undo.callback(self.unmount)
        self.path = Path(self.mounts.make_previous("vms"))
        self.refused: set[str] = set()
        self.is_wanted: Callable[[], bool] = lambda: True
        self.asked: list[tuple[str, bool]] = []

    def unmount(self) -> None:
        """Take everything away that is mounted below the run directory."""
        for target in sorted(mounttable.mount_targets(), reverse=True):
            if target.startswith(f"{self.run}/") or target == str(self.run):
                mounting.umount(target)

    def parts(self, undo: ExitStack) -> list[tuple[str, int]]:
        """Detached mounts, as a provider opens them."""
        found = [("", mounting.open_tree(str(self.image)))]
        found.append(("inner", mounting.open_tree(str(self.nested))))
        for _, fd in found:
            undo.callback(os.close, fd)
        return found

    def live(self) -> Path:
        """Mount something as a shadow copy that is there."""
        path = self.mounts.reserve_previous("vms", LIVE)
        with ExitStack() as undo:
            self.mounts.attach(self.parts(undo), path)
        return Path(path)

    def serve(self, undo: ExitStack) -> None:
        """Answer in a thread of its own until the end."""
        fd, theirs = autofs.pipe()
        undo.callback(os.close, fd)
        self.mounts.demand.open(fd, theirs)
        undo.callback(self.mounts.demand.close)
        end, ended = os.pipe()
        thread = threading.Thread(target=self._serve, args=(fd, end))
        thread.start()
        undo.callback(os.close, end)
        undo.callback(thread.join)
        undo.callback(os.close, ended)

    def keep(self, undo: ExitStack, seconds: float, **how: float) -> Keeper:
        """Have a process hand on questions, and answer those that nobody answers in time."""
        fd, theirs = autofs.pipe()
        keeper = undo.enter_context(Keeper(fd, seconds, **how))
        self.mounts.demand.open(keeper.fileno(), theirs, keeper)
        undo.callback(self.mounts.demand.close)
        self.mounts.demand.cover(str(self.path))
        self.mounts.demand.show(str(self.path), dict.fromkeys(NAMES, "an id"))
        return keeper

    def look(self, name: str) -> "subprocess.Popen[bytes]":
        """Have somebody look into a backup."""
        return subprocess.Popen(
            ("cat", str(self.path / name / "file")),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
            user=1000,
            group=1000,
        )

    def _serve(self, fd: int, end: int) -> None:
        while end not in select.select([fd, end], [], [])[0]:
            for question in self.mounts.demand.asked():
                self.asked.append((question.name, question.missing))
                self.mounts.demand.answer(question, done=self._do(question))

    def _do(self, question: autofs.Asked) -> bool:
        on_demand = self.mounts.demand
        if not question.missing:
            return on_demand.release(question)
        if not on_demand.image(question):
            return False
        with ExitStack() as undo:
            if question.name in self.refused:
                return on_demand.attach(question, self.parts(undo), lambda: False)
            try:
                return on_demand.attach(question, self.parts(undo), self.is_wanted)
            except RvssError:
                return False

    def mounted(self) -> set[str]:
        """What is mounted in the directory, by its names."""
        inside = f"{self.path}/"
        found = (t for t in mounttable.mount_targets() if t.startswith(inside))
        return {target.removeprefix(inside).split("/")[0] for target in found}


def run(*words: str, **how: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program in a process group of its own, as clients are."""
    return subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=False, process_group=0, **how
    )


@pytest.fixture
def bench(rig_directory: Path) -> Iterator[Bench]:
    """A bench that serves, with a shadow copy and two backups."""
    processes.lead()
    with ExitStack() as undo:
        found = Bench(rig_directory, undo)
        found.serve(undo)
        yield found


def test_mounted_when_looked_into(bench: Bench) -> None:
    live = bench.live()
    kept = live / "file"
    with kept.open() as opened:
        bench.mounts.demand.cover(str(bench.path))
        assert opened.read() == "old"
    bench.mounts.demand.show(str(bench.path), dict.fromkeys(NAMES[:2], "an id"))
    # Listing mounts nothing.
    done = run("ls", str(bench.path), user=1000, group=1000, extra_groups=[])
    assert done.stdout.split() == [*NAMES[:2], live.name], done.stderr
    assert bench.mounted() == {live.name}
    assert bench.asked == []
    # Looking into one mounts that, with what is nested in it, as everything of a copy is mounted.
    words = [str(bench.path / NAMES[0] / name) for name in ("file", "inner/deep")]
    done = run("cat", *words, user=1000, group=1000, extra_groups=[])
    assert done.stdout == "oldnested", done.stderr
    assert bench.mounted() == {live.name, NAMES[0]}
    (mount,) = [m for m in mounttable.mountinfo() if m.target == str(bench.path / NAMES[0])]
    assert {"ro", "nosuid", "nodev", "noexec"} <= mount.options
    # What is not there is not, and nobody makes anything there.
    for path in (bench.path / NAMES[3] / "file", bench.path / NAMES[3]):
        assert "No such file" in run("ls", str(path)).stderr
    assert run("mkdir", str(bench.path / "own")).returncode
    # One that has gone meanwhile is not an empty directory.
    bench.refused.add(NAMES[1])
    assert "No such file" in run("cat", str(bench.path / NAMES[1] / "file")).stderr
    # A shadow copy's mount is as it is without backups.
    assert (live / "file").read_text() == "old"
    bench.mounts.detach(str(live))
    assert sorted(os.listdir(bench.path)) == NAMES[:2]
    assert bench.live() == live
    assert bench.mounts.is_mounted(str(live))


def test_unmounted_when_unused(bench: Bench) -> None:
    live = bench.live()
    bench.mounts.demand.cover(str(bench.path))
    bench.mounts.demand.show(str(bench.path), dict.fromkeys(NAMES[:2], "an id"))
    assert run("ls", *(str(bench.path / name / "inner") for name in NAMES[:2])).returncode == 0
    assert bench.mounted() == {live.name, *NAMES[:2]}
    bench.mounts.demand.expire()  # not for so long yet
    assert bench.mounted() == {live.name, *NAMES[:2]}
    with files.opened(os.open(bench.path, files.DIRECTORY)) as root:
        autofs.set_timeout(root, 1)
    user = subprocess.Popen(["sleep", "60"], cwd=bench.path / NAMES[1], process_group=0)
    try:
        while bench.mounted() != {live.name, NAMES[1]}:
            bench.mounts.demand.expire()
    finally:
        user.kill()
        user.wait()
    assert (live / "file").read_text() == "old"
    # And it is there again for who looks once more.
    assert run("cat", str(bench.path / NAMES[0] / "inner" / "deep")).stdout == "nested"


def test_no_more_than_so_many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "MOST", 2)
    bench.mounts.demand.cover(str(bench.path))
    bench.mounts.demand.show(str(bench.path), dict.fromkeys(NAMES, "an id"))
    directories = [bench.path / name for name in NAMES]
    users = []
    try:
        for directory in directories[:2]:
            assert run("ls", str(directory / "inner")).returncode == 0
            users.append(subprocess.Popen(["sleep", "60"], cwd=directory, process_group=0))
        bench.mounts.demand.make_room()  # they are in use
        assert "No such file" in run("ls", str(directories[2] / "inner")).stderr
        assert bench.mounted() == set(NAMES[:2])
    finally:
        for user in users:
            user.kill()
            user.wait()
    while len(bench.mounted()) > 1:
        bench.mounts.demand.make_room()
    bench.mounts.demand.make_room()
    assert len(bench.mounted()) == 1
    assert run("ls", str(directories[2] / "inner")).returncode == 0
    # One that goes in another way leaves its room.
    bench.mounts.demand.show(str(bench.path), {NAMES[3]: "an id"})
    assert run("ls", str(directories[3] / "inner")).returncode == 0
    assert bench.mounted() == {NAMES[3]}


def test_in_a_mount_namespace_that_follows_ours(bench: Bench) -> None:
    bench.mounts.demand.cover(str(bench.path))
    bench.mounts.demand.show(str(bench.path), {NAMES[0]: "an id"})
    words = ("unshare", "--mount", "--propagation", "slave", "sh", "-c")
    script = f"read -r once; cat {bench.path}/{NAMES[0]}/inner/deep; read -r again; ls {bench.path}"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*words, script], stdin=pipe, stdout=pipe, bufsize=0, process_group=0
    ) as there:
        assert there.stdin is not None
        assert there.stdout is not None
        there.stdin.write(b"\n")
        assert there.stdout.read(6) == b"nested"
        assert bench.mounted() == {NAMES[0]}
        # What is taken away here is not held there.
        bench.mounts.demand.uncover(str(bench.path))
        assert there.communicate(b"\n", timeout=60)[0] == b""
        assert there.returncode == 0


def test_plain_when_nobody_serves(bench: Bench) -> None:
    live = bench.live()
    bench.mounts.demand.cover(str(bench.path))
    bench.mounts.demand.show(str(bench.path), {NAMES[0]: "an id"})
    assert run("cat", str(bench.path / NAMES[0] / "file")).stdout == "old"
    # A backup that is deleted, or is another one by that name, is taken away first.
    bench.mounts.demand.show(str(bench.path), {NAMES[0]: "another"})
    assert bench.mounted() == {live.name}
    bench.mounts.demand.show(str(bench.path), {})
    assert os.listdir(bench.path) == [live.name]
    bench.mounts.demand.show(str(bench.path), {NAMES[0]: "an id"})
    bench.mounts.demand.uncover(str(bench.path))
    assert os.listdir(bench.path) == [live.name]
    assert (live / "file").read_text() == "old"
    assert not mounttable.is_mount_root(str(bench.path))


_READER = """
import os, sys
ended, count = False, 0
os.set_blocking(0, False)
while not ended:
    for path in sys.argv[1:]:
        with open(path) as file:
            assert file.read() in ("old", "nested")
    count += 1
    if count == 1:
        print("reads", flush=True)
    try:
        ended = os.read(0, 1) == b""
    except BlockingIOError:
        pass
"""


def test_shadow_copies_are_there_all_the_while(bench: Bench) -> None:
    live = bench.live()
    words = [sys.executable, "-I", "-c", _READER, str(live / "file"), str(live / "inner" / "deep")]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, process_group=0) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reads\n"
        for _ in range(20):
            bench.mounts.demand.cover(str(bench.path))
            bench.mounts.demand.show(str(bench.path), {NAMES[0]: "an id"})
            bench.mounts.demand.uncover(str(bench.path))
        _, said = reader.communicate(timeout=60)
        assert reader.returncode == 0, said


def test_after_a_daemon_that_was_killed(rig_directory: Path) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        live = bench.live()
        served = undo.enter_context(ExitStack())
        bench.serve(served)
        bench.mounts.demand.cover(str(bench.path))
        bench.mounts.demand.show(str(bench.path), dict.fromkeys(NAMES[:2], "an id"))
        assert run("cat", str(bench.path / NAMES[0] / "file")).stdout == "old"
        # What a SIGKILL leaves: nobody has the other end of the pipe.
        fds = bench.mounts.demand.abandon()
        served.close()
        for fd in fds:
            os.close(fd)
        words = ("ls", str(bench.path / NAMES[1]))
        assert run(*words).returncode
        client = run(*words, user=1000, group=1000, extra_groups=[])
        assert (client.stdout, client.returncode) != ("", 0)
        assert (live / "file").read_text() == "old"
        kept = [str(bench.path / name) for name in NAMES]
        covering.give_up(str(bench.run), kept)
        assert os.listdir(bench.path) == [live.name]
        assert (live / "file").read_text() == "old"
        assert bench.mounted() == {live.name}


def test_one_directory_that_cannot_be_taken_over(rig_directory: Path) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        live, other = bench.live(), bench.live()
        served = undo.enter_context(ExitStack())
        bench.serve(served)
        paths = [str(bench.path), bench.mounts.make_previous("more")]
        for path in paths:
            bench.mounts.demand.cover(path)
            bench.mounts.demand.show(path, {NAMES[0]: "an id"})
        fds = bench.mounts.demand.abandon()
        served.close()
        for fd in fds:
            os.close(fd)
        # Somebody has mounted something over the second one.
        with files.opened(mounting.open_tree(str(bench.image))) as theirs:
            mounting.move_mount(theirs, paths[1])
        # And something is mounted that cannot be carried over (mount_namespaces(7)).
        assert run("mount", "--make-unbindable", str(other)).returncode == 0
        backups = [f"{path}/{NAMES[0]}" for path in paths]
        lost, left = bench.mounts.take_over(backups)
        assert str(other) in lost
        assert paths[1] in left
        assert sorted(os.listdir(bench.path)) == [live.name, other.name]
        assert (live / "file").read_text() == "old"
        assert bench.mounted() == {live.name}
        bench.serve(undo)
        bench.mounts.demand.cover(paths[0])
        with pytest.raises(RvssError, match="something is mounted"):
            bench.mounts.demand.cover(paths[1])
        # What is served is nobody's to take over; the other is when it can be.
        mounting.umount(paths[1])
        assert bench.mounts.take_over(backups) == []
        assert bench.mounts.on_demand() == [paths[0]]
        bench.mounts.demand.cover(paths[1])


@pytest.mark.parametrize(
    "gate",
    [
        way.Gate(group=7, by_group=True, others=False),
        OF_A_USER,
        way.Gate(group=7, by_group=True, others=True, users=((1000, False),)),
    ],
    ids=lambda gate: gate.name,
)
def test_as_closed_as_the_way_to_the_share(bench: Bench, gate: way.Gate) -> None:
    live = bench.live()
    path = bench.mounts.make_previous("vms", [gate])
    bench.mounts.demand.cover(path)
    bench.mounts.demand.show(path, {NAMES[0]: "an id"})
    for uid, gid in ((1000, 1000), (1001, 7), (1002, 1002)):
        said = dict(gate.users)
        passes = said.get(uid, gate.by_group if gid == 7 else gate.others)
        for words in (("ls", path), ("cat", f"{path}/{NAMES[0]}/file"), ("cat", f"{live}/file")):
            done = run(*words, user=uid, group=gid, extra_groups=[])
            assert (done.returncode == 0) == passes, (uid, words, done.stderr)
    # The way can be closed while it serves, and opened.
    bench.mounts.make_previous("vms", [way.CLOSED])
    assert run("ls", path, user=1000, group=7, extra_groups=[]).returncode
    bench.mounts.make_previous("vms")
    assert run("ls", path, user=1002, group=1002, extra_groups=[]).returncode == 0


@pytest.mark.parametrize("how", ["uncovered", "killed"])
def test_what_was_closed_meanwhile_stays_closed(rig_directory: Path, how: str) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        live, path = bench.live(), str(bench.path)
        served = undo.enter_context(ExitStack())
        bench.serve(served)
        bench.mounts.demand.cover(path)
        bench.mounts.make_previous("vms", [PRIVATE])
        if how == "uncovered":
            bench.mounts.demand.uncover(path)
        else:
            fds = bench.mounts.demand.abandon()
            served.close()
            for fd in fds:
                os.close(fd)
            covering.give_up(str(bench.run), ())
            bench.serve(undo)
        for turn in ("plain", "covered"):
            for gid in (7, 8):
                for words in (("ls", path), ("cat", f"{live}/file")):
                    done = run(*words, user=1001, group=gid, extra_groups=[])
                    assert (done.returncode == 0) == (gid == 7), (turn, gid, words, done.stderr)
            bench.mounts.demand.cover(path)


def test_an_acl_on_the_way(bench: Bench) -> None:
    live = bench.live()
    gate = way.Gate(group=0, by_group=False, others=False, groups=((7, True),))
    bench.mounts.demand.cover(str(bench.path))
    bench.mounts.demand.show(str(bench.path), {NAMES[0]: "an id"})
    # No autofs can stand for it: the shadow copies stay, and are as closed as they have to be.
    path = bench.mounts.make_previous("vms", [gate])
    assert os.listdir(path) == [live.name]
    for gid, passes in ((7, True), (8, False)):
        done = run("cat", f"{live}/file", user=1001, group=gid, extra_groups=[])
        assert (done.returncode == 0) == passes
    with pytest.raises(RvssError, match="ACL"):
        bench.mounts.demand.cover(path)


def test_the_end_waits_for_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "_CLOSE_SECONDS", 0.1)
    live = bench.live()
    bench.mounts.demand.cover(str(bench.path))
    bench.mounts.demand.show(str(bench.path), dict.fromkeys(NAMES[:2], "an id"))
    reached, ended = threading.Event(), threading.Event()

    def hang() -> bool:
        reached.set()
        return ended.wait(60)

    bench.is_wanted = hang
    words = ("cat", str(bench.path / NAMES[0] / "file"))
    with subprocess.Popen(words, stderr=subprocess.PIPE, process_group=0) as waiting:
        assert reached.wait(60)
        try:
            # Somebody is in the midst of a change: who waits is told all the same.
            with pytest.raises(TimeoutError):
                bench.mounts.demand.close()
            assert b"No such file" in waiting.communicate(timeout=60)[1]
        finally:
            ended.set()
    bench.mounts.demand.uncover(str(bench.path))
    assert os.listdir(bench.path) == [live.name]
    assert (live / "file").read_text() == "old"


def test_an_autofs_that_asks_nothing_any_more(bench: Bench) -> None:
    first = bench.live()
    second = Path(bench.mounts.reserve_previous("vms", LIVE))
    bench.mounts.demand.cover(str(bench.path))
    bench.mounts.demand.show(str(bench.path), {NAMES[0]: "an id"})
    with files.opened(os.open(bench.path, files.DIRECTORY)) as root:
        autofs.silence(root)
    # The kernel lets nobody make or remove anything in it; a shadow copy goes all the same.
    with pytest.raises(RvssError, match="Permission denied"):
        bench.mounts.reserve_previous("vms", LIVE)
    bench.mounts.detach(str(first))
    assert bench.mounted() == set()
    bench.mounts.demand.uncover(str(bench.path))
    assert sorted(os.listdir(bench.path)) == [first.name, second.name]
    for path in (first, second):
        bench.mounts.detach(str(path))
    assert os.listdir(bench.path) == []


def test_what_could_not_be_uncovered_is_the_next_time(bench: Bench) -> None:
    live = bench.live()
    bench.mounts.demand.cover(str(bench.path))
    bench.mounts.demand.show(str(bench.path), {NAMES[0]: "an id"})
    bench.path.parent.rename(aside := bench.run / "aside")
    with pytest.raises(FileNotFoundError):
        bench.mounts.demand.uncover(str(bench.path))
    aside.rename(bench.path.parent)
    assert "No such file" in run("cat", str(bench.path / NAMES[0] / "file")).stderr
    bench.mounts.demand.cover(str(bench.path))
    bench.mounts.demand.show(str(bench.path), {NAMES[0]: "an id"})
    assert run("cat", str(bench.path / NAMES[0] / "file")).stdout == "old"
    bench.mounts.demand.uncover(str(bench.path))
    assert bench.mounted() == {live.name}
    bench.mounts.detach(str(live))
    assert os.listdir(bench.path) == []


def test_an_autofs_that_somebody_unmounts(bench: Bench) -> None:
    live = bench.live()
    for _ in range(2):
        bench.mounts.demand.cover(str(bench.path))
        bench.mounts.demand.show(str(bench.path), {NAMES[0]: "an id"})
        assert run("cat", str(bench.path / NAMES[0] / "file")).stdout == "old"
        mounting.umount(str(bench.path))
        assert bench.mounts.on_demand() == []
        bench.mounts.demand.uncover(str(bench.path))
        assert os.listdir(bench.path) == [live.name]


def test_an_owner_who_does_not_answer(rig_directory: Path) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        live = bench.live()
        keeper = bench.keep(undo, 0.1)
        words = ("cat", str(bench.path / NAMES[0] / "file"))
        for name in NAMES[:3]:  # only for the first one has it to be seen that he does not
            assert "No such file" in run("cat", str(bench.path / name / "file")).stderr
        assert (live / "file").read_text() == "old"
        # He comes back: what he had not answered is over, and the next question is a new one.
        stale = bench.mounts.demand.asked()
        assert [question.name for question in stale] == [NAMES[0]]
        bench.mounts.demand.answer(stale[0], done=True)
        # He ends while somebody waits: nobody is asked any more.
        waiting = bench.look(NAMES[0])
        assert select.select([keeper.fileno()], [], [], 60)[0]
        with open(os.devnull) as null:
            os.dup2(null.fileno(), keeper.fileno())
        assert waiting.wait(60)
        assert run(*words, user=1000, group=1000, extra_groups=[]).returncode
        assert (live / "file").read_text() == "old"


def keeper_process() -> int:
    """Return the id of the keeper's process, as soon as the kernel has its arguments.

    Who starts a process goes on at the child's execve(2), before those are in place.
    """

    def found() -> list[int]:
        children = processes.descendants(os.getpid())
        words = {pid: " ".join(processes.arguments(pid)) for pid in children}
        return [pid for pid, said in words.items() if "daemon.keeper import" in said]

    wait_until("there is a keeper", lambda: bool(found()))
    (pid,) = found()
    return pid


_FLOOD = """
import os, sys, time
end = time.monotonic() + 60
number = 0
while time.monotonic() < end:
    number += 1
    try:
        os.stat(f"{sys.argv[1]}/@GMT-none-{os.getpid()}-{number}/file")
    except OSError as exc:
        assert exc.errno == 2, exc
    if number == 20:
        print("looks", flush=True)
"""


def test_who_looks_for_what_is_not_there_keeps_nobody_from_what_is(rig_directory: Path) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        bench.path = Path(bench.mounts.make_previous("vms", [OF_A_USER]))
        keeper = bench.keep(undo, 0.1)
        for name in ("none", "@GMT-2026.11.20-10.00.09", "\udcff"):
            assert "No such" in run("ls", str(bench.path / name)).stderr
        assert bench.mounts.demand.asked() == []
        # It has what it needs for that, and no more.
        pid = keeper_process()
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        assert f"CapPrm:\t{1 << processes.CAP_DAC_READ_SEARCH:016x}\n" in status
        words = (sys.executable, "-I", "-c", _FLOOD, str(bench.path))
        for _ in range(3):
            flood = subprocess.Popen(
                words, stdout=subprocess.PIPE, process_group=0, user=1000, group=1000
            )
            undo.callback(flood.wait)
            undo.callback(flood.kill)
            assert flood.stdout is not None
            undo.callback(flood.stdout.close)
            assert flood.stdout.readline() == b"looks\n"
        # Who has a question about what is there gets an answer, and that alone reaches the owner.
        waiting = bench.look(NAMES[0])
        assert waiting.wait(60)
        assert [question.name for question in bench.mounts.demand.asked()] == [NAMES[0]]
        with open(os.devnull) as null:
            os.dup2(null.fileno(), keeper.fileno())  # he ends
        assert bench.look(NAMES[1]).wait(60)
        bench.mounts.demand.close()
        bench.mounts.demand.cover(str(bench.path))
        assert bench.mounts.demand.covered == ()


def test_an_answer_reaches_a_keeper_that_took_nothing(rig_directory: Path) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        keeper = bench.keep(undo, 0.1)
        pid = keeper_process()
        waiting = bench.look(NAMES[0])
        assert select.select([keeper.fileno()], [], [], 60)[0]
        (question,) = bench.mounts.demand.asked()
        os.kill(pid, signal.SIGSTOP)
        try:
            other = autofs.Asked(token=0, device=question.device, name="", missing=True, pid=0)
            for _ in range(2000):
                keeper.done(other)
            with pytest.raises(BlockingIOError):  # what comes later does not overtake it
                keeper.add(0)
            bench.mounts.demand.answer(question, done=False)
            time.sleep(0.2)  # its time is up when it goes on
        finally:
            os.kill(pid, signal.SIGCONT)
        assert waiting.wait(60)

        def asks_again() -> bool:
            keeper.done(other)
            with bench.look(NAMES[1]):
                return any(question.name == NAMES[1] for question in bench.mounts.demand.asked())

        wait_until("the owner is asked again", asks_again)


def test_an_owner_who_never_says_that_he_has_answered(rig_directory: Path) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        bench.keep(undo, 0.1, forget=0.1)
        assert bench.look(NAMES[0]).wait(60)
        assert [question.name for question in bench.mounts.demand.asked()] == [NAMES[0]]

        def asks_again() -> bool:
            bench.look(NAMES[1]).wait(60)
            return bool(bench.mounts.demand.asked())

        wait_until("the owner is asked again", asks_again)


def test_without_descriptors_nothing_is_there_that_nobody_answers(rig_directory: Path) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        live = bench.live()
        bench.keep(undo, 0.1)
        path = str(bench.path)
        bench.mounts.demand.uncover(path)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        open_now = descriptors.count()
        lowest = os.dup(0)  # the limit is one of numbers, and not all below are in use
        os.close(lowest)
        failures: list[str] = []
        while True:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + len(failures), before[1]))
            try:
                bench.mounts.demand.cover(path)
                break
            except RvssError as exc:
                failures.append(str(exc))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert not mounttable.is_mount_root(path)
            assert descriptors.count() == open_now
        assert len(failures) > 3
        expected = f"backups cannot be mounted on demand at {path}: Too many open files"
        assert set(failures) == {expected}
        assert bench.mounts.demand.covered == (path,)
        bench.mounts.demand.show(path, {NAMES[0]: "an id"})
        assert (live / "file").read_text() == "old"
        assert bench.look(NAMES[0]).wait(60)
        assert [question.name for question in bench.mounts.demand.asked()] == [NAMES[0]]


def _after_the_service(directory: str) -> list[str]:
    """Return what systemd does after the service (systemd.service(5)), for a run directory."""
    unit = Path(__file__).parents[2] / "systemd" / "samba-rvss.service"
    (line,) = (
        line.removeprefix("ExecStopPost=-")
        for line in unit.read_text().splitlines()
        if line.startswith("ExecStopPost=")
    )
    assert "%t/samba-rvss/" in line
    return shlex.split(line.replace("%t/samba-rvss", directory).replace("$$", "$"))


def _next_daemon(directory: str) -> list[str]:
    code = f"from samba_rvss.mounts import covering; covering.wake({directory!r})"
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("words", [_after_the_service, _next_daemon])
def test_who_waits_when_all_are_killed(
    rig_directory: Path, words: Callable[[str], list[str]]
) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        live = bench.live()
        keeper = bench.keep(undo, 600)
        # Whom somebody serves it does not disturb.
        done = run(*words(str(bench.run)), cwd=Path(__file__).parents[2])
        assert (done.stdout, done.stderr) == ("", "")
        pidfd = os.pidfd_open(keeper_process())
        undo.callback(os.close, pidfd)
        waiting = bench.look(NAMES[0])
        undo.callback(waiting.wait)
        undo.callback(waiting.kill)
        assert select.select([keeper.fileno()], [], [], 60)[0]
        for fd in bench.mounts.demand.abandon():
            os.close(fd)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        wait_until("the keeper has ended", lambda: processes.has_ended(pidfd))
        assert waiting.poll() is None
        done = run(*words(str(bench.run)), cwd=Path(__file__).parents[2])
        assert (done.stdout, done.stderr) == ("", "")
        assert waiting.wait(60)
        assert bench.look(NAMES[1]).wait(60)
        assert (live / "file").read_text() == "old"


def test_a_keeper_that_ends_while_something_is_to_be_unmounted(rig_directory: Path) -> None:
    processes.lead()
    with ExitStack() as undo:
        bench = Bench(rig_directory, undo)
        keeper = bench.keep(undo, 600)
        pid = keeper_process()
        pidfd = os.pidfd_open(pid)
        undo.callback(os.close, pidfd)
        waiting = bench.look(NAMES[0])
        assert select.select([keeper.fileno()], [], [], 60)[0]
        (question,) = bench.mounts.demand.asked()
        parts = bench.parts(undo)
        done = bench.mounts.demand.attach(question, parts, lambda: True)
        bench.mounts.demand.answer(question, done=done)
        assert waiting.wait(60) == 0
        root = os.open(bench.path, files.DIRECTORY)
        undo.callback(os.close, root)
        expiring = threading.Thread(
            target=autofs.expire, args=(root,), kwargs={"at_once": True}, daemon=True
        )
        expiring.start()
        assert select.select([keeper.fileno()], [], [], 60)[0]
        os.kill(pid, signal.SIGSTOP)
        keeper.done(question)  # it ends without having heard that
        os.kill(pid, signal.SIGKILL)
        # What it has handed on comes first, and then that it has ended.
        wait_until("it has ended", lambda: processes.has_ended(pidfd))
        asked = bench.mounts.demand.asked()
        with pytest.raises(EOFError):
            bench.mounts.demand.asked()
        assert [(question.name, question.missing) for question in asked] == [(NAMES[0], False)]
        bench.mounts.demand.silence()
        expiring.join(60)
        assert not expiring.is_alive()
