"""A pytest plugin: rigs as fixtures, capabilities, and a watch for what tests leave behind.

Place: for our tests and for other people's, see samba-rvss-testing(7). pytest loads it wherever
samba-rvss is installed, by its entry point, or with ``-p samba_rvss.testing.plugin``.
Contract: a rig lives as long as its test. A test that needs what the machine lacks is skipped
with a reason that says how to force it, and fails where SAMBA_RVSS_REQUIRE names the capability or
says ``all``, as CI does; ``zfs`` must be named. A test that uses a rig fails if it leaves a child
process, a mount, a loop device or an open file descriptor; with ``samba_rvss_leftovers = all`` in
pytest's configuration, any test does.
"""

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import RvssError
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.run import run, tool
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.disk import SickDisk
from samba_rvss.testing.leftovers import PREFIX, belongings
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.zfs import LoopZfs, Pool

if TYPE_CHECKING:
    from samba_rvss.samba.logon import Logon
    from samba_rvss.testing.netns import Link
    from samba_rvss.testing.remote import Remote
    from samba_rvss.testing.users import BackupOperator

REQUIRE = "SAMBA_RVSS_REQUIRE"
LEFTOVERS = "samba_rvss_leftovers"
_DOMAIN_FILES = {
    "samba-ad-provision": "share/samba/setup/provision.ldif",
    "samba-dsdb-modules": "lib/*/samba/ldb/samba_dsdb.so",
    "libnss-winbind": "lib/*/libnss_winbind.so.2",
}
# A loop device frees itself a little after its last user: so many seconds, and so many looks, as a
# host may stand still for a second.
_GRACE = 3.0
_LOOKS = 20


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


def _module(name: str) -> str:
    return "" if find_spec(name) else f"python3-{name} is not installed"


def _smbd() -> str:
    if missing := _root() or _tools("smbd", "net", "smbpasswd", "useradd"):
        return missing
    return "" if find_spec("samba.param") else "python3-samba is not installed"


def _domain() -> str:
    if missing := _smbd() or _btrfs() or _loop():
        return missing
    if missing := _tools("samba", "samba-tool", "winbindd", "kinit", "unshare", "nsenter", "ip"):
        return missing
    for package, pattern in _DOMAIN_FILES.items():
        if not any(Path("/usr").glob(pattern)):
            return f"{package} is not installed"
    return ""


# Not a part of "all": not every kernel can have it, or what works on it alone.
_BY_NAME = frozenset({"zfs", "syncoid"})

# Each returns what the capability lacks, as a sentence; empty if nothing.
CAPABILITIES: dict[str, Callable[[], str]] = {
    "root": cache(_root),
    "btrfs": cache(_btrfs),
    "zfs": cache(_zfs),
    "loop": cache(_loop),
    "smbd": cache(_smbd),
    "domain": cache(_domain),
    "smbtorture": cache(lambda: _smbd() or _tools("smbtorture")),
    "qemu": cache(lambda: _tools("qemu-img", "qemu-io")),
    "podman": cache(lambda: _root() or _tools("podman", "runc")),
    "impacket": cache(lambda: _module("impacket")),
    "ip": cache(lambda: _tools("ip") or _module("pyroute2")),
    "nbdkit": cache(lambda: _root() or _tools("nbdkit", "nbdfuse")),
    "btrbk": cache(lambda: _root() or _tools("btrbk")),
    "syncoid": cache(lambda: _root() or _tools("syncoid")),
    "restic": cache(lambda: _tools("restic")),
    "debhelper": cache(
        lambda: _tools("dpkg-buildpackage", "dh", "dh_python3", "pkg-config", "lintian")
    ),
    "rpmbuild": cache(lambda: _tools("rpmbuild", "rpm")),
    "secilc": cache(lambda: _tools("secilc")),
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the option that says whose leftovers are looked for."""
    said = "which tests fail that leave something behind: 'rigs', those that use one, or 'all'"
    parser.addini(LEFTOVERS, said, default="rigs")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker ``require``.

    Raises:
        pytest.UsageError: the option has another value.
    """
    if config.getini(LEFTOVERS) not in ("rigs", "all"):
        raise pytest.UsageError(f"{LEFTOVERS} is neither 'rigs' nor 'all'")
    config.addinivalue_line(
        "markers", "require(name, ...): capabilities without which the test is skipped"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Apply the marker ``require``."""
    for marker in item.iter_markers("require"):
        require(*marker.args)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something behind; other fixtures are torn down before."""
    if request.config.getini(LEFTOVERS) != "all" and RIGS.isdisjoint(request.fixturenames):
        yield
        return
    before = belongings()
    yield
    deadline, looks = time.monotonic() + _GRACE, 0
    while left := [words for key, words in belongings().items() if key not in before]:
        looks += 1
        if time.monotonic() > deadline and looks > _LOOKS:
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
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
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
def zfs_dataset(rig_directory: Path) -> Iterator[LoopZfs]:
    """A dataset of a ZFS pool of its own."""
    require("root", "zfs")
    with Pool(rig_directory) as pool, LoopZfs(rig_directory, pool) as dataset:
        yield dataset


@pytest.fixture
def sick_disk(rig_directory: Path) -> Iterator[Callable[..., SickDisk]]:
    """Make a disk that stands still, fails or is slow; the arguments are SickDisk's. One a test."""
    require("root", "nbdkit", "loop")
    with ExitStack() as undo:

        def make(*, size: int = 256 << 20, delay: float = 0.0) -> SickDisk:
            return undo.enter_context(SickDisk(rig_directory, size=size, delay=delay))

        yield make


@pytest.fixture
def client_link() -> "Iterator[Link]":
    """A network namespace for clients, whose link to this machine can be cut."""
    require("root", "ip")
    from samba_rvss.testing.netns import Link

    with Link() as link:
        yield link


@pytest.fixture
def samba_rig() -> Iterator[Callable[..., PrivateSmbd]]:
    """Make a private Samba, not started yet; the arguments are PrivateSmbd's.

    In a test's arguments it comes after the file systems of its shares, and after `client_link`.
    """
    require("smbd")
    with ExitStack() as undo:

        def make(
            *,
            options: Mapping[str, str] | None = None,
            interfaces: Sequence[str] = (),
            log_level: int = 1,
        ) -> PrivateSmbd:
            return undo.enter_context(
                PrivateSmbd(options=options, interfaces=interfaces, log_level=log_level)
            )

        yield make


@pytest.fixture
def rvss_daemon(
    samba_rig: Callable[..., PrivateSmbd],
) -> Iterator[Callable[[PrivateSmbd], RvssDaemon]]:
    """Make a samba-rvss for a private Samba, not started yet."""
    with ExitStack() as undo:

        def make(samba: PrivateSmbd) -> RvssDaemon:
            return undo.enter_context(RvssDaemon(samba))

        yield make


@pytest.fixture
def fsrvp_client(
    samba_rig: Callable[..., PrivateSmbd],
) -> "Iterator[Callable[..., Remote]]":
    """Make an FSRVP client in a process of its own; the arguments are Remote's."""
    from samba_rvss.testing.remote import Remote

    with ExitStack() as undo:

        def make(host: str, logon: "Logon", namespace: str = "") -> Remote:
            return undo.enter_context(Remote(host, logon, namespace))

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


RIGS = frozenset(
    {
        "rig_directory",
        "loop_btrfs",
        "zfs_dataset",
        "sick_disk",
        "client_link",
        "samba_rig",
        "rvss_daemon",
        "backup_operator",
        "fsrvp_client",
    }
)
"""The fixtures for tests; what a test with one of them leaves behind makes it fail."""
