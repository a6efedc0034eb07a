"""Finding files in several backups: patterns, and which versions are the same."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.kernel import files
from samba_rvss.manifests import find
from samba_rvss.manifests.draft import Draft
from samba_rvss.manifests.entry import Entry, Kind
from samba_rvss.manifests.manifest import Manifest

FILE = Entry(path=b"a", kind=Kind.FILE, size=3, mtime=5)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("disk.vhdx", "disk.vhdx", True),
        ("disk.vhdx", "web/DISK.VHDX", True),  # a name, in any directory
        ("*.vhdx", "web/disks/a.vhdx", True),
        ("web/*.vhdx", "web/disks/a.vhdx", True),
        ("web/*.vhdx", "old/web/a.vhdx", False),  # a path, from the share
        ("/web/a", "web/a", True),
        ("disk", "disk.vhdx", False),
        ("[ab].txt", "x/B.txt", True),
        ("?.txt", "x/ab.txt", False),
        ("notes[1].txt", "x/Notes[1].txt", True),  # a name with brackets is itself as well
        ("a[1]/b", "a[1]/b", True),
        ("notes[1].txt", "x/notes[1].txt.old", False),
        ("[!", "[!", True),
        ("ÄÖ*", "äöü", True),
        ("a*b", "a\nb", True),
        ("*.vhdx", os.fsdecode(b"\xff.vhdx"), True),
    ],
)
def test_patterns(pattern: str, path: str, *, matches: bool) -> None:
    assert find.matcher(pattern)(os.fsencode(path)) is matches


def test_versions_that_differ() -> None:
    read = replace(FILE, digest=b"1")
    backups = [
        [read],
        [replace(read, mtime=9)],  # the same content
        [replace(read, digest=b"2"), replace(FILE, path=b"b")],
        [FILE],  # nobody has read it: the same size and time
        [read],
    ]
    one, other = find.versions(backups)
    assert [version.backups for version in one.versions] == [(0, 1, 3, 4), (2,)]
    assert (other.path, [version.backups for version in other.versions]) == (b"b", [(2,)])
    assert not find.is_same(FILE, replace(FILE, size=4))
    assert not find.is_same(FILE, replace(FILE, mtime=4))


_NAMES = st.sampled_from([b"a", b"b", b"c"])
_BACKUP = st.dictionaries(_NAMES, st.integers(0, 2)).map(
    lambda found: [
        replace(FILE, path=path, digest=bytes([digest])) for path, digest in sorted(found.items())
    ]
)


@given(st.lists(_BACKUP, max_size=4))
def test_every_file_is_in_one_version(backups: list[list[Entry]]) -> None:
    found = {
        (each.path, number): version.entry.digest
        for each in find.versions(backups)
        for version in each.versions
        for number in version.backups
    }
    assert found == {
        (entry.path, number): entry.digest
        for number, entries in enumerate(backups)
        for entry in entries
    }


def test_files_of_a_manifest_and_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "tree/web").mkdir(parents=True)
    for name in ("web/b.vhdx", "a.VHDX", "web/other"):
        (tmp_path / "tree" / name).write_bytes(b"x")
    (tmp_path / "tree/link.vhdx").symlink_to("a.VHDX")
    is_wanted = find.matcher("*.vhdx")
    asides: list[object] = []
    with files.opened(os.open(tmp_path / "tree", files.DIRECTORY)) as root:
        found, left_out = find.of_tree(root, is_wanted, 10, lambda *what: asides.append(what))
        few = find.of_tree(root, is_wanted, 1, lambda *what: asides.append(what))
    assert [entry.path for entry in found] == [b"a.VHDX", b"web/b.vhdx"]
    assert (left_out, len(few[0]), few[1], asides) == (0, 1, 1, [])
    with Draft(str(tmp_path / "x.partial"), "x") as draft:
        for path in (b"a.VHDX", b"web/b.vhdx", b"web/other"):
            draft.add(replace(FILE, path=path), done=True)
        draft.add(Entry(path=b"d.vhdx", kind=Kind.DIRECTORY), done=True)
        draft.complete({}, str(tmp_path / "x.db"))
    with Manifest(str(tmp_path / "x.db"), "x") as manifest:
        assert [entry.path for entry in manifest.files(is_wanted)] == [b"a.VHDX", b"web/b.vhdx"]
