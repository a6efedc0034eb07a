"""Which backups are in Previous Versions, and by which names: pure, without a file system."""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.copies import versions
from samba_rvss.model import Phase, ShadowCopy, Share, Volume
from tests.unit.values import NOW, VOLUME, copy_of

RUN = "/run/samba-rvss"
VMS = f"{RUN}/previous/vms"
SHARE = Share(name="vms", path="/srv/vms", previous_versions=True)


def volume_at(path: str) -> Volume:
    """Return the volume of a share: `values.VOLUME`, or one of its own."""
    return VOLUME if os.path.normpath(path) == SHARE.path else replace(VOLUME, id=path)


def led_to(*shares: Share) -> dict[str, str]:
    """Return what shares lead to."""
    return {os.path.normpath(share.path): volume_at(share.path).group for share in shares}


def at(seconds: int, name: str, directory: str = VMS, phase: Phase = Phase.KEPT) -> ShadowCopy:
    """Return a copy of some second, recorded with the name of that in a directory, or with none."""
    created = NOW - timedelta(seconds=seconds)
    path = f"{directory}/@GMT-{created:%Y.%m.%d-%H.%M.%S}" if directory else ""
    return replace(copy_of(name, phase, created=created), previous_path=path)


def names_of(
    kept: Sequence[ShadowCopy], living: Sequence[str] = (), *shares: Share
) -> dict[str, list[tuple[str, str]]]:
    """Return what each directory shows: names, from the second on, and ids."""
    return {
        of.directory: [(name[-8:], copy.id) for name, copy in sorted(of.backups.items())]
        for of in versions.shown(RUN, shares or (SHARE,), living, kept, led_to(*shares, SHARE))
    }


def test_a_backup_keeps_its_name() -> None:
    kept = [at(59, "a"), at(58, "b"), replace(at(50, "x"), phase=Phase.SEALING)]
    assert names_of(kept) == {VMS: [("23.59.00", "a"), ("23.59.01", "b")]}
    assert list(versions.renamed(versions.shown(RUN, (SHARE,), (), kept, led_to(SHARE)))) == []


def test_a_backup_without_a_name_gets_the_next_that_is_free() -> None:
    # One was adopted, one comes from a share that had another name, one was taken without.
    kept = [at(59, "a"), at(59, "b", ""), at(59, "c", f"{RUN}/previous/old"), at(57, "e")]
    living = [at(58, "d").previous_path]
    expected = [("23.59.00", "a"), ("23.59.02", "e"), ("23.59.03", "b"), ("23.59.04", "c")]
    assert names_of(kept, living) == {VMS: expected}
    found = versions.shown(RUN, (SHARE,), living, kept, led_to(SHARE))
    assert [(copy.id, path[-8:]) for copy, path in versions.renamed(found)] == [
        ("b", "23.59.03"),
        ("c", "23.59.04"),
    ]
    # Once that is recorded it stays, whatever goes.
    recorded = {
        copy.id: replace(copy, previous_path=path) for copy, path in versions.renamed(found)
    }
    rest = [recorded.get(copy.id, copy) for copy in kept if copy.id != "a"]
    assert names_of(rest) == {VMS: expected[1:]}
    # A shadow copy that is there has its name, whoever had it before.
    assert names_of([at(59, "a")], [at(59, "n").previous_path]) == {VMS: [("23.59.01", "a")]}


def test_the_newest_of_both_together() -> None:
    kept = [at(second, str(second)) for second in range(10, 20)]
    living = [at(second, f"n{second}").previous_path for second in (1, 15)]
    for limit, shown in ((0, []), (2, []), (3, ["10"]), (5, ["10", "11", "12"])):
        share = replace(SHARE, previous_versions_limit=limit)
        found = names_of(kept, living, share)[VMS]
        assert sorted(copy for _, copy in found) == shown
    # One that is not shown keeps its name all the same.
    share = replace(SHARE, previous_versions_limit=1)
    assert names_of([at(5, "old"), at(4, "new"), at(5, "other", "")], (), share) == {
        VMS: [("23.59.55", "new")]
    }


