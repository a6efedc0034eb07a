"""Our marks in a pool, and the images that are found by them."""

from collections.abc import Iterator

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Foreign, Identity, Image, Mark, Whose
from samba_rvss.providers.mark import Marked, decode
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.providers.zfs.tree import HOME


class Marks:
    """The marks of one instance; every method raises RvssError as a `Command` does.

    Args:
        zfs: zfs(8).
        provider: the name of the provider whose images these are.
        identity: whose images are ours.
    """

    def __init__(self, zfs: Command, provider: str, identity: Identity) -> None:
        self._zfs = zfs
        self._provider = provider
        self._identity = identity

    def of(self, snapshot: str) -> Mark | None:
        """Return the mark of a snapshot, if it is ours."""
        return next((mark for _, mark in self._marked(snapshot)), None)

    def alike(self, origin: str) -> list[str]:
        """Return the snapshots of an image, given the outermost, which comes first."""
        dataset, _, leaf = origin.partition("@")
        return [name for name, _ in self._marked("-r", dataset) if name.endswith(f"@{leaf}")]

    def images(self, pool: str) -> list[Image | Foreign]:
        """Return the images in a pool, ours and others'."""
        sealed = self._clones(pool)
        found: dict[str, Image | Foreign] = {}
        # Nested snapshots bear the mark too.
        for name, marked in self._all("-r", pool):
            image = name.rpartition("@rvss-")[2]
            whose = self._whose(marked, name, pool) if marked else Whose.UNKNOWN
            if marked is None or whose not in (Whose.OURS, Whose.FORMER):
                found.setdefault(
                    name,
                    Foreign(
                        id=image,
                        provider=self._provider,
                        file_system=pool,
                        where=name,
                        whose=whose,
                        instance=marked.instance if marked else "",
                        machine=marked.machine if marked else "",
                        mark=marked.mark if marked else None,
                        read_only=sealed.get(image, False),
                    ),
                )
            else:
                found[image] = Image(
                    id=image,
                    provider=self._provider,
                    mark=marked.mark,
                    complete=image in sealed,
                    read_only=sealed.get(image, False),
                    former=whose is Whose.FORMER,
                )
        return list(found.values())

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
        for name, marked in self._all(*where):
            pool = name.partition("/")[0].partition("@")[0]
            if marked and self._whose(marked, name, pool) in (Whose.OURS, Whose.FORMER):
                yield name, marked.mark

    def _all(self, *where: str) -> Iterator[tuple[str, Marked | None]]:
        """Yield the snapshots that bear a mark, but not those that `zfs receive` has made."""
        words = ("get", "-H", "-p", *where[:-1], "-s", "local", "-t", "snapshot")
        for name, raw in self._zfs.table(*words, "-o", "name,value", MARK, where[-1], columns=2):
            yield name, decode(raw, self._provider)

    def _whose(self, marked: Marked, name: str, pool: str) -> Whose:
        if marked.mark.volume.file_system != pool:
            return Whose.CLONE
        if not name.endswith(f"@rvss-{marked.mark.id}"):
            return Whose.RENAMED
        return self._identity.whose(marked.instance, marked.machine)
