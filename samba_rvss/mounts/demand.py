"""Backups in Previous Versions: mounted when somebody looks into one, and taken away after.

    <run>/previous/<share>          an autofs over the plain directory, while a daemon serves it
    <run>/previous/<share>/@GMT-…   a shadow copy's mount, as without it; or a backup's directory,
                                    empty and with mode 0 until somebody looks into it

Place: beside `previous`, for `mounts`. Contract: our owner answers whoever waits. When nobody
answers any more, nobody but root can look into what is not mounted. The mounts of shadow copies are
carried over when an autofs comes or goes; files that are open through them stay open. A directory
that no autofs can stand for, because an ACL closes it to some, stays as it is.
"""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from threading import RLock
from typing import Protocol

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import autofs, files, mounting
from samba_rvss.kernel.autofs import Asked
from samba_rvss.mounts import covering, previous, tree, way

IDLE_SECONDS = 300
"""After so long a backup that nobody uses is unmounted."""

MOST = 128
"""So many backups are mounted at a time; users may look into all that there are."""

_CLOSE_SECONDS = 5.0


class Keeper(Protocol):
    """Who answers questions in our owner's place, when he does not."""

    def add(self, root: int) -> None:
        """Answer for a mount, too."""

    def drop(self, root: int) -> None:
        """Answer no more for a mount, which asks nothing any more."""

    def done(self, asked: Asked) -> None:
        """Hear that a question has been answered."""


@dataclass(slots=True, kw_only=True)
class _Covered:
    """A directory with an autofs over it.

    Attributes:
        root: of the autofs.
        plain: the directory that it hides.
        device: what the kernel calls it.
        images: the id of each backup's image by its name.
        mounted: the names of those that may be mounted.
        ended: whether it asks nothing any more, and is to be taken away.
    """

    root: int
    plain: int
    device: int
    ended: bool = False
    images: dict[str, str] = field(default_factory=dict)
    mounted: set[str] = field(default_factory=set)


