"""Where things are made before they get their names: a directory of root's beside the target.

    <target>/.rvss-restore-<token>       mode 0700, without an ACL, with the token as its mark
    <state>/restores/<token>             where that is; locked for as long as somebody works there

Nobody but root can look into it or change what is in it, so what is half done is nobody's; from it
things come to their names in one step. Contract: it goes when it is closed. What a killed process
has left is removed by the next one: only a directory that a record of ours names, that is root's,
and that bears the mark of that record, which no user can give to a directory of his
(xattr(7), trusted extended attributes).
"""

import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.manifests import tree

PREFIX = b".rvss-restore-"
"""What the names of such directories begin with."""

MARK = "trusted.samba_rvss.restore"

_RECORDS = "restores"
_ACLS = ("system.posix_acl_default", "system.posix_acl_access")
_NONE = (errno.ENODATA, errno.ENOTSUP)
_PLACE = files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_MAGICLINKS


class Work(Closing):
    """Such a directory.

    Args:
        state: the state directory.
        parent: a descriptor of the directory in which it is made; the caller's.

    Attributes:
        fd: a descriptor of it.

    Raises:
        RvssError: NOT_SUPPORTED if the file system has no extended attributes; NO_SPACE, READ_ONLY
            or SYSTEM.
    """

    def __init__(self, state: str, parent: int) -> None:
        self._token = secrets.token_hex(16)
        self._name = PREFIX + self._token.encode()
        self._parent = os.dup(parent)
        self._number = 0
        self.fd = -1
        try:
            self._record, self._lock = _note(state, self._token, self._parent)
        except BaseException:
            os.close(self._parent)
            raise
        try:
            self.fd = _make(self._parent, self._name, self._token)
        except OSError as exc:
            failure = _failure(self._parent_path, exc)
            with suppress(RvssError):  # the first reason is the one that matters
                self.close()
            raise failure from exc
        except BaseException:
            self.close()
            raise

    def name(self) -> bytes:
        """Return a name that nothing in it has had."""
        self._number += 1
        return b"%d" % self._number

    def remove(self, name: bytes) -> None:
        """Remove what is in it under a name, with all that is in that. Gone already is success.

        Raises:
            OSError: it cannot be removed.
        """
        with suppress(FileNotFoundError):
            remove(self.fd, name)

    def close(self) -> None:
        """Remove it with all that is in it.

        Raises:
            RvssError: SYSTEM if that fails; the next process that restores something does it then.
        """
        try:
            if self.fd >= 0:
                empty(self.fd)
            try:
                os.rmdir(self._name, dir_fd=self._parent)
            except OSError as exc:  # somebody who may has moved it, and put something else there
                moved = exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY)
                # A file system that is read-only answers that, whether it was made or not.
                if not moved and is_there(self._parent, self._name):
                    raise
            os.unlink(self._record)
        except OSError as exc:
            raise RvssError(
                Problem.SYSTEM,
                f"what was being made in {self._parent_path} is not removed: {exc.strerror}",
                "the next restore does it",
            ) from exc
        finally:
            if self.fd >= 0:
                os.close(self.fd)
            os.close(self._lock)
            os.close(self._parent)

    @property
    def _parent_path(self) -> str:
        return os.readlink(f"/proc/self/fd/{self._parent}")


