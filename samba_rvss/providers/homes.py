"""Where images of ours may be: a home on each such file system, remembered in the state directory.

There the ledger's losses are looked for, also when no share lies there any more. On btrfs it is
remembered which subvolume the home is: a name is no identity, for whoever may write to the top
level can rename the home, and put something else in its place. Nor is an id alone: a file system
that was made anew, or restored, may have its uuid again and give the id to another subvolume; so
that one's uuid is remembered, too. Contract: what is remembered stays; the file is replaced in one
step, and durable. It may be missing: then the home is known by its name, once. That it cannot be
written is told, and stops nothing.
"""

import json
import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass

from samba_rvss.kernel import files

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A home that is remembered.

    Attributes:
        tree: the subvolume's id; 0 on ZFS, which knows it by its name.
        uuid: 32 hexadecimal digits; empty on ZFS.
    """

    tree: int
    uuid: str


IN_A_POOL = Known(tree=0, uuid="")
"""What is to be remembered of a home on ZFS."""


class Homes:
    """The homes of one instance.

    Args:
        path: the file; empty to remember them in memory only.
    """

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._written = True

    def file_systems(self) -> frozenset[str]:
        """Return the file systems on which there is, or was, a home."""
        with self._lock:
            return frozenset({**self._read(), **self._known})

    def known(self, file_system: str) -> Known | None:
        """Return which subvolume is our home; None if there never was one."""
        with self._lock:
            if file_system not in self._known:
                self._known = {**self._read(), **self._known}
            return self._known.get(file_system)

    def remember(self, file_system: str, home: Known) -> None:
        """Remember a home from now on."""
        with self._lock:
            if self._known.get(file_system) == home and self._written:
                return
            try:
                written = self._load()
            except OSError as exc:
                _logger.warning("cannot read %s: %s", self._path, exc)
                self._known[file_system] = home
                self._written = False  # what it says must not be lost
                return
            except (ValueError, TypeError, AttributeError) as exc:
                self._set_aside(exc)
                written = {}
            self._known = {**written, **self._known, file_system: home}
            if self._known != written or not self._written:
                self._write()

    def _load(self) -> dict[str, Known]:
        """Return what the file says, nothing if there is none; OSError or ValueError if not."""
        if not self._path:
            return {}
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with files.opened(os.open(self._path, flags)) as fd:
                data = json.loads(os.read(fd, 1 << 20))
        except FileNotFoundError:
            return {}
        return {
            str(name): Known(tree=int(tree), uuid=str(uuid)) for name, (tree, uuid) in data.items()
        }

    def _set_aside(self, exc: Exception) -> None:
        aside = f"{self._path}.damaged"
        _logger.error("%s is damaged (%s), and is %s from now on", self._path, exc, aside)
        with suppress(OSError):
            os.rename(self._path, aside)

    def _read(self) -> dict[str, Known]:
        try:
            return self._load()
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            _logger.warning("cannot read %s: %s", self._path, exc)
            return {}

    def _write(self) -> None:
        if not self._path:
            return
        data = {found: [home.tree, home.uuid] for found, home in self._known.items()}
        try:
            files.replace(self._path, json.dumps(data).encode())
            self._written = True
        except OSError as exc:
            if self._written:
                _logger.warning("cannot write %s: %s", self._path, exc.strerror)
            self._written = False
