"""Recovery mounts, with the kernel's own: any directory will do."""

import errno
import fcntl
import mmap
import os
import pwd
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.mounts import Mounts, escape, places, way

pytestmark = pytest.mark.require("root")
# What an older kernel does in a way of its own: it cannot clone what is detached.
old_kernel = pytest.mark.vm(seconds=1.5)

CLOSED = frozenset({"ro", "nosuid", "nodev", "noexec", "noatime"})
NOW = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
NAME = "20240229T235959Z-0123abcd"


class Bench:
    """A volume with a share in it, and the recovery mounts of one instance.

    Args:
        directory: where.
        beneath: whether the kernel's way to mount beneath others may be used.
    """

    def __init__(self, directory: Path, *, beneath: bool = True) -> None:
        self.volume = directory / "volume"
        self.share = self.volume / "share"
        self.share.mkdir(parents=True)
        (self.volume / "secret").mkdir()
        (self.volume / "secret" / "file").write_text("secret")
        (self.share / "file").write_text("content")
        self.run = directory / "run"
        self.run.mkdir()
        self._undo = ExitStack()
        self.mounts = Mounts(str(self.run), beneath=beneath)
        self.mounts.prepare(self._undo)
        self.path = Path(self.mounts.exposed_path("vms", NAME))

    @contextmanager
    def source(self, share: Path | None = None) -> Iterator[list[tuple[str, int]]]:
        """Detached mounts of the share, or of another directory, as a provider opens them."""
        fd = os.open(share or self.share, os.O_PATH | os.O_DIRECTORY)
        try:
            detached = mounting.open_tree(fd)
        finally:
            os.close(fd)
        try:
            yield [("", detached)]
        finally:
            os.close(detached)

    def attach(self, path: Path | None = None) -> Path:
        """Mount the share at the exposed path, or at another."""
        with self.source() as source:
            self.mounts.attach(source, str(path or self.path))
        return path or self.path

    def end(self) -> None:
        """Take every mount away that a test left on purpose, and the run directory's."""
        self._undo.close()
        below = {t for t in mounttable.mount_targets() if t.startswith(f"{self.run}/")}
        for target in (*sorted(below, reverse=True), str(self.run)):
            _unmount(target)


def _unmount(path: str) -> None:
    """Take away all that is mounted at a path."""
    with suppress(OSError):
        while True:
            mounting.umount(path)


@pytest.fixture
def bench(rig_directory: Path) -> Iterator[Bench]:
    made = Bench(rig_directory)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(params=["beneath", "on top"])
def either(request: pytest.FixtureRequest, rig_directory: Path) -> Iterator[Bench]:
    """A bench that replaces as the kernel can, and as kernels before Linux 6.5 do."""
    made = Bench(rig_directory, beneath=request.param == "beneath")
    try:
        yield made
    finally:
        made.end()