def _note(state: str, token: str, parent: int) -> tuple[str, int]:
    """Note where a directory will be; return the record's path, and a descriptor that locks it."""
    path = f"{state}/{_RECORDS}/{token}"
    place = os.readlink(f"/proc/self/fd/{parent}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with suppress(FileExistsError):
            os.mkdir(f"{state}/{_RECORDS}", 0o700)
        with _records(state) as directory:
            lock = os.open(token, flags, 0o600, dir_fd=directory)
            fcntl.flock(lock, fcntl.LOCK_EX)
        files.write(lock, json.dumps({"place": place}).encode())
        os.fsync(lock)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot write {path}: {exc.strerror}") from exc
    return path, lock


@contextmanager
def _records(state: str) -> Iterator[int]:
    """Have the directory of records, in which nobody else makes or looks at one meanwhile."""
    with files.opened(os.open(f"{state}/{_RECORDS}", files.DIRECTORY)) as directory:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield directory


def _make(parent: int, name: bytes, token: str) -> int:
    os.mkdir(name, 0o700, dir_fd=parent)
    fd = files.openat2(parent, name, files.DIRECTORY, files.BENEATH | files.RESOLVE_NO_XDEV)
    try:
        # Who may rename in the parent can put another directory of root's there: all that is in
        # ours is removed in the end, and nothing is in it yet.
        if os.fstat(fd).st_uid != os.geteuid() or any(tree.names(fd)):
            raise OSError(errno.ESTALE, "somebody has put another directory in its place")
        for acl in _ACLS:  # what it has inherited
            try:
                os.removexattr(fd, acl)
            except OSError as exc:
                if exc.errno not in _NONE:
                    raise
        os.fchown(fd, 0, 0)
        os.fchmod(fd, 0o700)
        os.setxattr(fd, MARK, token.encode())
    except BaseException:
        os.close(fd)
        raise
    return fd


def _failure(path: str, exc: OSError) -> RvssError:
    if exc.errno == errno.ENOTSUP:
        return RvssError(
            Problem.NOT_SUPPORTED,
            f"the file system of {path} has no extended attributes, which Samba's files need",
        )
    return full(exc) or RvssError(Problem.SYSTEM, f"cannot work in {path}: {exc.strerror}")


def full(exc: OSError) -> RvssError | None:
    """Return the error for what makes it useless to go on; None if it is about one file."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return RvssError(
            Problem.NO_SPACE,
            f"there is no room for what is restored ({exc.strerror})",
            "make room there, or restore to another place with --target",
        )
    if exc.errno == errno.EROFS:
        return RvssError(Problem.READ_ONLY, "the target's file system is read-only")
    return None


def is_one(found: int) -> bool:
    """Return whether a directory is one, of which a backup may have a copy.

    Args:
        found: a descriptor, O_PATH or not.
    """
    try:
        os.getxattr(f"/proc/self/fd/{found}", MARK)
    except OSError:
        return False
    return True


def clear(state: str) -> tuple[list[str], list[str]]:
    """Remove what killed processes have left.

    Returns:
        The paths of what was removed; and a sentence on each that could not be.

    Raises:
        RvssError: SYSTEM if the records cannot be read.
    """
    removed: list[str] = []
    failed: list[str] = []
    with ExitStack() as closing:
        try:
            with _records(state) as directory:
                found = list(_abandoned(directory, closing))
        except FileNotFoundError:
            return [], []
        except OSError as exc:
            raise RvssError(
                Problem.SYSTEM, f"cannot read {state}/{_RECORDS}: {exc.strerror}"
            ) from exc
        for token, record in found:
            place, path = _place(record), f"{state}/{_RECORDS}/{token}"
            try:
                if place and _clear(place, token):
                    removed.append(f"{place}/{PREFIX.decode()}{token}")
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                failed.append(
                    f"what a killed restore left in {place} is not removed: that is not there;"
                    f" remove {path} if it will not be there again"
                )
            except OSError as exc:
                failed.append(f"what a killed restore left is not removed: {exc.strerror}")
    return removed, failed


def _abandoned(directory: int, closing: ExitStack) -> Iterator[tuple[str, int]]:
    """Yield the records of those who are gone, each with a descriptor that locks it."""
    for token in sorted(os.listdir(directory)):
        record = os.open(token, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        closing.callback(os.close, record)
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        yield token, record


def _place(record: int) -> str:
    """Return what a record says; empty if it was cut off, before anything was made."""
    try:
        return str(json.loads(os.pread(record, 1 << 16, 0))["place"])
    except (ValueError, KeyError, TypeError):
        return ""


def _clear(place: str, token: str) -> bool:
    """Remove a directory if it is ours; return whether it was.

    Raises:
        FileNotFoundError: the place is not there: it may be renamed, or not mounted.
        OSError: it cannot be removed.
    """
    name = PREFIX + token.encode()
    with files.opened(files.openat2(files.AT_FDCWD, place, files.DIRECTORY, _PLACE)) as parent:
        try:
            how = files.BENEATH | files.RESOLVE_NO_XDEV
            fd = files.openat2(parent, name, files.DIRECTORY, how)
        except (FileNotFoundError, NotADirectoryError):
            return False
        with files.opened(fd):
            status = os.fstat(fd)
            if status.st_uid != 0 or stat.S_IMODE(status.st_mode) != 0o700:
                return False
            if _mark(fd) == token:
                empty(fd)
        with suppress(OSError):  # it has no mark, and something is in it: it is not ours
            os.rmdir(name, dir_fd=parent)
            return True
    return False


def _mark(fd: int) -> str:
    try:
        return os.getxattr(fd, MARK).decode("ascii", "replace")
    except OSError:
        return ""


def empty(directory: int) -> None:
    """Remove all that is in a directory.

    Raises:
        OSError: something cannot be removed.
    """
    for name in list(tree.names(directory)):
        remove(directory, name)


def remove(directory: int, name: bytes) -> None:
    """Remove what a name leads to, with all that is in it, whatever its depth.

    Args:
        directory: a descriptor of the directory that has the name.
        name: of what.

    Raises:
        OSError: it cannot be removed.
    """
    if not _is_directory(directory, name):
        os.unlink(name, dir_fd=directory)
        return
    directories = [name]
    for path in directories:  # it grows
        with tree.handle(directory, path) as found:
            for each in list(tree.names(found)):
                if _is_directory(found, each):
                    directories.append(path + b"/" + each)
                else:
                    os.unlink(each, dir_fd=found)
    for path in reversed(directories):
        above, last = os.path.split(path)
        with suppress(FileNotFoundError), tree.handle(directory, above) as around:
            os.rmdir(last, dir_fd=around)


def is_there(around: int, name: bytes) -> bool:
    """Return whether a name in a directory leads to something, a symbolic link too."""
    try:
        os.stat(name, dir_fd=around, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_directory(around: int, name: bytes) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=around, follow_symlinks=False).st_mode)
