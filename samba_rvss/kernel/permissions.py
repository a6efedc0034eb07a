"""Whether a user may read a file, by its permissions and those of the directories above it.

Contract: it looks, and becomes nobody else: that would take more capabilities than we have. What a
security module or a file server thinks of it is not known, nor is what cannot be looked at: that
counts as open.
"""

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# linux/posix_acl_xattr.h
_ACL = "system.posix_acl_access"
_VERSION = 2
_USER, _GROUP_OBJ, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10

_READ, _SEARCH = 4, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whom to ask for: numbers, which need not be those of anybody who is known here."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ANYBODY = User(uid=65534, gid=65534)
"""Who belongs to no group of anybody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory on the way to a file, or the file."""

    path: str
    status: os.stat_result
    acl: tuple[tuple[int, int, int], ...]

    @property
    def wanted(self) -> int:
        """What one must be allowed to do there to read the file."""
        return _SEARCH if stat.S_ISDIR(self.status.st_mode) else _READ

    def lets(self, user: User) -> bool:
        """Return whether it lets a user read the file (acl(5), access check algorithm)."""
        mode, wanted = self.status.st_mode, self.wanted
        if user.uid == 0:
            return True
        if user.uid == self.status.st_uid:
            return bool(mode >> 6 & wanted)
        mask = next((allowed for tag, allowed, _ in self.acl if tag == _MASK), 7)
        for tag, allowed, number in self.acl:
            if tag == _USER and number == user.uid:
                return bool(allowed & mask & wanted)
        member = {user.gid, *user.groups}
        groups = [
            allowed for tag, allowed, number in self.acl if tag == _GROUP and number in member
        ]
        if self.status.st_gid in member:
            own = (allowed for tag, allowed, _ in self.acl if tag == _GROUP_OBJ)
            groups.append(next(own, mode >> 3))
        if groups:
            return any(allowed & mask & wanted for allowed in groups)
        return bool(mode & wanted)

    def lets_some(self) -> bool:
        """Return whether it lets somebody else than root and root's group read the file."""
        mode, wanted = self.status.st_mode, self.wanted
        named = any(tag in (_USER, _GROUP) and allowed & wanted for tag, allowed, _ in self.acl)
        owner = self.status.st_uid and mode >> 6 & wanted
        group = self.status.st_gid and mode >> 3 & wanted
        return bool(named or owner or group or mode & wanted)


def way(file: str) -> Iterator[Place]:
    """Yield the directories above a file, and the file, as far as they can be looked at."""
    for path in dict.fromkeys((*_parts(file), *_parts(os.path.realpath(file)))):
        try:
            yield Place(path=path, status=os.stat(path), acl=tuple(_acl(path)))
        except OSError:
            return


def _parts(file: str) -> Iterator[str]:
    names = file.split("/")
    for number in range(2, len(names)):
        yield "/".join(names[:number])
    yield file


def _acl(path: str) -> Iterator[tuple[int, int, int]]:
    """Yield tag, permissions and id of each entry of an ACL; none if there is only the mode."""
    try:
        raw = os.getxattr(path, _ACL)
    except OSError:
        return
    if len(raw) % 8 == 4 and struct.unpack_from("<I", raw) == (_VERSION,):
        yield from struct.iter_unpack("<HHI", raw[4:])
