"""A private Samba whose smbd runs in a podman container.

Place: a rig for tests, over `smbd` and `podman`. Contract: the container has a root directory and a
mount namespace of its own, and no more capabilities than podman gives. It has the host's process
ids and network, so that clients, smbcontrol(1) and the daemon reach Samba from the host. Of the
host's files it has programs and /etc, read-only, and at their own paths this Samba's directory and
what `show` and `follow` name.
"""

import os
from contextlib import suppress
from pathlib import Path

from samba_rvss.kernel.processes import descendants
from samba_rvss.testing.podman import Podman
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.supervisor import ROOT, supervised


class ContainerSmbd(PrivateSmbd):
    """A context manager: see PrivateSmbd, whose arguments it takes."""

    def _set_up(self) -> None:
        super()._set_up()
        self._volumes = ["/usr:/usr:ro", "/etc:/etc:ro", f"{ROOT}:{ROOT}:ro"]
        self._volumes.append(f"{self.directory}:{self.directory}:bind")
        self._podman = self._undo.enter_context(Podman(self._parent))
        self._root = self._podman.home / "root"
        self._pid_file = self._podman.home / "pid"
        self._make_root()
        self._undo.callback(self.stop)

    def _make_root(self) -> None:
        """Make the root directory of containers: places for mounts, and links like /bin."""
        for name in ("etc", "usr", "proc", "sys", "dev", "run", "var", "tmp"):
            (self._root / name).mkdir(parents=True)
        # Samba writes there as its clients' users what callouts print.
        (self._root / "tmp").chmod(0o1777)
        for name in os.listdir("/"):
            with suppress(OSError):  # it is a directory
                if (target := os.readlink(f"/{name}")).startswith("usr/"):
                    (self._root / name).symlink_to(target)

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
            *(f"{name}={text}" for name, text in self._podman.settings.items()),
            *self._podman.run_words(
                "--rm",
                "--interactive",  # the end of our standard input is that of the supervisor's
                f"--pidfile={self._pid_file}",
                "--pid=host",
                "--network=host",
                "--log-driver=none",
                *(f"--volume={volume}" for volume in self._volumes),
                f"--workdir={self.directory}",
                "--rootfs",
                str(self._root),
                *supervised(argv),
            ),
        ]

    def processes(self) -> list[int]:
        """Return the pids of all processes in the container."""
        if self._process is None:
            return []
        first = int(self._pid_file.read_text("ascii"))
        return [first, *descendants(first)]

    def kept(self) -> list[str]:
        """Return the ids of the containers and of the images that podman has."""
        return self._podman.kept()
