"""A pytest plugin: rigs as fixtures, capabilities, and a watch for what tests leave behind.

Place: loaded with ``-p samba_rvss.testing.plugin``; for our tests and for other people's.
Contract: a rig lives as long as its test. A test that needs what the machine lacks is skipped
with a reason that says how to force it, and fails where SAMBA_RVSS_REQUIRE names the capability or
says ``all``, as CI does; ``zfs`` must be named. A test fails that leaves a child process, a mount,
a loop device or an open file descriptor.
"""

import errno
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import RvssError
from samba_rvss.kernel import mounting, mounttable, processes
from samba_rvss.run import run, tool
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.smbd import PrivateSmbd

if TYPE_CHECKING:
    from samba_rvss.testing.users import BackupOperator

REQUIRE = "SAMBA_RVSS_REQUIRE"
ASIDE: set[int] = set()
"""Processes that work for the session while its tests run: what they start belongs to no test."""

_PREFIX = "rvss-test-"
_GRACE = 1.0  # seconds; a loop device frees itself a little after its last user


def _tools(*names: str) -> str:
    for name in names:
        try:
            tool(name)
        except RvssError as exc:
            return str(exc)
    return ""


def _root() -> str:
    return "" if os.geteuid() == 0 else "it has to run as root"


def _btrfs() -> str:
    if missing := _root() or _tools("mkfs.btrfs", "btrfs"):
        return missing
    if "\tbtrfs\n" not in Path("/proc/filesystems").read_text("ascii"):
        try:
            run(["modprobe", "btrfs"], timeout=30)
        except RvssError as exc:
            return f"the kernel has no btrfs ({exc})"
    return ""


def _loop() -> str:
    if missing := _root() or _tools("losetup"):
        return missing
    try:
        run(["losetup", "--find"], timeout=30)
    except RvssError as exc:
        return f"there are no loop devices ({exc})"
    return ""


def _zfs() -> str:
    if missing := _root() or _tools("zpool", "zfs"):
        return missing
    if "\tzfs\n" not in Path("/proc/filesystems").read_text("ascii"):
        try:
            run(["modprobe", "zfs"], timeout=30)
        except RvssError as exc:
            return f"the kernel has no zfs ({exc})"
    return ""


def _smbd() -> str:
    if missing := _root() or _tools("smbd", "net", "smbpasswd", "useradd"):
        return missing
    return "" if find_spec("samba.param") else "python3-samba is not installed"


# Not a part of "all": not every kernel can have it, or what works on it alone.
_BY_NAME = frozenset({"zfs", "syncoid"})

# Each returns what the capability lacks, as a sentence; empty if nothing.
CAPABILITIES: dict[str, Callable[[], str]] = {
    "root": cache(_root),
    "btrfs": cache(_btrfs),
    "zfs": cache(_zfs),
    "loop": cache(_loop),
    "smbd": cache(_smbd),
    "smbtorture": cache(lambda: _smbd() or _tools("smbtorture")),
    "qemu": cache(lambda: _tools("qemu-img", "qemu-io")),
    "podman": cache(lambda: _root() or _tools("podman", "runc")),
    "nbdkit": cache(lambda: _root() or _tools("nbdkit", "nbdfuse")),
    "btrbk": cache(lambda: _root() or _tools("btrbk")),
    "syncoid": cache(lambda: _root() or _tools("syncoid")),
    "restic": cache(lambda: _tools("restic")),
    "debhelper": cache(
        lambda: _tools("dpkg-buildpackage", "dh", "dh_python3", "pkg-config", "lintian")
    ),
    "rpmbuild": cache(lambda: _tools("rpmbuild", "rpm")),
    "journalctl": cache(lambda: _tools("journalctl")),
    "shells": cache(lambda: _tools("bash", "zsh", "fish")),
}


def require(*names: str) -> None:
    """Skip the running test if a capability is missing; fail it if the capability is required.

    Args:
        names: keys of CAPABILITIES.

    Raises:
        pytest.skip.Exception, pytest.fail.Exception: with the reason.
        KeyError: there is no such capability.
    """
    forced = set(os.environ.get(REQUIRE, "").replace(",", " ").split())
    for name in names:
        missing = CAPABILITIES[name]()
        if missing and (name in forced or ("all" in forced and name not in _BY_NAME)):
            pytest.fail(f"{name} is required ({REQUIRE}) and missing: {missing}", pytrace=False)
        if missing:
            pytest.skip(f"needs {name}: {missing}; {REQUIRE}={name} makes this a failure")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker ``require``."""
    config.addinivalue_line(
        "markers", "require(name, ...): capabilities without which the test is skipped"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Apply the marker ``require``."""
    for marker in item.iter_markers("require"):
        require(*marker.args)


