"""podman, with all that it keeps in a directory of its own.

Place: a rig for tests, below `container`. Contract: leaving the context ends its containers and
removes them, its images and its control groups. What stays is an empty /run/runc, and the cache in
/var/lib/containers/cache, which tells where podman has seen a layer.
"""

import errno
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from samba_rvss.kernel import mounting
from samba_rvss.run import run, tool
from samba_rvss.testing.undoing import Undoing
from samba_rvss.testing.waiting import wait_until

_SECONDS = 120.0  # an emulated machine beside us may need the processors
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

# Enough for smbd; of itself podman asks for more than every root may have.
_LIMITS = ("--ulimit=nofile=20000:20000", "--ulimit=nproc=20000:20000")


class Podman(Undoing):
    """A context manager: podman with no images and no containers.

    Args:
        parent: where to make its directory.

    Attributes:
        settings: the environment of its commands.
    """

    def __init__(self, parent: Path = Path("/tmp")) -> None:
        super().__init__()
        self._parent = parent
        self.home = parent
        self.settings: dict[str, str] = {}
        self._cgroup = f"rvss-{secrets.token_hex(4)}"

    def _set_up(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"rvss-{os.getpid()}-", dir=self._parent))
        self._undo.callback(shutil.rmtree, self.home)
        self.settings = {"CONTAINERS_CONF": str(self.home / "containers.conf")}
        (self.home / "containers.conf").write_text(_SETTINGS.format(self.home), "utf-8")
        self._undo.callback(self._unmount)
        self._undo.callback(self._remove_cgroups)
        self._undo.callback(self, "rm", "--all", "--force", "--time=0")

    def __call__(self, *words: str, seconds: float = _SECONDS) -> str:
        """Run a command of podman's; return its standard output.

        Raises:
            RvssError: as `run`.
        """
        return run(self.words(*words), timeout=seconds, env=self.settings)

    def words(self, *words: str) -> list[str]:
        """Return the words of a command; `settings` have to be in its environment."""
        place = (f"--root={self.home / 'storage'}", f"--runroot={self.home / 'run'}")
        return [tool("podman"), *place, "--storage-driver=overlay", *words]

    def run_words(self, *words: str) -> list[str]:
        """Return the words that run a container, with the options that each has here."""
        return self.words("run", f"--cgroup-parent=/{self._cgroup}", *_LIMITS, *words)

    def build(self, containerfile: Path, context: Path, tag: str, base: str) -> None:
        """Build an image.

        Args:
            containerfile: its recipe, with an argument ``BASE``.
            context: the directory that it is built from.
            tag: the image's name.
            base: that of the image it is built on.

        Raises:
            RvssError: as `run`.
        """
        self(
            *("build", "--quiet", "--isolation=chroot", "--network=host", *_LIMITS),
            *(f"--build-arg=BASE={base}", f"--tag={tag}", f"--file={containerfile}", str(context)),
            seconds=10 * _SECONDS,
        )

    def kept(self) -> list[str]:
        """Return the ids of the containers and of the images that it has."""
        found = self("ps", "--all", "--quiet") + self("images", "--all", "--quiet")
        return found.split()

    def _unmount(self) -> None:
        """Take away the mount of its directory on itself, which it leaves."""
        place = str(self.home / "storage" / "overlay")
        while os.path.ismount(place):
            mounting.umount(place)

    def _remove_cgroups(self) -> None:
        """Remove what it leaves, as soon as what cleans up behind a container has ended too."""
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
