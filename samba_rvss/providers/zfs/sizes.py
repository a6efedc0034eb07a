"""How much space images alone take: their clones, and what only their snapshots hold.

A clone's ``used`` has what was written to it and to the snapshots of it; a snapshot's has what no
other snapshot of its dataset, nor that itself, holds (zfsprops(7)). When an image is destroyed,
both come free.
"""

from collections import defaultdict
from collections.abc import Collection

from samba_rvss.providers.zfs import tree
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.marks import Marks, is_bare
from samba_rvss.providers.zfs.pools import Pool


def of(zfs: Command, marks: Marks, pool: Pool, wanted: Collection[str]) -> dict[str, int]:
    """Return how many bytes come free with each image, by their ids.

    Args:
        zfs: zfs(8).
        marks: tells of which nothing is left but snapshots.
        pool: theirs.
        wanted: ids of images of ours, which are whole.

    Raises:
        RvssError: as a `Command` does.
    """
    snapshots = defaultdict[str, list[str]](list)
    listed = zfs.table("list", "-H", "-r", "-t", "filesystem", "-o", "name", pool.name, columns=1)
    clones = {}
    for (name,) in listed:
        image = name.rpartition("/")[2]
        if image in wanted and tree.is_clone(name, image):
            clones[image] = name
    bare = set[str]()
    for snapshot in tree.marked_snapshots(zfs, pool.name):
        dataset, _, leaf = snapshot.name.partition("@rvss-")
        # What was received is somebody's copy; what is in the container, a clone's own.
        if snapshot.source == "local" and not dataset.startswith(f"{pool.name}/{tree.HOME}/"):
            snapshots[leaf].append(snapshot.name)
            if is_bare(marks.read(snapshot)):
                bare.add(leaf)
    found = {image: snapshots[image] for image in wanted if snapshots[image]}
    for image in found.keys() - bare:
        found[image].append(clones.get(image, ""))  # one without is not told
    used = _used(zfs, [name for names in found.values() for name in names if name])
    sizes = {}
    for image, names in found.items():
        parts = [used.get(name) for name in names]
        known = [size for size in parts if size is not None]
        if len(known) == len(parts):
            sizes[image] = sum(known)
    return sizes


def _used(zfs: Command, names: list[str]) -> dict[str, int]:
    rows = zfs.about(names, "get", "-H", "-p", "-o", "name,value", "used", columns=2)
    return {name: int(value) for name, value in rows if value.isdecimal()}