def _children() -> Iterator[tuple[str, str]]:
    aside = set(ASIDE)
    for pid in processes.descendants(os.getpid()):  # parents come before their children
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended and reaped while we looked
        if int(fields[1]) in aside:
            aside.add(pid)
            continue
        shown = words.replace("\0", " ").strip() or "ended, but not waited for"
        # A pid comes back, a pid with its start time does not.
        yield f"child {pid} {fields[19].decode()}", f"process {pid} ({shown})"


def _backing_files() -> dict[str, str]:
    files = {}
    for device in Path("/sys/block").glob("loop*"):
        try:
            backing = (device / "loop" / "backing_file").read_text("utf-8", "replace")
        except OSError as exc:
            # Not in use, or freed while we looked.
            if exc.errno not in {errno.ENOENT, errno.ENXIO, errno.ENODEV}:
                raise
            continue
        files[f"/dev/{device.name}"] = backing.strip()
    return files


def _is_ours(path: str) -> bool:
    """Return whether a file is in a rig directory of this process, not of another process."""
    return f"/{_PREFIX}{os.getpid()}-" in path


def _devices() -> Iterator[tuple[str, str]]:
    files = {d: f for d, f in _backing_files().items() if _is_ours(f)}
    for device, file in files.items():
        yield f"loop {device} {file.removesuffix(' (deleted)')}", f"loop device {device} of {file}"
    for mount in mounttable.mountinfo():
        on_a_loop = mount.source.startswith("/dev/loop")
        if mount.source not in files if on_a_loop else not _is_ours(mount.target):
            continue
        yield f"mount {mount.id} {mount.target}", f"mount of {mount.source} at {mount.target}"


def _descriptors() -> Iterator[tuple[str, str]]:
    for name in os.listdir("/proc/self/fd"):
        path = Path("/proc/self/fd", name)
        try:
            status, link = path.stat(), str(path.readlink())
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        # Samba's libraries open a database once (registry.tdb, when a configuration includes the
        # registry) and keep it until the process ends. Their connections they do close.
        if not link.removesuffix(" (deleted)").endswith(".tdb"):
            key = f"descriptor {name} {status.st_dev}:{status.st_ino}"
            yield key, f"file descriptor {name} of {link}"


def belongings() -> dict[str, str]:
    """Return what this process has: children, mounts, loop devices and open descriptors.

    A process that has made itself a daemon is not our child and not seen: each rig ends its own.
    Loop devices of other test processes, and what is mounted of them, are left out.

    Returns:
        For each, a key that stays the same as long as it exists, and the words that name it.
    """
    return dict((*_children(), *_devices(), *_descriptors()))


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves something behind; other fixtures are torn down before."""
    before = belongings()
    yield
    deadline = time.monotonic() + _GRACE
    while left := [words for key, words in belongings().items() if key not in before]:
        if time.monotonic() > deadline:
            pytest.fail("the test left behind: " + "; ".join(left), pytrace=False)
        # python-samba closes a connection when its last reference goes. Only here, because a
        # collection of a whole session's objects takes longer than most tests.
        gc.collect()
        time.sleep(0.02)


@pytest.fixture
def rig_directory() -> Iterator[Path]:
    """A directory with a short name that every user can walk to, unlike ``tmp_path``.

    Mounts that are left below it are taken away in the end, and fail the test.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    directory.chmod(0o755)
    yield directory
    below = [m.target for m in mounttable.mountinfo() if Path(m.target).is_relative_to(directory)]
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, directory)
        for target in below:
            undo.callback(mounting.umount, target)
    if below:
        pytest.fail(f"the test left mounts behind: {', '.join(below)}", pytrace=False)


@pytest.fixture
def loop_btrfs(rig_directory: Path) -> Iterator[LoopBtrfs]:
    """A btrfs file system of its own."""
    require("root", "btrfs", "loop")
    with LoopBtrfs(rig_directory) as file_system:
        yield file_system


@pytest.fixture
def samba_rig() -> Iterator[Callable[..., PrivateSmbd]]:
    """Make a private Samba, not started yet; the arguments are PrivateSmbd's."""
    require("smbd")
    with ExitStack() as undo:

        def make(*, options: Mapping[str, str] | None = None, log_level: int = 1) -> PrivateSmbd:
            return undo.enter_context(PrivateSmbd(options=options, log_level=log_level))

        yield make


@pytest.fixture
def backup_operator(
    samba_rig: Callable[..., PrivateSmbd],
) -> Iterator[Callable[[PrivateSmbd], "BackupOperator"]]:
    """Make a Backup Operator of a private Samba; its Unix user is removed before the Samba is."""
    from samba_rvss.testing.users import BackupOperator

    with ExitStack() as undo:

        def make(samba: PrivateSmbd) -> BackupOperator:
            return undo.enter_context(BackupOperator(samba))

        yield make
