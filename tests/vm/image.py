"""The disk image of the test machine: its recipe, and the cache that keeps it.

Place: below `machine`; it knows Debian, not jobs. Contract: `image` returns a complete image and
makes it first where it is missing. Its name holds a hash of the recipe, so another recipe is
another image. It appears whole or not at all, one of two builders waits for the other, and what
a builder that was killed has left is removed by the next one.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import environment, run, tool

BUILD_SECONDS = 3600.0
_UNUSED_SECONDS = 14 * 86400.0
_SHOWN_LINES = 25

SUITE = "trixie"
COMPONENTS = "main,contrib"  # OpenZFS is in contrib
SIZE = "8G"  # a sparse file
PACKAGES = (
    "systemd-sysv dbus udev kmod initramfs-tools iproute2 util-linux procps passwd"
    " linux-image-cloud-amd64 linux-headers-cloud-amd64 zfs-dkms zfsutils-linux btrfs-progs"
    " qemu-utils acl attr samba samba-vfs-modules samba-testsuite smbclient"
    " samba-ad-dc samba-ad-provision samba-dsdb-modules winbind libnss-winbind krb5-user"
    " python3 python3-samba python3-tdb python3-btrfsutil python3-systemd python3-rich"
    " python3-pyroute2 python3-pytest python3-hypothesis strace sanoid"
)

# The initial RAM disk holds what finds the root file system and no more: it is unpacked by an
# emulated processor.
BEFORE_INSTALLATION = r"""
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/test-machine"
printf '%s\n' virtio_pci virtio_blk ext4 >"$1/usr/share/initramfs-tools/modules.d/test-machine"
"""

# It waits where no job is there yet. Everything else about a job comes with the job. The power
# goes off without a farewell: nobody will read this disk again.
JOB_SERVICE = r"""[Unit]
Description=The job on the second disk
After=multi-user.target
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate

[Service]
Type=exec
ExecStart=/bin/sh -c '\
    until tar -x -f /dev/vdb -C / && test -e /run/job/run; do \
        test -e /run/waiting || { touch /run/waiting; echo ready >/dev/virtio-ports/job; }; \
        sleep 0.2; blockdev --flushbufs /dev/vdb; \
    done; \
    exec /bin/sh /run/job/run'
"""
FILES = {
    "etc/hostname": "machine\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 machine\n::1 localhost\n",
    "etc/fstab": "",
    "etc/systemd/system/job.service": JOB_SERVICE,
}
_UNITS = "etc/systemd/system"
# Tests start their own Samba; nobody logs in; nothing is to wake up in the middle of a test.
_MASKED = (
    "smbd.service nmbd.service winbind.service samba-ad-dc.service getty@tty1.service"
    " serial-getty@ttyS0.service"
    " apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer"
    " e2scrub_reap.service fstrim.timer cron.service networking.service"
    " sanoid.timer sanoid.service sanoid-prune.service"
)
LINKS = {
    f"{_UNITS}/multi-user.target.wants/job.service": "../job.service",
    **{f"{_UNITS}/{unit}": "/dev/null" for unit in _MASKED.split()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A complete image: the files that QEMU boots."""

    root: Path
    kernel: Path
    initrd: Path


def _bootstrap(rootfs: str) -> list[str]:
    """Return mmdebstrap's command line, without the mirror."""
    return [
        *("mmdebstrap", "--mode=root", "--variant=important", f"--components={COMPONENTS}"),
        '--aptopt=Apt::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")),
        f"--essential-hook={BEFORE_INSTALLATION}",
        f"--include={','.join(PACKAGES.split())}",
        *(SUITE, rootfs),
    ]


def recipe_hash(files: Mapping[str, str] = FILES) -> str:
    """Return a short name for all that the image is made from, but for the mirror.

    Args:
        files: what is put into it besides packages.
    """
    recipe = (_bootstrap(""), SIZE, sorted(files.items()), sorted(LINKS.items()))
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]


def mirror(targets: str) -> str:
    """Return the Debian mirror that a machine's own apt uses, or an empty string.

    Args:
        targets: lines ``origin|label|URI``, as `apt-get indextargets` prints them when asked to.
    """
    for line in targets.splitlines():
        origin, label, uri = line.split("|")
        if (origin, label) == ("Debian", "Debian"):
            return uri
    return ""


def _own_mirror() -> str:
    try:
        form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
        return mirror(
            run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], timeout=60)
        )
    except RvssError as exc:
        if exc.problem is not Problem.MISSING:
            raise
        return ""  # mmdebstrap knows one


