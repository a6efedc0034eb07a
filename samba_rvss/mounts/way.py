"""The way to a share: who may walk through the directories above it, and so to its copies.

A directory above a share that is closed to somebody has a gate on the way to each copy: a
directory of root's that lets the same people pass. Contract: nobody but root writes into a gate or
lists it, because daemons make and mount things in there; its name says whom it lets pass, so that
it can be made again after a reboot, whatever has become of the share's directories since.
"""

import errno
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files

_ACL = "system.posix_acl_access"
# linux/posix_acl_xattr.h, linux/posix_acl.h
_VERSION = struct.pack("=I", 2)
_ENTRY = struct.Struct("=HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_WALK, _ALL_WALK = 1, 0o111

_NAME = re.compile(r"way-([gG])(\d+)-([oO])((?:-[ugUG]\d+)*)")
_LONGEST = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Whom a directory lets pass, by the rules of POSIX ACLs (acl(5)); root always passes.

    Attributes:
        group: its group's id.
        by_group: whether members of that group pass.
        others: whether those pass for whom nothing else is said.
        users: users' ids, and whether they pass; the first is the owner, if it is not root.
        groups: more groups' ids, and whether their members pass.
    """

    group: int
    by_group: bool
    others: bool
    users: tuple[tuple[int, bool], ...] = ()
    groups: tuple[tuple[int, bool], ...] = ()

    @property
    def open_to_all(self) -> bool:
        """Whether there is nobody whom it stops."""
        return all((self.by_group, self.others, *(p for _, p in (*self.users, *self.groups))))

    @property
    def name(self) -> str:
        """The name of its directory: capitals stand for those whom it stops."""
        words = [f"{'g' if self.by_group else 'G'}{self.group}", "o" if self.others else "O"]
        words += [f"{'u' if passes else 'U'}{user}" for user, passes in self.users]
        words += [f"{'g' if passes else 'G'}{group}" for group, passes in self.groups]
        return "-".join(("way", *words))

    @classmethod
    def named(cls, name: str) -> "Gate | None":
        """Return the gate of a directory's name, None if it is no gate's; no copy's is."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        more = [(word[0], int(word[1:])) for word in found[4].split("-")[1:]]
        return cls(
            group=int(found[2]),
            by_group=found[1] == "g",
            others=found[3] == "o",
            users=tuple((number, kind == "u") for kind, number in more if kind in "uU"),
            groups=tuple((number, kind == "g") for kind, number in more if kind in "gG"),
        )

    def entries(self, passing: int) -> bytes:
        """Return it as an access ACL (linux/posix_acl_xattr.h).

        Args:
            passing: the permissions of those who pass.
        """

        def entry(tag: int, number: int, *, passes: bool) -> bytes:
            return _ENTRY.pack(tag, passing if passes else 0, number)

        return b"".join(
            (
                _VERSION,
                _ENTRY.pack(_USER_OBJ, 0o7, _NO_ID),
                *(entry(_USER, number, passes=passes) for number, passes in self.users),
                entry(_GROUP_OBJ, _NO_ID, passes=self.by_group),
                *(entry(_GROUP, number, passes=passes) for number, passes in self.groups),
                entry(_MASK, _NO_ID, passes=True),
                entry(_OTHER, _NO_ID, passes=self.others),
            )
        )


OPEN = Gate(group=0, by_group=True, others=True)
CLOSED = Gate(group=0, by_group=False, others=False)
"""What stops nobody, and what stops everybody."""


def to(path: str) -> tuple[Gate, ...]:
    """Return the gates on the way to a share, from / on, each once.

    Args:
        path: the share's; symbolic links in it are not followed.

    Raises:
        RvssError: BAD_PATH if it cannot be walked; NOT_SUPPORTED if an ACL on the way is too long.
    """
    found: dict[Gate, None] = {}
    try:
        for above, fd in _ancestors(path):
            gate = let_by(fd)
            if not gate.open_to_all:
                if len(gate.name) > _LONGEST:
                    raise RvssError(
                        Problem.NOT_SUPPORTED,
                        f"the ACL of {above} has too many entries to be carried over to the copies"
                        f" of {path}",
                        "name a group in it instead of its members",
                    )
                found[gate] = None
    except OSError as exc:
        raise RvssError(
            Problem.BAD_PATH, f"the way to {path} cannot be examined: {exc.strerror}"
        ) from exc
    return tuple(found)


def _ancestors(path: str) -> Iterator[tuple[str, int]]:
    """Yield each directory above a path, from / on, with a descriptor that is closed afterwards."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not names:
        return
    above, fd = "/", os.open("/", files.DIRECTORY)
    for index, name in enumerate(names):
        with files.opened(fd):
            yield above, fd
            if index + 1 < len(names):
                fd = os.open(name, files.DIRECTORY, dir_fd=fd)
                above = os.path.join(above, name)


def let_by(fd: int) -> Gate:
    """Return whom a directory lets pass.

    Raises:
        OSError: if it cannot be told.
    """
    status, acl = os.fstat(fd), _acl(fd)
    if not acl and status.st_mode & _ALL_WALK == _ALL_WALK:
        return OPEN
    rights = {
        _USER_OBJ: status.st_mode >> 6 & 7,
        _GROUP_OBJ: status.st_mode >> 3 & 7,
        _OTHER: status.st_mode & 7,
    }
    users: dict[int, bool] = {}
    groups: dict[int, bool] = {}
    mask = 7
    entries = list(_ENTRY.iter_unpack(acl[len(_VERSION) :]))
    for tag, right, _ in entries:
        if tag in rights:
            rights[tag] = right
        elif tag == _MASK:
            mask = right
    # Who comes first is judged first: the owner, whatever else the ACL says of him.
    users[status.st_uid] = bool(rights[_USER_OBJ] & _WALK)
    for tag, right, number in entries:
        passes = bool(right & mask & _WALK)
        if tag == _USER:
            users.setdefault(number, passes)
        elif tag == _GROUP:
            groups.setdefault(number, passes)
    users.pop(0, None)
    return Gate(
        group=status.st_gid,
        by_group=bool(rights[_GROUP_OBJ] & mask & _WALK),
        others=bool(rights[_OTHER] & _WALK),
        users=tuple(users.items()),
        groups=tuple(groups.items()),
    )


def read(path: str) -> Gate:
    """Return whom a directory lets pass.

    Raises:
        OSError: if it cannot be opened.
    """
    with files.opened(os.open(path, files.DIRECTORY)) as fd:
        return let_by(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """The owner, the group and the mode of a directory."""

    uid: int
    gid: int
    mode: int


def ownership(gate: Gate, *, listed: bool = False) -> Ownership | None:
    """Return what lets pass whom a gate does without an ACL; None if nothing does.

    Its owner can let others pass, as he can at the directory for which it stands.

    Args:
        gate: whom.
        listed: whether they may list it too.
    """
    if gate.groups or len(gate.users) > 1:
        return None
    passing = 0o5 if listed else 0o1
    uid, owner = (gate.users[0][0], passing * gate.users[0][1]) if gate.users else (0, 0o7)
    mode = 0o100 * owner | passing * (0o10 * gate.by_group + gate.others)
    return Ownership(uid=uid, gid=gate.group, mode=mode)


def give(fd: int, who: Ownership) -> None:
    """Give a directory an owner, a group and a mode; at no moment it lets pass anybody else.

    Raises:
        OSError: if that cannot be done.
    """
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) != (who.uid, who.gid, who.mode):
        os.fchmod(fd, 0)
        os.fchown(fd, who.uid, who.gid)
        os.fchmod(fd, who.mode)


def _acl(fd: int) -> bytes:
    """Return a directory's access ACL; empty if it has only a mode."""
    try:
        return os.getxattr(fd, _ACL)
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise


def make(path: str, gate: Gate, *, listed: bool = False) -> None:
    """Make a directory that lets pass whom a gate does, or have one that is there do so.

    At no moment it lets pass anybody else.

    Args:
        path: its parent is there and belongs to root.
        gate: whom.
        listed: whether they may list it too.

    Raises:
        OSError: if it cannot be made so.
    """
    with suppress(FileExistsError):
        os.mkdir(path, 0)
    with files.opened(os.open(path, files.DIRECTORY)) as fd:
        apply(fd, gate, listed=listed)


def apply(fd: int, gate: Gate, *, listed: bool = False) -> None:
    """Have a directory of root's let pass whom a gate does; at no moment it lets pass anybody else.

    Args:
        fd: the directory.
        gate: whom.
        listed: whether they may list it too.

    Raises:
        OSError: if that cannot be done.
    """
    passing = 0o5 if listed else 0o1
    mode = 0o700 | passing * (0o10 * gate.by_group + gate.others)
    acl = b""
    if gate.users or gate.groups:
        acl = gate.entries(passing)
        mode = 0o700 | passing * (0o10 + gate.others)  # the mask stands in the group's place
    status = os.fstat(fd)
    now = (status.st_uid, status.st_gid, status.st_mode & 0o7777, _acl(fd))
    if now == (0, gate.group, mode, acl):
        return
    os.fchmod(fd, 0)
    if now[3]:
        os.removexattr(fd, _ACL)
    os.fchown(fd, 0, gate.group)
    if acl:
        os.setxattr(fd, _ACL, acl)
    else:
        os.fchmod(fd, mode)
