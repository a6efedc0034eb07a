"""The images in a pool, ours and others': which snapshots and clones belong together.

An image is what its outermost snapshot is: it has the name, and is of the dataset with the guid,
that its mark says. What is left over is named, and belongs to nobody that we know.
"""

from collections.abc import Sequence
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Foreign, Image, Nested, Whose
from samba_rvss.providers.zfs import tree
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.containers import clone_names, is_container, is_in_one
from samba_rvss.providers.zfs.marks import OURS, Marks, is_bare, snapshots_in
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.tree import Dataset, Snapshot

_LOOKS = 3


class _Renamed(RvssError):
    """A dataset is not there under the name that it had a moment ago."""


def images(zfs: Command, marks: Marks, provider: str, pool: Pool) -> list[Image | Foreign]:
    """Return the images in a pool.

    Args:
        zfs: zfs(8).
        marks: tells whose they are.
        provider: the name of the provider whose images these are.
        pool: the pool.

    Raises:
        RvssError: BUSY if datasets are renamed again and again; else as a `Command` does.
    """
    for left in reversed(range(_LOOKS)):
        listing = _Listing(marks, provider, pool, tree.datasets(zfs, pool.name))
        try:
            found = listing.of_snapshots(tree.marked_snapshots(zfs, pool.name))
            break
        except _Renamed:
            if not left:
                raise
    for dataset in listing.others():
        # Deleting ends with the snapshot: so an image that is being deleted can look like this.
        leaf = dataset.name.rpartition("/")[2]
        if not tree.is_of(dataset.origin, leaf) or tree.exists(zfs, dataset.name):
            found.append(listing.foreign(dataset))
    return found


