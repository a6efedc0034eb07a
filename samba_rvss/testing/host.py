"""A host of its own, as far as its administrator can tell: namespaces, in which programs are run.

Place: a rig for tests; it stands on unshare(1) and nsenter(1). Contract: it has mounts, processes,
a host name and a network of its own, which has but its loopback until `connect`. /etc is a copy;
/run, /srv, /tmp and what lies below /var/lib, /var/cache and /var/log are empty, but for what
Samba's packages make there. So Samba has the directories and the port that it has without any
setting, and so has samba-rvss, which is in /usr as packaging/install puts it there. Nothing that a
host does is seen outside; leaving, or the end of our process, ends all that it runs and takes its
mounts away.

A `samba_rvss.child.Child` in the host starts its programs, so that it can wait for them.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from samba_rvss.child import Child
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.kernel.processes import descendants
from samba_rvss.run import environment, run, tool
from samba_rvss.testing.supervisor import ROOT, supervised
from samba_rvss.testing.undoing import Undoing
from samba_rvss.testing.waiting import wait_until

P = ParamSpec("P")
R = TypeVar("R")

_SECONDS = 120.0  # an emulated machine may need as long
_NAMESPACES = ("--mount", "--net", "--uts", "--pid")
_SIZE = 512 << 20  # bytes
_READY = b"ready\n"
_EMPTY = ("/run", "/srv", "/tmp", "/var/lib", "/var/cache", "/var/log")
# With the modes that Debian's packages give them.
_SAMBA = {
    "/run/samba": 0o755,
    "/var/lib/samba": 0o755,
    "/var/lib/samba/private": 0o700,
    "/var/cache/samba": 0o755,
    "/var/log/samba": 0o750,
}


class Host(Undoing):
    """A context manager: a host that runs nothing yet.

    Args:
        name: its host name, without a domain.
        installed: whether samba-rvss is installed on it.

    Attributes:
        name: its host name.
        pid: the process id of its first process, as we see it.
        processes: our own children, from which all of its processes come.
    """

    def __init__(self, name: str, *, installed: bool = False) -> None:
        super().__init__()
        self.name = name
        self.pid = 0
        self.processes: set[int] = set()
        self._installed = installed

    def _set_up(self) -> None:
        # Whatever lives there is killed with it, by the kernel, and its first process ends when
        # ours does: then its standard input closes.
        process = subprocess.Popen(
            [
                tool("unshare"),
                *_NAMESPACES,
                "--fork",
                "--kill-child",
                "--mount-proc",
                *supervised(["/bin/sh", "-c", "echo ready; exec sleep infinity"]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        self._undo.enter_context(process)
        self._undo.callback(process.kill)
        assert process.stdout is not None
        if process.stdout.read(len(_READY)) != _READY:
            raise RvssError(Problem.TOOL, "there can be no namespaces: see unshare's message above")
        self.pid = descendants(process.pid)[0]
        self._child = self._undo.enter_context(Child(above=self.entering))
        self.processes = {process.pid, self._child.pid}
        self.call(_furnish, self.name, installed=self._installed)

    @property
    def entering(self) -> list[str]:
        """What stands before the words of a program that is to run on this host."""
        return [tool("nsenter"), f"--target={self.pid}", *_NAMESPACES, "--"]

    def path(self, name: str | Path) -> Path:
        """Return where one of its files is for us."""
        return Path(f"/proc/{self.pid}/root/{name}")

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Replace one of its files in one step."""
        new = self.path(f"{name}.new")
        new.write_text(text, "utf-8")
        new.chmod(mode)
        new.replace(self.path(name))

    def run(
        self,
        *words: str,
        timeout: float = _SECONDS,
        env: Mapping[str, str] | None = None,
        allow: frozenset[int] = frozenset({0}),
    ) -> str:
        """Run a program on it; the arguments, the result and the errors are those of `run.run`."""
        return run([*self.entering, *words], timeout=timeout, env=env, allow=allow)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a module-level function in a process on it; see `Child.call`."""
        return self._child.call(_SECONDS, function, *args, **kwargs)

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> int:
        """Start a program that goes on running; what it says is in /var/log/started there.

        Returns:
            Its process id, in the host's own numbers.
        """
        return self.call(_start, words, dict(env or {}))

    def stop(self, pid: int) -> None:
        """End a program that `start` has started, and wait for it.

        Raises:
            RvssError: BUSY if it did not end.
        """
        self.call(_stop, pid)

    def end(self, *programs: str) -> None:
        """End all processes that run one of some programs, by their file's name.

        Raises:
            RvssError: BUSY if one did not end.
        """
        self.call(_end, programs)

    def pids(self, *programs: str) -> list[int]:
        """Return the processes that run one of some programs, in its own numbers."""
        return self.call(_running, programs)


def connect(addresses: Mapping[Host, str], length: int = 24) -> None:
    """Put hosts into one network, by a switch that the first one has.

    Args:
        addresses: of each.
        length: prefix length of the network.
    """
    hosts = list(addresses)
    switch = hosts[0]

    def ip(host: Host, *words: str) -> None:
        # In its network alone, so that processes have our numbers.
        entering = [tool("nsenter"), f"--target={host.pid}", "--net", "--"]
        run([*entering, "ip", *words], timeout=_SECONDS)

    ip(switch, "link", "add", "eth0", "type", "bridge")
    for host in hosts[1:]:
        far = ["peer", "name", "eth0", "netns", str(host.pid)]
        ip(switch, "link", "add", host.name, "type", "veth", *far)
        ip(switch, "link", "set", host.name, "master", "eth0", "up")
    for host, address in addresses.items():
        ip(host, "addr", "add", f"{address}/{length}", "dev", "eth0")
        ip(host, "link", "set", "eth0", "up")


# What follows is called in a process of the host.

_started: "dict[int, subprocess.Popen[bytes]]" = {}


def _furnish(name: str, *, installed: bool) -> None:
    checkout = os.open(ROOT, os.O_PATH | os.O_DIRECTORY)
    try:
        _detach_foreign()
        work = Path("/mnt")
        _mount("-t", "tmpfs", "none", work)
        if installed:
            _quietly(Path(ROOT) / "packaging" / "install", DESTDIR=str(work / "root"))
            _mount("-t", "overlay", "-o", f"lowerdir={work}/root/usr:/usr", "none", "/usr")
        for part in ("upper", "work"):
            (work / part).mkdir()
        layers = f"lowerdir=/etc,upperdir={work}/upper,workdir={work}/work"
        _mount("-t", "overlay", "-o", layers, "none", "/etc")
        for directory in _EMPTY:
            mode = os.stat(directory).st_mode & 0o7777
            _mount("-t", "tmpfs", "-o", f"mode={mode:o}", "none", directory)
        if not os.path.isdir(ROOT):
            os.makedirs(ROOT)
            _mount("--bind", f"/proc/{os.getpid()}/fd/{checkout}", ROOT)
    finally:
        os.close(checkout)
    for directory, mode in _SAMBA.items():
        os.mkdir(directory)
        os.chmod(directory, mode)
    privileged = "/var/lib/samba/winbindd_privileged"
    os.mkdir(privileged, 0o750)
    with suppress(LookupError):  # of the package winbind
        shutil.chown(privileged, group="winbindd_priv")
    socket.sethostname(name)
    _quietly("ip", "link", "set", "lo", "up")
    with suppress(FileNotFoundError), open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as ipv6:
        ipv6.write("1\n")


def await_port(address: str, port: int) -> None:
    """Wait, on a host, until somebody listens there.

    Args:
        address: where.
        port: the TCP port.
    """

    def answers() -> bool:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            return False
        return True

    wait_until(f"port {port} of {address} answers", answers, _SECONDS)


def make_volume(path: str) -> None:
    """Give a host a btrfs subvolume of its own, into which every user may write.

    Args:
        path: where it is mounted; the directory is made.
    """
    file = Path("/mnt/btrfs")
    with file.open("wb") as image:
        image.truncate(_SIZE)
    run(["mkfs.btrfs", "-q", "-M", str(file)], timeout=_SECONDS)
    os.mkdir("/mnt/top")
    _mount("-o", "loop", file, "/mnt/top")
    run(["btrfs", "-q", "subvolume", "create", "/mnt/top/vms"], timeout=_SECONDS)
    os.mkdir(path)
    _mount("--bind", "/mnt/top/vms", path)
    Path(path).chmod(0o777)


def _detach_foreign() -> None:
    """Let go of what is mounted here for others, who want to unmount it.

    What stays is the system's: where programs and devices are, and on the way there.
    """
    wanted = ("/proc", "/sys", "/dev", "/usr", "/etc", "/var", ROOT)
    for target in reversed([*mounttable.mount_targets()]):
        place = Path(target)
        if any(place.is_relative_to(name) or Path(name).is_relative_to(place) for name in wanted):
            continue
        mounting.umount(target)


def _mount(*words: str | Path) -> None:
    _quietly("mount", *words)


def _quietly(*words: str | Path, **more: str) -> None:
    run([str(word) for word in words], timeout=_SECONDS, env=more)


def _start(words: Sequence[str], env: Mapping[str, str]) -> int:
    with open("/var/log/started", "ab") as log:
        # smbd signals its process group, and ends with a pipe that is its standard input.
        started = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(env),
            cwd="/",
            start_new_session=True,
        )
    _started[started.pid] = started
    return started.pid


def _stop(pid: int) -> None:
    process = _started.pop(pid)
    process.terminate()
    try:
        process.wait(_SECONDS / 2)
    except subprocess.TimeoutExpired as exc:
        process.kill()
        process.wait()
        raise RvssError(Problem.BUSY, f"{process.args!r} did not end, and was killed") from exc


def _running(programs: Iterable[str]) -> list[int]:
    found = []
    for process in _started.values():
        process.poll()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is the kernel's
            if Path(os.readlink(entry / "exe")).name in programs:
                found.append(int(entry.name))
    return found


def _end(programs: Sequence[str]) -> None:
    deadline = time.monotonic() + _SECONDS / 2
    while left := _running(programs):
        if time.monotonic() > deadline:
            raise RvssError(Problem.BUSY, f"{' and '.join(programs)} did not end: {left}")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.02)
