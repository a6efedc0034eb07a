"""Branches: writable snapshots of the sealed parts of an image, under a mark of their own.

A branch is an image that is never sealed; it has the layout and the names of one that recovery
writes to, so that no tool takes it for a snapshot. The sealed image is only read, and does not
need to stay for it.
"""

from contextlib import ExitStack
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Identity, Mark
from samba_rvss.providers.btrfs import images, marks, taking
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.marks import Record


def make(home: Home, sealed: Record, mark: Mark, identity: Identity) -> None:
    """Make a branch of a sealed image, durable on return; leaves nothing behind when it fails.

    Args:
        home: where both are.
        sealed: the mark of the sealed image.
        mark: that of the branch; see `samba_rvss.providers.Provider.branch`.
        identity: whose they are.

    Raises:
        RvssError: NOT_SEALED; BAD_PATH if the image is not ours; NOT_SUPPORTED.
        OSError: if btrfs refuses.
    """
    found = images.ours(home, sealed, identity)
    whole = found.complete and all(part.read_only for part in found.subvolumes)
    if not (sealed.is_sealed and whole) or mark.branch is None:
        raise RvssError(
            Problem.NOT_SEALED,
            f"the image {sealed.name} is not whole and read-only, as it was sealed",
        )
    named = [replace(part, recovery="", sealed="") for part in sealed.parts]
    sources = [part.tree for part in found.subvolumes]
    with ExitStack() as undo:
        made = taking.snapshots(home, mark, identity, named, sources, undo)
        taken = [
            replace(part, recovery=subvolume.uuid)
            for part, subvolume in zip(named, made, strict=True)
        ]
        ready = replace(mark, branch=replace(mark.branch, ready=True))
        marks.write(home, ready, identity, taken)
        # What is written to it next must not be found without this.
        marks.make_durable(home, mark.id)
        undo.pop_all()