class _Listing:
    """One look at a pool: its datasets first, because a snapshot comes before its clones."""

    def __init__(self, marks: Marks, provider: str, pool: Pool, datasets: list[Dataset]) -> None:
        self._marks = marks
        self._provider = provider
        self._pool = pool
        self._datasets = {dataset.name: dataset for dataset in datasets}
        self._clones: dict[str, list[Dataset]] = {}
        self._inside: dict[str, list[Dataset]] = {}
        for dataset in datasets:
            self._clones.setdefault(dataset.origin, []).append(dataset)
            self._inside.setdefault(dataset.name.rpartition("/")[0], []).append(dataset)
        self._told: set[str] = set()  # the names of datasets that belong to an image
        self._missing: dict[str, int] = {}  # for each bare image of ours: inner snapshots
        self._branched: set[str] = set()  # the names of datasets that there are images of

    def of_snapshots(self, snapshots: list[Snapshot]) -> list[Image | Foreign]:
        """Return the images whose outermost snapshots these are.

        Raises:
            _Renamed: one is of a dataset that was not listed.
        """
        found: dict[str, dict[str, Image | Foreign]] = {}  # by image and dataset
        inner: list[tuple[Snapshot, str, str, Whose]] = []
        self._branched = {each.name.partition("@")[0] for each in snapshots}
        for snap in snapshots:
            dataset, _, leaf = snap.name.partition("@")
            around = self._datasets.get(dataset)
            snapshot = replace(snap, guid=around.guid if around else "")
            image = leaf.removeprefix("rvss-")
            whose = self._marks.whose(snapshot, "" if image == leaf else image, self._pool)
            if whose in OURS and around is None:
                raise _Renamed(Problem.BUSY, f"{dataset} was renamed just now", "try again")
            marked = self._marks.read(snapshot)
            nested = marked is not None and marked.mark.nested is Nested.INCLUDE
            if nested and whose in (Whose.RENAMED, Whose.CLONE):
                inner.append((snapshot, dataset, image, whose))
            else:
                found.setdefault(image, {})[dataset] = self._judge(snapshot, image, whose)
        for snapshot, dataset, image, whose in inner:
            outer = found.setdefault(image, {})
            if not self._is_inside(snapshot, dataset, whose, outer):
                outer[dataset] = self._judge(snapshot, image, whose)
        return [self._whole(image) for images in found.values() for image in images.values()]

    def _whole(self, image: Image | Foreign) -> Image | Foreign:
        """Return an image as it is, now that all snapshots have been seen."""
        if isinstance(image, Image) and self._missing.get(image.id):
            return replace(image, complete=False)
        return image

    def others(self) -> list[Dataset]:
        """Return what else is in our container, or bears a mark itself."""
        places = {f"{self._pool.name}/{tree.HOME}"}
        places |= {d.name for d in self._datasets.values() if is_container(d, self._pool)}
        return [
            dataset
            for name, dataset in self._datasets.items()
            if name not in self._told
            and (dataset.mark or name.rpartition("/")[0] in places)
            and name not in places
        ]

    def foreign(self, dataset: Dataset) -> Foreign:
        """Return what is said of a dataset that belongs to no image."""
        image = dataset.name.rpartition("/")[2]
        whose = self._marks.whose(dataset, image, self._pool)
        return self._foreign(dataset, image, Whose.RENAMED if whose in OURS else whose, [dataset])

    def _is_inside(
        self, snapshot: Snapshot, dataset: str, whose: Whose, outer: dict[str, Image | Foreign]
    ) -> bool:
        """Return whether a snapshot of a nested dataset is part of an image that was found."""
        for around, image in outer.items():
            if isinstance(image, Foreign):
                if dataset.startswith(f"{around}/"):
                    return True
            elif whose is Whose.RENAMED:
                if image.id in self._missing:
                    self._missing[image.id] -= 1
                    return True
                # A copy of one has no clone in the image.
                guid = self._datasets[around].guid
                parts = self._parts(image.id, guid, f"{around}@rvss-{image.id}")
                return not image.complete or any(part.origin == snapshot.name for part in parts)
        return False

    def _judge(self, snapshot: Snapshot, image: str, whose: Whose) -> Image | Foreign:
        """Return the image that a snapshot is the outermost one of."""
        marked = self._marks.read(snapshot)
        whole = is_bare(marked)
        clones = [
            clone
            for clone in self._clones.get(snapshot.name, [])
            if clone.mark or tree.is_clone(clone.name, image)
        ]
        if whose in OURS:
            parts = self._parts(image, snapshot.guid, snapshot.name)
            if whole:
                self._missing[image] = snapshots_in(marked) - 1
            elif not parts:
                # Its clone is elsewhere: it bears no mark if it was in a container.
                whose = Whose.RENAMED if self._clones.get(snapshot.name) else whose
            elif parts[0].mark:
                of_clone = self._marks.whose(parts[0], image, self._pool)
                whose = whose if of_clone in OURS else of_clone
        if marked is None or whose not in OURS:
            return self._foreign(snapshot, image, whose, clones)
        top = None
        if parts and (parts[0].mark or is_in_one(parts[0])):
            top = self._marks.read(parts[0]) or marked
        if parts:
            self._tell(parts[0])
        if whole:
            in_use = any(part.name in self._branched for part in parts)
            return Image(
                id=image,
                provider=self._provider,
                mark=marked.mark,
                complete=True,
                read_only=True,
                former=whose is Whose.FORMER,
                remnants=bool(parts) and not in_use,
            )
        return Image(
            id=image,
            provider=self._provider,
            mark=replace(
                marked.mark,
                sealed=top.mark.sealed if top else None,
                kept=top.mark.kept if top else None,
                branch=top.mark.branch if top else marked.mark.branch,
            ),
            complete=top is not None,
            read_only=top is not None and all(part.read_only for part in parts),
            former=whose is Whose.FORMER,
        )

    def _foreign(
        self, where: Snapshot | Dataset, image: str, whose: Whose, clones: Sequence[Dataset]
    ) -> Foreign:
        """Return what is said of something that is not ours, given the clones that it is."""
        marked = self._marks.read(where)
        mark = marked.mark if marked else None
        whole = isinstance(where, Snapshot) and is_bare(marked)
        parts = []
        for clone in clones:
            self._tell(clone)
            parts += tree.parts(image, [clone, *self._below(clone)])
            of_clone = self._marks.read(clone)
            if mark and of_clone and not whole:
                mark = replace(mark, sealed=of_clone.mark.sealed, kept=of_clone.mark.kept)
        return Foreign(
            id=image,
            provider=self._provider,
            file_system=self._pool.guid,
            where=where.name,
            whose=whose,
            instance=marked.instance if marked else "",
            machine=marked.machine if marked else "",
            mark=mark,
            read_only=whole or (bool(parts) and all(part.read_only for part in parts)),
        )

    def _parts(self, image: str, guid: str, origin: str) -> list[Dataset]:
        """Return the clones of an image of ours, the outermost first; empty if that is none."""
        for name in clone_names(self._pool, guid, image):
            top = self._datasets.get(name)
            if top is not None and top.origin == origin:
                return tree.parts(image, [top, *self._below(top)])
        return []

    def _below(self, top: Dataset) -> list[Dataset]:
        found = []
        for dataset in self._inside.get(top.name, []):
            found += [dataset, *self._below(dataset)]
        return found

    def _tell(self, top: Dataset) -> None:
        self._told |= {top.name, *(dataset.name for dataset in self._below(top))}
