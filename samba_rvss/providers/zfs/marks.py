"""Our marks in a pool, and the images that are found by them."""

from collections.abc import Iterator

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Image, Mark
from samba_rvss.providers.mark import decode
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.providers.zfs.tree import HOME


class Marks:
    """The marks of one instance; every method raises RvssError as a `Command` does.

    Args:
        zfs: zfs(8).
        provider: the name of the provider whose images these are.
        instance: what tells this instance's images from another's in the same pool.
    """

    def __init__(self, zfs: Command, provider: str, instance: str) -> None:
        self._zfs = zfs
        self._provider = provider
        self._instance = instance

    def of(self, snapshot: str) -> Mark | None:
        """Return the mark of a snapshot, if it is ours."""
        return next((mark for _, mark in self._marked(snapshot)), None)

    def alike(self, origin: str) -> list[str]:
        """Return the snapshots of an image, given the outermost, which comes first."""
        dataset, _, leaf = origin.partition("@")
        return [name for name, _ in self._marked("-r", dataset) if name.endswith(f"@{leaf}")]

    def images(self, pool: str) -> list[Image]:
        """Return the images in a pool."""
        sealed = self._clones(pool)
        # Nested snapshots bear the mark too.
        marks = {mark.id: mark for _, mark in self._marked("-r", pool)}
        return [
            Image(
                id=image,
                provider=self._provider,
                mark=mark,
                complete=image in sealed,
                read_only=sealed.get(image, False),
            )
            for image, mark in marks.items()
        ]

    def _clones(self, pool: str) -> dict[str, bool]:
        """Return the images that have all their clones, and whether all are read-only."""
        home = f"{pool}/{HOME}"
        words = ("list", "-H", "-p", "-r", "-t", "filesystem", "-o", f"name,readonly,{MARK}")
        try:
            rows = self._zfs.table(*words, home, columns=3)
        except RvssError as exc:
            if exc.problem is not Problem.NOT_FOUND:
                raise
            return {}
        found: dict[str, bool] = {}
        for name, closed, raw in rows:
            image = name.removeprefix(f"{home}/").partition("/")[0]
            complete = raw not in ("-", "") or image in found
            if name != home and complete:
                found[image] = found.get(image, True) and closed == "on"
        return found

    def _marked(self, *where: str) -> Iterator[tuple[str, Mark]]:
        """Yield the snapshots that bear our mark, but not those that `zfs receive` has made."""
        words = ("get", "-H", "-p", *where[:-1], "-s", "local", "-t", "snapshot")
        for name, raw in self._zfs.table(*words, "-o", "name,value", MARK, where[-1], columns=2):
            mark = decode(raw, self._instance, self._provider)
            if mark is not None and name.endswith(f"@rvss-{mark.id}"):
                yield name, mark