def missing() -> str:
    """Return what this machine lacks for the test machine, as a sentence, or nothing."""
    if platform.machine() != "x86_64":
        return "the test machine is an x86-64 one, and so must this be"
    if os.geteuid() != 0:
        return "it has to run as root"
    for name in ("qemu-system-x86_64", "mmdebstrap", "mke2fs", "unshare", "setpriv"):
        try:
            tool(name)
        except RvssError as exc:
            return str(exc)
    return ""


def cache_directory() -> Path:
    """Return the directory of the images; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "samba-rvss"


def image(*, seconds: float = BUILD_SECONDS) -> Image:
    """Return the image, after making it where it is missing.

    Args:
        seconds: the time that waiting for another builder and then building may take.

    Raises:
        RvssError: it could not be made; the error holds the end of the builder's log.
    """
    deadline = time.monotonic() + seconds
    cache = cache_directory()
    home = cache / f"vm-{recipe_hash()}"
    if not home.is_dir():
        with lock(deadline):
            if not home.is_dir():
                _clean(cache)
                _build(home, deadline)
    os.utime(home)
    return Image(root=home / "root.img", kernel=home / "vmlinuz", initrd=home / "initrd.img")


@contextmanager
def lock(deadline: float) -> Iterator[None]:
    """Be the only one who builds; wait for others until some time.monotonic().

    Raises:
        RvssError: DEADLINE.
    """
    cache_directory().mkdir(parents=True, exist_ok=True)
    path = cache_directory() / "vm.lock"
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RvssError(
                        Problem.DEADLINE,
                        "somebody else has been building the test machine for too long",
                        f"look who holds {path}",
                    ) from None
                time.sleep(0.5)
        yield


def _clean(cache: Path) -> None:
    """Remove what killed builders left, and images that nobody has used for long."""
    for path in cache.glob("vm-*/"):
        if path.suffix == ".partial" or time.time() - path.stat().st_mtime > _UNUSED_SECONDS:
            shutil.rmtree(path)


def _build(home: Path, deadline: float) -> None:
    """Make an image and give it its name; the lock is ours."""
    partial = home.with_suffix(".partial")
    with ExitStack() as guard:
        partial.mkdir(mode=0o700)
        guard.callback(shutil.rmtree, partial)
        rootfs = partial / "rootfs"
        uri = _own_mirror()
        program, *words = _bootstrap(str(rootfs))
        words = [program, "--verbose", *words, *([uri] if uri else [])]
        _logged(words, partial / "log", deadline)
        _furnish(rootfs, partial / "log")
        size = ["-O", "^has_journal", "-d", str(rootfs), str(partial / "root.img"), SIZE]
        _logged(["mke2fs", "-q", "-t", "ext4", *size], partial / "log", deadline)
        for name in ("vmlinuz", "initrd.img"):
            (found,) = (rootfs / "boot").glob(f"{name}-*")
            shutil.copy(found, partial / name)
        shutil.rmtree(rootfs)
        partial.rename(home)
        guard.pop_all()


def _furnish(rootfs: Path, log: Path) -> None:
    """Put our own files into the tree, and see that ZFS is in it."""
    # The package is installed even where its module could not be compiled.
    if not list(rootfs.glob("lib/modules/*/updates/dkms/zfs.ko*")):
        raise RvssError(Problem.TOOL, "the test machine's ZFS module was not built", _end(log))
    # An empty one makes systemd set the machine up anew at every start.
    files: Mapping[str, str] = {**FILES, "etc/machine-id": f"{uuid.uuid4().hex}\n"}
    for name, text in files.items():
        (rootfs / name).unlink(missing_ok=True)
        (rootfs / name).write_text(text)
    for name, target in LINKS.items():
        (rootfs / name).unlink(missing_ok=True)
        (rootfs / name).symlink_to(target)
    # So that systemd does not take the first boot for one after an upgrade (systemd.unit(5),
    # ConditionNeedsUpdate).
    for name in ("etc/.updated", "var/.updated"):
        (rootfs / name).touch()


def _logged(argv: list[str], log: Path, deadline: float) -> None:
    """Run a step of the build in its own namespaces: all of it ends, however we end."""
    prefix = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
    words = [*prefix, "--kill-child=KILL", "--mount-proc", *argv]
    with (
        log.open("ab") as out,
        subprocess.Popen(
            [tool(words[0]), *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        ) as process,
    ):
        try:
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            raise RvssError(
                Problem.DEADLINE,
                f"{argv[0]} did not build the test machine in time and was killed",
                _end(log),
            ) from None
        except BaseException:
            process.kill()
            raise
    if status:
        raise RvssError(
            Problem.TOOL,
            f"{argv[0]} ended with status {status} and built no test machine",
            _end(log),
        )


def _end(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-_SHOWN_LINES:]
    return "\n".join(["the end of its log:", *lines])