class Demand:
    """The directories in which the backups of one instance are mounted on demand.

    Args:
        run: the run directory.
        lock: whoever changes something in a directory of Previous Versions has it.
    """

    def __init__(self, run: str, lock: RLock) -> None:
        self._run = run
        self._lock = lock
        self._asked = self._theirs = -1
        self._ending = False
        self._keeper: Keeper | None = None
        self._covered: dict[str, _Covered] = {}

    def open(self, asked: int, theirs: int, keeper: Keeper | None = None) -> None:
        """Begin.

        Args:
            asked: where questions are read from; it stays the caller's.
            theirs: the end of the pipe that is the kernel's; it is ours from now on.
            keeper: who is to answer those questions that our owner does not.
        """
        self._asked, self._theirs, self._keeper = asked, theirs, keeper
        self._ending = False

    def close(self) -> None:
        """End: directories are plain again, with the mounts of shadow copies in them.

        If that does not come to an end, those who wait hear at least that there is nothing.

        Raises:
            OSError: if it cannot be done; TimeoutError if somebody does not free the lock.
        """
        self._ending = True  # whoever has the lock covers nothing more
        for covered in tuple(self._covered.values()):
            with suppress(OSError):  # `uncover` has closed it meanwhile
                autofs.silence(covered.root)
        if not self._lock.acquire(timeout=_CLOSE_SECONDS):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), self._run)
        with ExitStack() as undo:
            undo.callback(self._lock.release)
            if self._theirs >= 0:
                undo.callback(os.close, self._theirs)
            self._asked = self._theirs = -1  # nothing is covered any more
            for path in self.covered:
                undo.callback(self.uncover, path)

    def abandon(self) -> tuple[int, ...]:
        """Forget everything, as whoever is killed does; return the descriptors, for a test."""
        found = self._covered.values()
        fds = (self._theirs, *(fd for covered in found for fd in (covered.root, covered.plain)))
        self._asked = self._theirs = -1
        self._covered.clear()
        return fds

    @property
    def covered(self) -> tuple[str, ...]:
        """The directories with an autofs over them."""
        return tuple(self._covered)

    # directories

    def cover(self, path: str) -> None:
        """Put an autofs over a directory of Previous Versions, if it is one that clients can see.

        Again is success. After the end nothing is done.

        Raises:
            RvssError: NOT_SUPPORTED if it cannot stand for the directory, or there is none here;
                SYSTEM.
        """
        with self._lock:
            if self._theirs < 0 or self._ending:
                return
            try:
                if path in self._covered:
                    if not self._covered[path].ended:
                        return
                    self.uncover(path)  # it could not be done before
                if covering.is_mounted(path):
                    raise RvssError(
                        Problem.NOT_SUPPORTED, f"something is mounted at {path}", "unmount that"
                    )
                who = covering.passing(path)
                if who is None:
                    return  # nor are shadow copies shown: see `previous.make`
                self._cover(path, who)
            except FileNotFoundError:
                return  # nor are shadow copies shown
            except OSError as exc:
                raise covering.failed(path, exc) from exc

    def _cover(self, path: str, who: way.Ownership) -> None:
        made, root = autofs.mount(self._theirs, IDLE_SECONDS)
        with ExitStack() as closing, ExitStack() as undo:
            closing.callback(os.close, made)
            closing.callback(os.close, root)
            way.give(root, who)
            plain = os.open(path, files.DIRECTORY)
            undo.callback(os.close, plain)
            names = os.listdir(plain)
            if self._keeper is not None:
                self._keeper.add(root)
                undo.callback(self._keeper.drop, root)
            with (
                covering.clones(path, names) as clones,
                files.opened(covering.joined(made, root, clones)) as whole,
            ):
                # All that may fail comes before it is there: nobody would answer for it.
                top = os.open(".", files.DIRECTORY, dir_fd=whole)
                undo.callback(os.close, top)
                covered = _Covered(root=top, plain=plain, device=autofs.device(top))
                mounting.move_mount(whole, path)
                undo.callback(mounting.umount, path)
                undo.callback(autofs.silence, top)
            self._covered[path] = covered
            undo.pop_all()
            with covering.letting_go() as hold, ExitStack() as removing:
                for name in names:
                    removing.callback(covering.remove, f"/proc/self/fd/{plain}/{name}", hold)

    def uncover(self, path: str) -> None:
        """Take an autofs away, with the backups in it; whoever waits hears that there are none.

        Again is success, if it could not be done before.

        Raises:
            OSError: if it cannot be done.
        """
        with self._lock:
            covered = self._covered[path]
            autofs.silence(covered.root)
            if self._keeper is not None and not covered.ended:
                self._keeper.drop(covered.root)
            covered.ended = True
            names = [name for name in os.listdir(covered.root) if name not in covered.images]
            with covering.letting_go() as hold, covering.clones(path, names) as clones:
                covering.put(covered.plain, clones)
                for name in covered.images:
                    hold(f"{path}/{name}")
                try:
                    mounting.umount(path)  # with all that is mounted in it
                except OSError as exc:
                    if exc.errno != errno.EINVAL:  # somebody has done that
                        raise
            del self._covered[path]
            os.close(covered.root)
            os.close(covered.plain)

    def give(self, path: str, gates: Sequence[way.Gate]) -> bool:
        """Have a directory let pass whom gates do; return whether there is an autofs for that.

        One that cannot do so is taken away. The directory beneath is as closed as it has to be
        whenever it comes to light.

        Args:
            path: the directory.
            gates: those on the way to its share.

        Raises:
            OSError: if it cannot be done.
        """
        with self._lock:
            covered = self._covered.get(path)
            if covered is None:
                return False
            gate = previous.standing_for(gates)
            way.apply(covered.plain, gate, listed=len(gates) < 2)
            who = way.ownership(gate, listed=True) if len(gates) < 2 else None
            if who is None:
                self.uncover(path)
                return False
            way.give(covered.root, who)
            return True

    def show(self, path: str, images: Mapping[str, str]) -> frozenset[str]:
        """Have a directory with an autofs show backups, and no others.

        Args:
            path: the directory.
            images: the id of each one's image by the name that it is to have.

        Returns:
            The names that they cannot have yet: a shadow copy has it still.

        Raises:
            OSError: if it cannot be done.
        """
        with covering.letting_go() as hold, self._lock:
            covered = self._covered.get(path)
            if covered is None:
                return frozenset()
            there = set(os.listdir(covered.root))
            for name, image in tuple(covered.images.items()):
                if images.get(name) != image or name not in there:
                    del covered.images[name]
                    covering.remove(f"{path}/{name}", hold)
                    covered.mounted.discard(name)
            for name in sorted(images.keys() - covered.images.keys()):
                if covering.is_mounted(f"{path}/{name}"):
                    continue
                # An empty one may be left of the shadow copy.
                covering.remove(f"{path}/{name}", hold)
                # Nobody's: only what is mounted there is for clients.
                os.mkdir(name, 0, dir_fd=covered.root)
                covered.images[name] = images[name]
            return frozenset(images.keys() - covered.images.keys())

    # questions

    def asked(self) -> list[Asked]:
        """Return what has been asked for since; each has to be answered. Never waits.

        Raises:
            EOFError: nobody asks any more, and all has been returned that was asked.
        """
        found: list[Asked] = []
        try:
            for _, asked in autofs.questions(self._asked):
                found.append(asked)
        except EOFError:
            if not found:
                raise
        return found

    def silence(self) -> None:
        """Have nothing asked any more: whoever waits, for an answer or in `expire`, is let go.

        Never waits, not even for who has the lock.
        """
        for covered in tuple(self._covered.values()):
            with suppress(OSError):  # it has just been taken away
                autofs.silence(covered.root)

    def image(self, asked: Asked) -> str:
        """Return the id of the image that is asked for; empty if there is none. Never waits."""
        _, covered = self._find(asked)
        return covered.images.get(asked.name, "") if covered else ""

    def answer(self, asked: Asked, *, done: bool) -> None:
        """Answer; who waits looks again."""
        with self._lock:
            _, covered = self._find(asked)
            if covered is not None:
                with suppress(OSError):  # nobody waits for it any more
                    autofs.answer(covered.root, asked.token, done=done)
                if self._keeper is not None:
                    self._keeper.done(asked)

    def _find(self, asked: Asked) -> tuple[str, _Covered | None]:
        for path, covered in tuple(self._covered.items()):
            if covered.device == asked.device:
                return path, covered
        return "", None

    def attach(
        self, asked: Asked, parts: Sequence[tuple[str, int]], is_wanted: Callable[[], bool]
    ) -> bool:
        """Mount what is asked for; return whether it is there.

        Args:
            asked: what.
            parts: as `samba_rvss.providers.Provider.open` returns them; the descriptors stay the
                caller's, who closes them.
            is_wanted: whether it is a backup still; nobody unmounts it while this is asked.

        Raises:
            OSError: if it cannot be mounted.
            RvssError: BUSY if too many are; see `make_room`.
        """
        with files.opened(tree.build(parts, asked.name)) as whole, self._lock:
            path, covered = self._find(asked)
            if covered is None or asked.name not in covered.images or not is_wanted():
                return False
            if not covering.is_mounted(f"{path}/{asked.name}"):
                if self._is_full:
                    raise RvssError(
                        Problem.BUSY, f"{MOST} backups in Previous Versions are in use already"
                    )
                with files.opened(
                    os.open(asked.name, covering.ENTRY, dir_fd=covered.root)
                ) as directory:
                    mounting.move_mount(whole, directory)
            covered.mounted.add(asked.name)
            return True

    @property
    def _is_full(self) -> bool:
        return sum(len(covered.mounted) for covered in tuple(self._covered.values())) >= MOST

    def release(self, asked: Asked) -> bool:
        """Unmount a backup that nobody uses; return whether it is one of ours.

        Raises:
            OSError: if it cannot be unmounted.
        """
        with covering.letting_go() as hold, self._lock:
            path, covered = self._find(asked)
            if covered is None or asked.name not in covered.images:
                return False
            covering.unmount(f"{path}/{asked.name}", hold)
            covered.mounted.discard(asked.name)
            return True

    def expire(self) -> None:
        """Ask for all that nobody has used for a while; it waits until somebody has answered."""
        self._expire(lambda: False, at_once=False)

    def make_room(self) -> None:
        """Ask for something that nobody uses, if no more can be mounted; it waits as `expire`."""
        self._expire(lambda: not self._is_full, at_once=True)

    def _expire(self, is_enough: Callable[[], bool], *, at_once: bool) -> None:
        for path in self.covered:
            with ExitStack() as undo:
                with self._lock:
                    covered = self._covered.get(path)
                    if covered is None:
                        continue
                    root = os.dup(covered.root)  # it may be closed meanwhile
                    undo.callback(os.close, root)
                    most = len(os.listdir(root))
                for _ in range(most):
                    if is_enough() or not autofs.expire(root, at_once=at_once):
                        break
