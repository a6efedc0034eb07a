"""The layers of a recovery mount: what is mounted at one path, one over the other.

Contract: what a mount table says, and nothing remembered. An open layer bears a mark that its
closing does not take away (nodiratime, which means nothing beside noatime): so it is known as such
after a crash between the steps of closing, when it is read-only here and still writable in a mount
namespace that follows ours.
"""

import errno
from dataclasses import dataclass

from samba_rvss.kernel import mounting, mounttable
from samba_rvss.kernel.mounttable import MountInfo

OPEN_MARK = mounting.MOUNT_ATTR_NODIRATIME
NOT_MOUNTED = frozenset({errno.EINVAL, errno.ENOENT, errno.ENOTDIR})
"""What umount2(2) says of a path where nothing is mounted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A mount at a path, with the mounts inside it that are not of another layer.

    Attributes:
        root: the mount at the path.
        inner: those inside it.
    """

    root: MountInfo
    inner: tuple[MountInfo, ...]

    @property
    def read_only(self) -> bool:
        """Whether no mount of it can be written through."""
        return all("ro" in mount.options for mount in (self.root, *self.inner))

    @property
    def opened(self) -> bool:
        """Whether it is, or was, there for writing."""
        return not self.read_only or "nodiratime" in self.root.options


def layers(raw: bytes, path: str) -> list[Layer]:
    """Return the layers of a path, the lowest first; empty if nothing is mounted there.

    Args:
        raw: mountinfo.
        path: without symbolic links.
    """
    # Parsing costs much more than searching. Names of copies have nothing that would be escaped.
    needle = mounttable.escape_mount_path(path.rpartition("/")[2])
    lines = [line for line in raw.split(b"\n") if needle in line]
    if not lines:
        return []
    inside = f"{path}/"
    found = [
        mount
        for mount in mounttable.mountinfo(b"\n".join(lines))
        if mount.target == path or mount.target.startswith(inside)
    ]
    children: dict[int, list[MountInfo]] = {}
    for mount in found:
        children.setdefault(mount.parent, []).append(mount)
    ids = {mount.id for mount in found}
    root = next((m for m in found if m.target == path and m.parent not in ids), None)
    result = []
    while root is not None:
        over, inner = None, list[MountInfo]()
        waiting = list(children.get(root.id, ()))
        while waiting:
            mount = waiting.pop()
            if mount.target == path:
                over = mount
            else:
                inner.append(mount)
                waiting += children.get(mount.id, ())
        result.append(Layer(root=root, inner=tuple(inner)))
        root = over
    return result
