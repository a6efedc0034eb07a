"""A walk through a tree of files that anybody may have made, as `tree` opens it.

Contract: nothing is opened but directories. Memory grows with the directories that are still to be
looked into, and the names of one of them. What cannot be looked at is told, and stops nothing.
"""

import os
from collections.abc import Callable, Iterator

from samba_rvss.manifests import tree
from samba_rvss.manifests.entry import Entry, Kind


def files(
    root: int, enter: Callable[[bytes], bool], failed: Callable[[str], None]
) -> Iterator[Entry]:
    """Yield what is no directory in a tree, directory by directory, in the order of names.

    Args:
        root: the tree's directory, which must not change.
        enter: whether a directory of some name is looked into.
        failed: called with a sentence on each directory or name that cannot be looked at.
    """
    left = [b""]
    while left:
        path = left.pop()
        below = []
        try:
            with tree.handle(root, path) as found:
                for name in sorted(tree.names(found)):
                    whole = path + b"/" + name if path else name
                    try:
                        status = os.stat(name, dir_fd=found, follow_symlinks=False)
                    except OSError as exc:
                        failed(f"{_shown(whole)} cannot be looked at: {exc.strerror}")
                        continue
                    entry = tree.stated(whole, status)
                    if entry.kind is not Kind.DIRECTORY:
                        yield entry
                    elif len(whole) > tree.LONGEST:
                        failed(f"{_shown(whole)} is too long a path to be looked at")
                    elif enter(name):
                        below.append(whole)
        except OSError as exc:
            failed(f"{_shown(path) or '.'} cannot be listed: {exc.strerror}")
        left += reversed(below)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
