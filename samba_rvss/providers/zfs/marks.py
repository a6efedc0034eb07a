"""Our marks on ZFS: whose an image is, by its mark and by where that was found.

A mark is believed only where its source is local. A snapshot of a clone inherits the clone's, and
what ``zfs receive`` has made bears that of what was sent.
"""

from dataclasses import replace
from functools import lru_cache

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Identity, Mark, Whose
from samba_rvss.providers.mark import BARE, Marked, decode, encode
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.tree import Dataset, Snapshot

OURS = (Whose.OURS, Whose.FORMER)

SNAPSHOTS = "snapshots"
"""What tells in the mark of a bare image how many snapshots it consists of."""


def is_bare(marked: Marked | None) -> bool:
    """Return whether the mark of an outermost snapshot says that its image is bare; see `bare`."""
    return snapshots_in(marked) > 0


def snapshots_in(marked: Marked | None) -> int:
    """Return how many snapshots a bare image consists of, by its mark; 0 if it is not bare."""
    if marked is None or marked.mark.sealed is None:
        return 0
    found = marked.more.get(SNAPSHOTS)
    return found if isinstance(found, int) else 0


_decoded = lru_cache(maxsize=4096)(decode)  # what cannot be read is told once, not at each look


class Marks:
    """The marks of one instance.

    Args:
        provider: the name of the provider whose images these are.
        identity: whose images are ours.
    """

    def __init__(self, provider: str, identity: Identity) -> None:
        self._provider = provider
        self._identity = identity

    def encode(self, mark: Mark, pool: Pool, snapshots: int = 0) -> str:
        """Return a mark of ours as text.

        Args:
            mark: what it is to say.
            pool: where it is to be.
            snapshots: of how many an image consists that is bare; 0 for any other mark.
        """
        volume = replace(mark.volume, file_system=pool.guid)
        ours = replace(mark, volume=volume)
        if not snapshots:
            return encode(ours, self._identity)
        return encode(ours, self._identity, {SNAPSHOTS: snapshots}, version=BARE)

    def read(self, where: Snapshot | Dataset) -> Marked | None:
        """Return the mark that something bears itself; None if it has none that can be read."""
        return _decoded(where.mark, self._provider) if where.mark else None

    def whose(self, where: Snapshot | Dataset, image: str, pool: Pool) -> Whose:
        """Return whose something is.

        Args:
            where: what bears the mark; of a snapshot the guid counts too, if it has one.
            image: the id that its name says.
            pool: the pool that it is in.
        """
        marked = self.read(where)
        if marked is None:
            return Whose.UNKNOWN
        volume = marked.mark.volume
        if where.source != "local" or not pool.is_named(volume.file_system):
            return Whose.CLONE
        if marked.mark.id != image:
            return Whose.RENAMED
        if isinstance(where, Snapshot) and where.guid and where.guid != (volume.id or where.guid):
            return Whose.RENAMED
        return self._identity.whose(marked.instance, marked.machine)

    def require(self, where: Snapshot | Dataset, image: str, pool: Pool) -> Mark:
        """Return the mark of something that is ours.

        Raises:
            RvssError: BAD_PATH if it is not.
        """
        marked = self.read(where)
        if marked is None or self.whose(where, image, pool) not in OURS:
            message = f"{where.name} does not bear our mark"
            raise RvssError(Problem.BAD_PATH, message, "see who made it")
        return marked.mark
