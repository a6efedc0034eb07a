"""The files of a tree that anybody may have made, in the order of their names.

Contract: as `walk`. What cannot be looked at is told, and stops nothing.
"""

from collections.abc import Callable, Iterator
from os import fsencode

from samba_rvss.manifests import tree, walk
from samba_rvss.manifests.entry import Entry
from samba_rvss.manifests.walk import Aside

_TROUBLES = {
    Aside.UNREADABLE: "cannot be listed",
    Aside.TOO_DEEP: "lies too deep to be looked at",
}


def files(
    root: int, enter: Callable[[bytes], bool], failed: Callable[[str], None]
) -> Iterator[Entry]:
    """Yield what is no directory in a tree, with what is mounted in it.

    Args:
        root: the tree's directory.
        enter: whether a directory of some name is looked into.
        failed: called with a sentence on each directory or name that cannot be looked at.
    """

    def aside(what: Aside, path: bytes) -> None:
        if what in _TROUBLES:
            failed(f"{_shown(path) or '.'} {_TROUBLES[what]}")

    def into(path: bytes) -> bool:
        return enter(path.rpartition(b"/")[2])

    for directory, found in walk.names(root, aside, crossing=True, into=into, in_order=True):
        if found.is_dir(follow_symlinks=False):
            continue
        path = walk.joined(directory, fsencode(found.name))
        try:
            status = found.stat(follow_symlinks=False)
        except OSError as exc:
            failed(f"{_shown(path)} cannot be looked at: {exc.strerror}")
            continue
        yield tree.stated(path, status)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
