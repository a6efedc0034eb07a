"""A private Samba whose smbd runs in a podman container.

Place: a rig for tests, over `smbd`. Contract: the container has a root directory and a mount
namespace of its own, and no more capabilities than podman gives. It has the host's process ids and
network, so that clients, smbcontrol(1) and the daemon reach Samba from the host. Of the host's
files it has programs and /etc, read-only, and at their own paths this Samba's directory and what
`show` and `follow` name. All that podman keeps is in a directory of the rig's own and goes with it;
of runc an empty /run/runc stays.
"""

import errno
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from samba_rvss.kernel.processes import descendants
from samba_rvss.run import run, tool
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.supervisor import ROOT, supervised
from samba_rvss.testing.waiting import wait_until

_SECONDS = 60.0
_CGROUPS = Path("/sys/fs/cgroup")

# Otherwise its locks are in one file in /dev/shm for all that root runs; and its runtime is crun,
# which does not start where a part of the control groups is of version 1.
_SETTINGS = """\
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "none"
lock_type = "file"
tmp_dir = "{0}/run/libpod"
static_dir = "{0}/storage/libpod"
volume_path = "{0}/storage/volumes"
"""


class ContainerSmbd(PrivateSmbd):
    """A context manager: see PrivateSmbd, whose arguments it takes."""

    def _set_up(self) -> None:
        super()._set_up()
        self._volumes = ["/usr:/usr:ro", "/etc:/etc:ro", f"{ROOT}:{ROOT}:ro"]
        self._volumes.append(f"{self.directory}:{self.directory}:bind")
        self._home = Path(tempfile.mkdtemp(prefix=f"rvss-{os.getpid()}-", dir=self._parent))
        self._undo.callback(shutil.rmtree, self._home)
        self._settings = {"CONTAINERS_CONF": str(self._home / "containers.conf")}
        (self._home / "containers.conf").write_text(_SETTINGS.format(self._home), "utf-8")
        self._cgroup = f"rvss-{secrets.token_hex(4)}"
        self._undo.callback(self._remove_cgroups)
        self._undo.callback(self._podman, "rm", "--all", "--force", "--time=0")
        self._make_root()
        self._undo.callback(self.stop)

    def _make_root(self) -> None:
        """Make the root directory of containers: places for mounts, and links like /bin."""
        root = self._home / "root"
        for name in ("etc", "usr", "proc", "sys", "dev", "run", "var", "tmp"):
            (root / name).mkdir(parents=True)
        # Samba writes there as its clients' users what callouts print.
        (root / "tmp").chmod(0o1777)
        for name in os.listdir("/"):
            with suppress(OSError):  # it is a directory
                if (target := os.readlink(f"/{name}")).startswith("usr/"):
                    (root / name).symlink_to(target)

    def show(self, path: Path) -> None:
        """Let containers that start from now on have a directory, as it is when they start."""
        self._volumes.append(f"{path}:{path}")

    def follow(self, path: Path) -> None:
        """Let them have a directory and all that the host ever mounts and unmounts below it.

        That takes a shared mount: the directory itself, or the one that it is on.
        """
        self._volumes.append(f"{path}:{path}:rslave")

    def _command(self, argv: list[str]) -> list[str]:
        return [
            "/usr/bin/env",
            *(f"{name}={text}" for name, text in self._settings.items()),
            *self._words("run"),
            "--rm",
            "--interactive",  # the end of our standard input is that of the supervisor's
            f"--pidfile={self._home / 'pid'}",
            f"--cgroup-parent=/{self._cgroup}",
            "--pid=host",
            "--network=host",
            # Enough for smbd; of itself podman asks for more than every root may have.
            "--ulimit=nofile=20000:20000",
            "--ulimit=nproc=20000:20000",
            "--log-driver=none",
            *(f"--volume={volume}" for volume in self._volumes),
            f"--workdir={self.directory}",
            "--rootfs",
            str(self._home / "root"),
            *supervised(argv),
        ]

    def _words(self, *words: str) -> list[str]:
        return [
            tool("podman"),
            f"--root={self._home / 'storage'}",
            f"--runroot={self._home / 'run'}",
            "--storage-driver=vfs",  # overlay mounts its directory on itself, and leaves that
            *words,
        ]

    def _podman(self, *words: str) -> str:
        return run(self._words(*words), timeout=_SECONDS, env=self._settings)

    def processes(self) -> list[int]:
        """Return the pids of all processes in the container."""
        if self._process is None:
            return []
        first = int((self._home / "pid").read_text("ascii"))
        return [first, *descendants(first)]

    def kept(self) -> list[str]:
        """Return the ids of the containers and of the images that podman has."""
        found = self._podman("ps", "--all", "--quiet")
        return (found + self._podman("images", "--all", "--quiet")).split()

    def _remove_cgroups(self) -> None:
        """Remove what podman leaves, as soon as what cleans up behind a container has ended too."""
        wait_until("the control groups of the containers are empty", self._cgroups_removed)

    def _cgroups_removed(self) -> bool:
        for top in (_CGROUPS / self._cgroup, *_CGROUPS.glob(f"*/{self._cgroup}")):
            for place, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(place)
                except OSError as exc:
                    if exc.errno != errno.EBUSY:
                        raise
                    return False
        return True