@contextmanager
def follower(*options: str) -> Iterator[Path]:
    """A mount namespace that follows ours, as a container's does; yields its root.

    Args:
        options: more options of unshare(1).
    """
    words = ["unshare", "--mount", "--propagation", "slave", *options]
    words += ["sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            yield Path(f"/proc/{other.pid}/root")
        finally:
            other.kill()


def _seen(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _is_writable(path: Path) -> bool:
    try:
        with path.open("ab"):
            return True
    except OSError as exc:
        if exc.errno != errno.EROFS:
            raise
        return False


def _options(path: Path) -> list[frozenset[str]]:
    return [mount.options for mount in mounttable.mountinfo() if mount.target == str(path)]


# attach


@old_kernel
def test_attached_mount_is_closed(bench: Bench) -> None:
    path = bench.attach()
    (options,) = _options(path)
    assert options >= CLOSED
    assert (path / "file").read_text() == "content"
    assert bench.mounts.is_closed(str(path))
    with pytest.raises(OSError, match="Read-only") as caught:
        (path / "file").write_text("too early")
    assert caught.value.errno == errno.EROFS


def test_no_other_state_is_ever_visible(bench: Bench) -> None:
    """Somebody who reads the mount table all the time sees it closed or not at all."""
    needle = bench.run.name.encode() + b"/exposed/"
    ended = threading.Event()
    seen: list[frozenset[str]] = []

    def look() -> None:
        while not ended.is_set():
            raw = mounttable.read_mountinfo()
            if needle in raw:
                seen.extend(
                    mount.options
                    for mount in mounttable.mountinfo(raw)
                    if mount.target.startswith(f"{bench.run}/exposed/")
                )

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        number, deadline = 0, time.monotonic() + 30
        while number < 150 or (not seen and time.monotonic() < deadline):
            path = bench.attach(bench.path.with_name(f"copy{number}"))
            bench.mounts.detach(str(path))
            number += 1
    finally:
        ended.set()
        watcher.join()
    assert seen, "the watcher was too slow to see anything"
    assert all(options >= CLOSED for options in seen)


def test_attach_that_fails_leaves_nothing(bench: Bench) -> None:
    with bench.source() as source:
        pass  # it is closed now
    with pytest.raises(RvssError, match=re.escape(str(bench.path))) as caught:
        bench.mounts.attach(source, str(bench.path))
    assert caught.value.problem is Problem.SYSTEM
    assert not bench.path.exists()
    bench.path.parent.mkdir(parents=True)
    bench.path.write_text("in the way")
    with bench.source() as source, pytest.raises(RvssError) as caught:
        bench.mounts.attach(source, str(bench.path))
    assert caught.value.problem is Problem.SYSTEM
    assert bench.mounts.listing() == []
    assert bench.path.read_text() == "in the way"


def test_mounts_of_one_image_are_independent(bench: Bench) -> None:
    other = bench.attach(Path(bench.mounts.reserve_previous("vms", NOW)))
    bench.attach()
    bench.mounts.open(str(bench.path))
    (bench.path / "file").write_text("recovered")
    assert (other / "file").read_text() == "recovered"
    assert bench.mounts.is_closed(str(other))
    bench.mounts.detach(str(bench.path))
    assert (other / "file").read_text() == "recovered"


@contextmanager
def nested(bench: Bench, count: int = 2) -> Iterator[Path]:
    """Mount the share with others inside, as of an image with nested volumes."""
    with ExitStack() as undo:
        parts = []
        for number in range(count + 1):
            below = f"inner {number}" if number else ""
            (bench.share / below).mkdir(exist_ok=True)
            ((_, part),) = undo.enter_context(bench.source())
            parts.append((below, part))
        bench.mounts.attach(parts, str(bench.path))
    yield bench.path


def test_what_somebody_mounted_first_stays(bench: Bench) -> None:
    """Sealing may have put the sealed image there, while its writable parts were opened for it."""
    other = bench.volume / "secret"
    bench.attach()
    with bench.source(other) as late:
        bench.mounts.attach(late, str(bench.path))
    assert (bench.path / "file").read_text() == "content"
    bench.mounts.detach(str(bench.path))
    assert not bench.path.exists()


@old_kernel
def test_nested_mounts_are_treated_as_one(bench: Bench) -> None:
    with nested(bench) as path:
        inner = path / "inner 2"
        for target in (path, path / "inner 1", inner):
            (options,) = _options(target)
            assert options >= CLOSED
        assert bench.mounts.is_closed(str(path))
        assert bench.mounts.listing() == [str(path)]
        bench.mounts.open(str(path))
        assert not bench.mounts.is_closed(str(path))
        assert bench.mounts.listing() == [str(path)]
        with (inner / "file").open("ab"):
            assert _is_writable(path / "file")
            assert _is_writable(path / "inner 1" / "file")
            bench.mounts.close(str(path))
            for target in (path, path / "inner 1", inner):
                assert not _is_writable(target / "file")
        assert bench.mounts.is_closed(str(path))
        mounting.mount_setattr(str(inner), clear=mounting.MOUNT_ATTR_RDONLY)
        assert not bench.mounts.is_closed(str(path))
        bench.mounts.detach(str(path))
        assert bench.mounts.listing() == []
        assert not path.exists()


def _link(place: Path, outside: Path) -> None:
    place.symlink_to(outside)


def _link_inside(place: Path, outside: Path) -> None:
    (place.parent / "other").mkdir()
    place.symlink_to("other")


def _file(place: Path, outside: Path) -> None:
    place.write_text("a file")


def _nothing(place: Path, outside: Path) -> None:
    pass


@old_kernel
@pytest.mark.parametrize("replace", [_link, _link_inside, _file, _nothing])
def test_place_of_a_nested_mount_that_somebody_replaced(
    bench: Bench, caplog: pytest.LogCaptureFixture, replace: Callable[[Path, Path], None]
) -> None:
    """Nothing of it leads out of the image, and the rest of the copy is there."""
    outside = bench.volume / "outside"
    (outside / "deep").mkdir(parents=True)
    (bench.share / "good" / "inner").mkdir(parents=True)
    replace(bench.share / "bad", outside)
    with ExitStack() as undo:
        parts = undo.enter_context(bench.source())
        for below in ("bad", "bad/deep", "good", "good/inner"):
            source = bench.share / "good" if below == "good" else None
            ((_, part),) = undo.enter_context(bench.source(source))
            parts.append((below, part))
        bench.mounts.attach(parts, str(bench.path))
    mounted = [m.target for m in mounttable.mountinfo() if m.target.startswith(str(bench.volume))]
    assert mounted == []
    inside = [m.target for m in mounttable.mountinfo() if m.target.startswith(str(bench.path))]
    assert inside == [str(bench.path / below) for below in (".", "good", "good/inner")]
    assert (bench.path / "good" / "inner" / "file").read_text() == "content"
    said = [record.getMessage() for record in caplog.records]
    assert [" without bad:" in said[0], " without bad/deep:" in said[1], len(said)] == [1, 1, 2]


@old_kernel
def test_place_of_a_nested_mount_deeper_than_a_path_can_be_long(bench: Bench) -> None:
    names = ["d" * 200] * 24
    with ExitStack() as undo:
        fd = os.open(bench.share, os.O_RDONLY)
        for name in names:
            os.mkdir(name, dir_fd=fd)
            deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        undo.callback(os.close, fd)
        parts = undo.enter_context(bench.source())
        ((_, part),) = undo.enter_context(bench.source(bench.volume / "secret"))
        bench.mounts.attach([*parts, ("/".join(names), part)], str(bench.path))
    bench.mounts.open(str(bench.path))
    deepest = "/".join((str(bench.path), *names))
    assert [m.target for m in mounttable.mountinfo()].count(deepest) == 2
    bench.mounts.close(str(bench.path))
    assert [m.target for m in mounttable.mountinfo()].count(deepest) == 1
    bench.mounts.detach(str(bench.path))
    assert bench.mounts.listing() == []


def test_the_way_to_it_can_be_walked_but_not_listed(bench: Bench) -> None:
    path = bench.attach()
    bench.share.chmod(0o755)
    script = (
        "import os, sys\n"
        "os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2]))\n"
        "print(open(sys.argv[1] + '/file').read())\n"
        "for up in ('/..', '/../..'):\n"
        "    try: print(os.listdir(sys.argv[1] + up))\n"
        "    except PermissionError: print('refused')\n"
    )
    nobody = pwd.getpwnam("nobody")
    said = subprocess.run(
        [sys.executable, "-c", script, str(path), str(nobody.pw_uid), str(nobody.pw_gid)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["content", "refused", "refused"]


# nothing but the share


def test_dot_dot_leads_out_of_the_mount_not_into_the_volume(bench: Bench) -> None:
    path = bench.attach()
    assert sorted(os.listdir(path / "..")) == [NAME]
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(12):
            assert "secret" not in os.listdir(fd)
            up = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = up
        assert os.path.samestat(os.fstat(fd), os.stat("/"))
    finally:
        os.close(fd)


@old_kernel
def test_dot_dot_of_a_detached_mount_stays_inside(bench: Bench) -> None:
    """A directory held open through a mount that is gone leads nowhere."""
    path = bench.attach()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        bench.mounts.detach(str(path))
        for way in ("..", "../..", "../secret", f"/proc/self/fd/{fd}/../secret"):
            with suppress(OSError):
                up = os.open(way, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
                with ExitStack() as undo:
                    undo.callback(os.close, up)
                    assert "file" in os.listdir(up)
                    assert (Path(f"/proc/self/fd/{up}") / "file").read_text() == "content"
    finally:
        os.close(fd)


def test_links_do_not_lead_to_the_rest_of_the_volume(bench: Bench) -> None:
    (bench.share / "link").symlink_to("../secret/file")
    path = bench.attach()
    bench.mounts.open(str(path))
    assert not (path / "link").exists()
    secret = bench.volume / "secret" / "file"
    tricks: list[Callable[[], object]] = [
        lambda: os.link(secret, path / "hard"),
        lambda: os.link(path / "file", bench.volume / "secret" / "hard"),
        lambda: os.rename(secret, path / "moved"),
        lambda: os.rename(path / "file", bench.volume / "secret" / "moved"),
    ]
    for trick in tricks:
        with pytest.raises(OSError, match="cross-device") as caught:
            trick()
        assert caught.value.errno == errno.EXDEV


def test_what_is_mounted_in_the_share_is_not_in_the_copy(bench: Bench) -> None:
    (bench.share / "inner").mkdir()
    here = str(bench.share / "inner")
    subprocess.run(["mount", "--bind", str(bench.volume / "secret"), here], check=True)
    try:
        path = bench.attach()
        assert os.listdir(path / "inner") == []
    finally:
        mounting.umount(here)


# open, close


@old_kernel
def test_open_and_close(bench: Bench) -> None:
    path = bench.attach()
    for content in ("one", "two"):
        bench.mounts.open(str(path))
        bench.mounts.open(str(path))
        assert not bench.mounts.is_closed(str(path))
        (_, options) = _options(path)
        assert options >= CLOSED - {"ro"}
        (path / "file").write_text(content)
        bench.mounts.close(str(path))
        bench.mounts.close(str(path))
        assert bench.mounts.is_closed(str(path))
        (options,) = _options(path)
        assert options >= CLOSED
    assert (bench.share / "file").read_text() == "two"


def _plain(path: Path, undo: ExitStack) -> Callable[[], object]:
    file = undo.enter_context((path / "file").open("ab", buffering=0))
    return file.close


def _duplicate(path: Path, undo: ExitStack) -> Callable[[], object]:
    file = undo.enter_context((path / "file").open("r+b", buffering=0))
    fd = os.dup(file.fileno())
    file.close()
    return lambda: os.close(fd)


def _mapped(path: Path, undo: ExitStack) -> Callable[[], object]:
    with (path / "file").open("r+b") as file:
        area = mmap.mmap(file.fileno(), 4)
    undo.callback(area.close)
    return area.close


def _deleted(path: Path, undo: ExitStack) -> Callable[[], object]:
    file = undo.enter_context((path / "file").open("ab", buffering=0))
    (path / "file").unlink()
    return file.close


@old_kernel
@pytest.mark.parametrize("hold", [_plain, _duplicate, _mapped, _deleted])
def test_close_waits_for_no_writer(
    bench: Bench, hold: Callable[[Path, ExitStack], Callable[[], object]]
) -> None:
    path = bench.attach()
    (bench.share / "other").touch()
    bench.mounts.open(str(path))
    with ExitStack() as undo:
        let_go = hold(path, undo)
        bench.mounts.close(str(path))
        assert bench.mounts.is_closed(str(path))
        assert not _is_writable(path / "other")
        let_go()
    assert len(_options(path)) == 1


def test_who_holds_its_directory_cannot_write_any_more(bench: Bench) -> None:
    """As smbd does: what is unmounted is still its working directory."""
    path = bench.attach()
    bench.mounts.open(str(path))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        bench.mounts.close(str(path))
        with pytest.raises(OSError, match="Read-only"):
            os.open("new", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd)
    finally:
        os.close(fd)


def test_readers_do_not_keep_it_open(bench: Bench) -> None:
    path = bench.attach()
    bench.mounts.open(str(path))
    with (path / "file").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_EX)
        bench.mounts.close(str(path))
        with pytest.raises(OSError, match="Read-only"):
            open(f"/proc/self/fd/{reader.fileno()}", "ab")  # noqa: SIM115


def test_close_needs_no_descriptor(bench: Bench) -> None:
    path = bench.attach()
    bench.mounts.open(str(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (path / "file").open("ab"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            bench.mounts.close(str(path))
            bench.mounts.close(str(path))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert bench.mounts.is_closed(str(path))
    assert len(_options(path)) == 1


def test_close_of_what_was_left_by_a_crash_in_closing(bench: Bench) -> None:
    """Read-only here, not unmounted yet: in a namespace that follows ours it is writable."""
    path = bench.attach()
    with follower() as root:
        bench.mounts.open(str(path))
        mounting.mount_setattr(str(path), set_=mounting.MOUNT_ATTR_RDONLY)
        assert _is_writable(_seen(root, path) / "file")
        Mounts(str(bench.run)).close(str(path))
        assert not _is_writable(_seen(root, path) / "file")
    assert len(_options(path)) == 1


def test_close_of_what_an_older_version_opened(bench: Bench) -> None:
    """One mount, made writable as it is: nothing is left there, and nobody comes in."""
    path = bench.attach()
    mounting.mount_setattr(str(path), clear=mounting.MOUNT_ATTR_RDONLY)
    bench.mounts.open(str(path))
    assert len(_options(path)) == 1
    with (path / "file").open("ab"):
        for _ in range(2):
            bench.mounts.close(str(path))
            assert not bench.mounts.is_mounted(str(path))
            assert not bench.mounts.is_closed(str(path))
    assert os.listdir(path) == []


@pytest.mark.parametrize("missing", ["not mounted", "no directory"])
def test_open_and_close_of_nothing(bench: Bench, missing: str) -> None:
    if missing == "not mounted":
        bench.path.mkdir(parents=True)
    with pytest.raises(RvssError, match=re.escape(str(bench.path))) as caught:
        bench.mounts.open(str(bench.path))
    assert caught.value.problem is Problem.NOT_FOUND
    bench.mounts.close(str(bench.path))
    assert not bench.mounts.is_mounted(str(bench.path))
    assert _is_writable(bench.run / "file")


# what follows


@old_kernel
def test_every_change_reaches_a_namespace_that_follows(either: Bench) -> None:
    """Born closed, opened, closed while it is written to there, replaced, and gone.

    Also in a container without privileges that was started while it was open.
    """
    sealed = either.volume / "sealed"
    (sealed / "inner 1").mkdir(parents=True)
    (sealed / "file").write_text("sealed")
    with follower() as root, ExitStack() as undo:
        places = [either.path, _seen(root, either.path)]
        with nested(either, 1) as path:
            files = [places[1] / "file", places[1] / "inner 1" / "file"]
            assert not any(map(_is_writable, files))
        either.mounts.open(str(path))
        late = undo.enter_context(follower("--user", "--map-root-user"))
        places.append(_seen(late, path))
        files += [places[2] / "file", places[2] / "inner 1" / "file"]
        assert all(map(_is_writable, files))
        held = [undo.enter_context(file.open("ab")) for file in files]
        either.mounts.close(str(path))
        assert not any(map(_is_writable, files))
        parts = undo.enter_context(either.source(sealed))
        ((_, part),) = undo.enter_context(either.source(sealed))
        either.mounts.replace([*parts, ("inner 1", part)], str(path))
        for place in places:
            assert (place / "file").read_text() == "sealed"
            assert (place / "inner 1" / "file").read_text() == "sealed"
            assert not _is_writable(place / "inner 1" / "file")
        for file in held:
            file.close()
        either.mounts.detach(str(path))
        for follow in (root, late):
            raw = mounttable.read_mountinfo(int(follow.parts[2]))
            assert str(path).encode() not in raw
            assert mounttable.follows(str(either.run), "exposed", raw)
        # What a process in a chroot below another mount sees of its own namespace.
        raw = b"30 20 0:30 / /elsewhere rw - tmpfs tmpfs rw\n"
        assert not mounttable.follows(str(either.run), "exposed", raw)
        assert not any(place.exists() for place in places)


@old_kernel
def test_replace_leaves_one_mount_however_often_it_was_cut_off(either: Bench) -> None:
    path = either.attach()
    either.mounts.open(str(path))
    assert len(_options(path)) == 2
    for number in range(4):
        sealed = either.volume / f"sealed {number}"
        sealed.mkdir()
        (sealed / "file").write_text(sealed.name)
        with either.source(sealed) as parts:
            either.mounts.replace(parts, str(path))
        assert (path / "file").read_text() == sealed.name
        assert either.mounts.is_closed(str(path))
        assert len(_options(path)) <= 2
        # What a crash before the last step leaves: the one that is to go on top.
        either.attach()
    either.mounts.detach(str(path))
    assert _options(path) == []


def test_replace_shows_nobody_an_empty_directory(bench: Bench) -> None:
    path = bench.attach()
    ended, misses, looks = threading.Event(), [], 0

    def look() -> None:
        nonlocal looks
        while not ended.is_set():
            looks += 1
            if not (path / "file").exists():
                misses.append(looks)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        number = 0
        while number < 50 or looks < 50:
            with bench.source() as parts:
                bench.mounts.replace(parts, str(path))
            number += 1
    finally:
        ended.set()
        watcher.join()
    assert misses == []


def test_replace_where_nothing_is_mounted(either: Bench) -> None:
    with either.source() as parts:
        either.mounts.replace(parts, str(either.path))
    assert either.mounts.is_closed(str(either.path))
    assert len(_options(either.path)) == 1


def test_run_directory_becomes_a_shared_mount_once(rig_directory: Path) -> None:
    """On a private mount, on one that follows another, on its own; not over mounts of ours."""
    base = rig_directory / "base"
    run = base / "run"
    copy = run / "exposed" / "vms" / NAME
    copy.mkdir(parents=True)

    def bind(path: Path, how: str) -> None:
        subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
        subprocess.run(["mount", f"--make-{how}", str(path)], check=True)

    def prepared() -> list[tuple[str, bool]]:
        with ExitStack() as cleanup:
            Mounts(str(run)).prepare(cleanup)
        return [
            (os.path.relpath(mount.target, base), bool(mount.group))
            for mount in mounttable.mountinfo()
            if Path(mount.target).is_relative_to(base)
        ]

    try:
        bind(rig_directory, "private")  # whatever it is on
        bind(base, "private")
        bind(copy, "private")
        assert prepared() == [(".", False), (f"run/exposed/vms/{NAME}", False)]
        mounting.umount(str(copy))
        for _ in range(2):
            assert prepared() == [(".", False), ("run", True)]
        mounting.umount(str(run))
        bind(run, "private")
        assert prepared() == [(".", False), ("run", True)]
        mounting.umount(str(run))
        bind(base, "shared")
        assert prepared() == [(".", False), (".", True)]
        bind(base, "slave")
        assert prepared() == [(".", False), (".", True), (".", False), ("run", True)]
    finally:
        for path in (copy, run, base, rig_directory):
            _unmount(str(path))


# detach


def test_detach_can_be_repeated(bench: Bench) -> None:
    path = bench.attach()
    for _ in range(3):
        bench.mounts.detach(str(path))
        assert not path.exists()
        assert bench.mounts.listing() == []
    assert (bench.share / "file").read_text() == "content"


def test_detach_of_a_directory_without_a_mount(bench: Bench) -> None:
    bench.path.mkdir(parents=True)
    bench.mounts.detach(str(bench.path))
    assert not bench.path.exists()


def test_detach_takes_away_all_that_is_mounted_there(bench: Bench) -> None:
    path = bench.attach()
    for _ in range(2):
        with bench.source() as ((_, more),):
            mounting.move_mount(more, str(path))
    assert len(_options(path)) >= 3  # more where mounts propagate
    bench.mounts.detach(str(path))
    assert _options(path) == []
    assert not path.exists()


def test_detach_while_it_is_used(bench: Bench) -> None:
    path = bench.attach()
    bench.mounts.open(str(path))
    with (path / "file").open("r+b", buffering=0) as file:
        bench.mounts.detach(str(path))
        assert not path.exists()
        assert file.read() == b"content"


def test_detach_never_removes_files(bench: Bench) -> None:
    """Should something else be at the place of a mount, it stays, and is told of."""
    bench.path.mkdir(parents=True)
    (bench.path / "file").write_text("somebody's")
    with pytest.raises(RvssError, match=re.escape(str(bench.path))) as caught:
        bench.mounts.detach(str(bench.path))
    assert caught.value.problem is Problem.SYSTEM
    assert (bench.path / "file").read_text() == "somebody's"


def test_detach_does_not_follow_links(bench: Bench) -> None:
    mounted = bench.attach()
    link = bench.path.with_name("link")
    link.symlink_to(mounted)
    with pytest.raises(RvssError):
        bench.mounts.detach(str(link))
    assert len(_options(mounted)) == 1
    assert (bench.share / "file").read_text() == "content"


# names

_names = st.binary(max_size=300).map(os.fsdecode) | st.text(
    st.characters(blacklist_categories=("Cs",)), max_size=120
)


@given(_names)
@example("vms")
@example(".")
@example("..")
@example(".hidden")
@example("My VMs & (x)")
@example("a/../b")
@example("Ünï")
@example("Архив")
@example("%41")
@example("=41")
@example("way-G0-O")
@example("way-g0-o-u1")
@example("x" * 400)
def test_escaped_name_is_one_safe_component(name: str) -> None:
    """Samba, a shell and smb.conf take it as it is: above all, nothing in it is a macro."""
    escaped = escape(name)
    assert re.fullmatch(r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*|", escaped)
    assert len(os.fsencode(escaped)) <= 255
    assert bool(escaped) == bool(name)
    assert way.Gate.named(escaped) is None


@given(_names, _names)
@example("A", "=41")
@example("a b", "a=20b")
@example("way-G0-O", "=77ay-G0-O")
@example("x" * 300, "x" * 301)
@example("x" * 200, "x" * 201)
@example(" " * 70, " " * 71)
def test_different_names_stay_different(one: str, two: str) -> None:
    assert (escape(one) == escape(two)) == (one == two)


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-$", max_size=80))
def test_common_names_can_be_read(name: str) -> None:
    assert escape(name) == name.replace("$", "=24")


def test_exposed_path_has_no_token_of_previous_versions(bench: Bench) -> None:
    """shadow_copy2 would take such a path for a look into the past."""
    path = bench.mounts.exposed_path("@GMT-2024.02.29-23.59.59", NAME)
    assert path == f"{bench.run}/exposed/=40GMT-2024.02.29-23.59.59/{NAME}"


# Previous Versions


def test_previous_names_are_samba_s(bench: Bench) -> None:
    path = bench.mounts.reserve_previous("vms", NOW)
    assert path == f"{bench.run}/previous/vms/@GMT-2024.02.29-23.59.59"
    assert os.path.isdir(path)


def test_previous_names_of_one_second_are_different(bench: Bench) -> None:
    paths = [bench.mounts.reserve_previous("vms", NOW) for _ in range(3)]
    assert [os.path.basename(path) for path in paths] == [
        "@GMT-2024.02.29-23.59.59",
        "@GMT-2024.03.01-00.00.00",
        "@GMT-2024.03.01-00.00.01",
    ]
    bench.mounts.detach(paths[1])
    assert bench.mounts.reserve_previous("vms", NOW) == paths[1]
    later = bench.mounts.reserve_previous("vms", NOW + timedelta(seconds=1))
    assert later.endswith("@GMT-2024.03.01-00.00.02")


def test_previous_names_side_by_side(bench: Bench) -> None:
    found: list[str] = []

    def reserve() -> None:
        found.extend(bench.mounts.reserve_previous("vms", NOW) for _ in range(20))

    threads = [threading.Thread(target=reserve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 80


def test_previous_versions_can_be_listed_before_there_are_any(bench: Bench) -> None:
    path = Path(bench.mounts.make_previous("vms"))
    assert bench.mounts.make_previous("vms") == str(path)
    assert os.listdir(path) == []
    assert path.stat().st_mode & 0o777 == 0o755


# listing


def test_listing_is_of_mounts_and_directories_of_everything(bench: Bench) -> None:
    assert (bench.mounts.listing(), bench.mounts.directories()) == ([], [])
    exposed = bench.attach()
    previous = bench.mounts.reserve_previous("a b", NOW)
    bench.attach(Path(previous))
    empty = bench.mounts.reserve_previous("a b", NOW)
    foreign = bench.run / "foreign"
    foreign.mkdir()
    subprocess.run(["mount", "--bind", str(bench.share), str(foreign)], check=True)
    assert sorted(bench.mounts.listing()) == sorted([str(exposed), previous])
    assert sorted(bench.mounts.directories()) == sorted([str(exposed), previous, empty])
    assert Mounts(f"{bench.run}/exp").listing() == []


@pytest.mark.parametrize("share", ["vms", "My%20VMs", "=D0=90", "way-G0-O"])
def test_places_of_every_version(share: str) -> None:
    """Copies that an older version made stay where they are recorded."""
    assert places.is_place("/run/x", f"/run/x/exposed/{share}/{NAME}")
    assert places.is_place("/run/x", f"/run/x/exposed/{share}/way-G0-O/{NAME}")
    assert not places.is_place("/run/x", f"/run/x/exposed/{share}/way-G0-O")
    assert places.is_place("/run/x", f"/run/x/shared/{share}/way-G0-O/{NAME}")


@pytest.mark.parametrize(
    "path",
    [
        *("exposed/vms", "exposed/vms/", "exposed//a", "exposed/../a", "exposed/vms/.."),
        *("exposed/vms/./a", "other/vms/a", "exposed/vms/a/b", "../x/exposed/vms/a"),
    ],
)
def test_no_other_path_is_a_place(path: str) -> None:
    assert not places.is_place("/run/x", f"/run/x/{path}")