def test_by_directory() -> None:
    twin = replace(SHARE, name="twin", path="/srv//vms/", previous_versions_limit=1)
    other = replace(SHARE, name="a/b", path="/srv/b")
    hidden = replace(SHARE, name="hidden", path="/srv/c", previous_versions=False)
    kept = [at(2, "a"), at(1, "b"), replace(at(3, "c", ""), share_path="/srv/b")]
    kept += [replace(at(4, "d", ""), share_path="/srv/c")]
    kept[2:] = [replace(copy, volume=volume_at(copy.share_path)) for copy in kept[2:]]
    # Several shares of one directory have one, and the largest limit of those that show anything.
    found = names_of(kept, (), replace(twin, previous_versions=False), twin, SHARE, other, hidden)
    assert found == {
        f"{RUN}/previous/twin": [("23.59.57", "a"), ("23.59.58", "b")],
        f"{RUN}/previous/a=2Fb": [("23.59.56", "c")],
    }
    assert names_of(kept, (), hidden) == {}


def test_of_what_is_there_now_and_nothing_else() -> None:
    kept = [at(3, "old"), replace(at(2, "new"), volume=volume_at("new"))]

    def look(
        told: dict[str, str], before: Sequence[versions.Shown] = (), *shares: Share
    ) -> tuple[versions.Shown, ...]:
        return versions.shown(RUN, shares or (SHARE,), (), kept, told, before)

    def ids(found: Sequence[versions.Shown]) -> list[tuple[list[str], int, int]]:
        return [([copy.id for copy in of.backups.values()], of.others, of.untold) for of in found]

    # Another directory has taken the place of the one of which the first backup is.
    first, second = look(led_to(SHARE)), look({SHARE.path: volume_at("new").group})
    assert (ids(first), ids(second)) == ([(["old"], 1, 0)], [(["new"], 1, 0)])
    assert ids(look({SHARE.path: ""})) == [([], 2, 0)]
    # Where that cannot be told, what is shown stays, unless it is of another path.
    assert ids(look({})) == [([], 0, 2)]
    assert ids(look({}, first)) == [(["old"], 0, 1)]
    assert ids(look({}, first, replace(SHARE, path="/srv/else"))) == [([], 0, 0)]
    assert ids(look({}, (), replace(SHARE, previous_versions_limit=0))) == [([], 0, 0)]
    # Wherever the directory is now, its backups are there, and in one place.
    moved = replace(SHARE, path="/srv/moved")
    third = look({moved.path: VOLUME.group}, (), moved)
    assert ids(third) == ids(look({}, third, moved)) == [(["old"], 0, 0)]
    both = (replace(SHARE, name="a", path="/srv/a"), moved)
    told = {share.path: VOLUME.group for share in both}
    assert ids(look(told, (), *both)) == [([], 0, 0), (["old"], 0, 0)]
    kept[0] = at(3, "old", f"{RUN}/previous/a")
    assert ids(look(told, (), *both)) == [(["old"], 0, 0), ([], 0, 0)]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=20),
    st.integers(0, 12),
)
def test_names_are_one_each(given_: list[tuple[int, bool, bool]], limit: int) -> None:
    share = replace(SHARE, previous_versions_limit=limit)
    kept, living = list[ShadowCopy](), list[str]()
    for number, (second, named, lives) in enumerate(given_):
        copy = at(second, f"{number:02}", VMS if named or lives else "")
        if lives and copy.previous_path not in living:
            living.append(copy.previous_path)
        else:
            kept.append(copy)
    (found,) = versions.shown(RUN, (share,), living, kept, led_to(share))
    there = {path.rpartition("/")[2] for path in living}
    assert there.isdisjoint(found.backups)
    assert len(found.backups) + len(living) <= max(limit, len(living))
    for copy, path in versions.renamed([found]):
        kept[kept.index(copy)] = replace(copy, previous_path=path)
    assert (
        versions.shown(RUN, (share,), living, kept, led_to(share))[0].backups.keys()
        == found.backups.keys()
    )
    assert list(versions.renamed(versions.shown(RUN, (share,), living, kept, led_to(share)))) == []
