"""Holds of snapshots (zfs-hold(8)): ours, an administrator's by us, and those of others."""

from collections.abc import Collection, Sequence
from functools import partial

from samba_rvss.errors import Problem, RvssError
from samba_rvss.providers.beside import side_by_side
from samba_rvss.providers.zfs.command import Command

HOLD = "samba-rvss"
_BESIDE = 32  # programs for one image
TAGGED = "samba-rvss:"
"""What the tags begin with of holds that an administrator has asked for."""


def hold(zfs: Command, snapshots: Sequence[str]) -> None:
    """Hold snapshots that were made just now.

    One program for each: they share transaction groups then, while zfs-hold(8) waits for one after
    the other (cmd/zfs/zfs_main.c, zfs_do_hold_rele_impl()).
    """
    side_by_side([partial(zfs, "hold", HOLD, name) for name in snapshots], _BESIDE)


def set_holds(
    zfs: Command, snapshots: Sequence[str], tags: Collection[str], *, releasing: bool
) -> None:
    """See that snapshots have holds of ours; those of others stay.

    Args:
        zfs: zfs(8).
        snapshots: their names.
        tags: the tags that there are to be, as zfs(8) shows them.
        releasing: whether holds of ours with other tags are released.
    """
    if not snapshots:
        return
    present: dict[str, set[str]] = {}
    for name, tag, _ in zfs.table("holds", "-H", *snapshots, columns=3):
        present.setdefault(tag, set()).add(name)
    for tag in tags:
        missing = [name for name in snapshots if name not in present.get(tag, ())]
        if missing:
            zfs("hold", tag, *missing)
    going = {tag: names for tag, names in present.items() if tag.startswith(TAGGED)}
    going = {tag: names for tag, names in going.items() if releasing and tag not in tags}
    # With our own hold on it, a snapshot stays whatever others have told ZFS.
    bare = [name for name in snapshots if name not in present.get(HOLD, ())]
    if going and bare:
        _refuse_deferred(zfs, bare)
    for tag, names in going.items():
        zfs("release", tag, *names)


def _refuse_deferred(zfs: Command, snapshots: Sequence[str]) -> None:
    """Refuse to release a hold where ZFS would destroy the snapshot with the last one.

    Raises:
        RvssError: BUSY.
    """
    words = ("get", "-H", "-p", "-o", "name,value", "defer_destroy", *snapshots)
    for name, deferred in zfs.table(*words, columns=2):
        if deferred == "on":
            raise RvssError(
                Problem.BUSY,
                f"somebody has told ZFS to destroy {name} as soon as nothing holds it",
                "copy it away, or delete it",
            )


def refuse_held(zfs: Command, names: Sequence[str]) -> None:
    """Refuse to destroy snapshots that somebody else has made in an image, and holds or has cloned.

    A recursive snapshot takes our clones along, and programs that carry snapshots hold their own.

    Raises:
        RvssError: BUSY.
    """
    try:
        refuse_used(zfs, names, names, None)
    except RvssError as exc:
        if exc.problem is not Problem.NOT_FOUND:
            raise
        # For a caller that means that the image is gone.
        raise RvssError(Problem.BUSY, "a snapshot in it went away just now", "try again") from exc


def refuse_used(
    zfs: Command, kept: Sequence[str], names: Sequence[str], allowed: Collection[str] | None
) -> dict[str, list[str]]:
    """Refuse to destroy snapshots that others hold, or of which they have clones.

    Args:
        zfs: zfs(8).
        kept: those of which no clones should be.
        names: all of them.
        allowed: the tags of holds that may be there; None for all that begin as ours do.

    Returns:
        The names that each tag holds.

    Raises:
        RvssError: BUSY.
    """
    for name, clones in zfs.about(kept, "get", "-H", "-p", "-o", "name,value", "clones", columns=2):
        if clones not in ("", "-"):
            raise RvssError(Problem.BUSY, f"others have made clones of {name}")
    held: dict[str, list[str]] = {}
    for name, tag, _ in zfs.about(names, "holds", "-H", columns=3):
        ours = tag == HOLD or tag.startswith(TAGGED)
        if not ours or (allowed is not None and tag not in allowed):
            hint = f"'zfs release {tag} {name}' lets go of it"
            raise RvssError(Problem.BUSY, f"somebody holds {name} as '{tag}'", hint)
        held.setdefault(tag, []).append(name)
    return held
