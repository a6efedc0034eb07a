"""Paths of what is root's alone: without symbolic links, with no part that others can replace.

Contract: what `resolve` returned stays the same directory or file, unless root changes something.
"""

import errno
import os
import stat

_LINKS = 40  # include/linux/namei.h, MAXSYMLINKS
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Replaceable(Exception):
    """Somebody else could put something of his own there; the text says where, and why."""


def resolve(path: str, *, file: bool = False) -> str:
    """Return an absolute path without symbolic links; its end need not exist.

    Each directory on the way, and each that a link leads through, must belong to root and be
    writable for nobody else; in one with the sticky bit, such as /tmp, others can replace what is
    theirs, but not what is root's. Who is not root himself is trusted as well: it is his process.

    Args:
        path: which one.
        file: whether it is one of a file, which has to exist, and be such as well.

    Raises:
        Replaceable: that is not so.
        OSError: the path cannot be followed.
    """
    left = path.split("/")[::-1]
    done, links = "/", 0
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            done = os.path.dirname(done)
            continue
        _require_owner(done, os.lstat(done))
        _require_protected(done, os.lstat(done))
        here = os.path.join(done, name)
        try:
            status = os.lstat(here)
        except FileNotFoundError:
            if file:
                raise
            return os.path.normpath(os.path.join(here, *left[::-1]))
        _require_owner(here, status)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(here)
            left += target.split("/")[::-1]
            done = "/" if target.startswith("/") else done
        elif stat.S_ISDIR(status.st_mode):
            done = here
        elif file and not left and stat.S_ISREG(status.st_mode):
            if status.st_mode & _OTHERS:
                raise Replaceable(f"others than root may write to {here}")
            return here
        else:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), here)
    if file:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), done)
    return done


def make(path: str, mode: int) -> None:
    """Make a directory, with those above it, and give it a mode.

    Args:
        path: what `resolve` returned.
        mode: its permissions; those made above it get 0755.

    Raises:
        Replaceable: somebody else has made a part of it meanwhile, or may write to it.
        OSError: it cannot be made.
    """
    names = path.split("/")[1:]
    for number in range(1, len(names) + 1):
        here = f"/{'/'.join(names[:number])}"
        try:
            os.mkdir(here, 0o700)
        except FileExistsError:
            status = os.lstat(here)
            _require_owner(here, status)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), here) from None
            if here != path:
                _require_protected(here, status)
            elif status.st_mode & _OTHERS:
                raise Replaceable(f"others than root may write to {here}") from None
        else:
            os.chmod(here, 0o755)  # noqa: S103  clients' users go through it
    os.chmod(path, mode)


def _require_owner(path: str, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise Replaceable(f"{path} belongs to user {status.st_uid}, who can replace it")


def _require_protected(path: str, status: os.stat_result) -> None:
    if status.st_mode & _OTHERS and not status.st_mode & stat.S_ISVTX:
        raise Replaceable(f"others than root may write to {path}, and replace what is in it")
