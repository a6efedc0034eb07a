"""Manifests without a file system of their own: what is compared with what, chunks, parts."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.copies import manifests
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.priority import idle
from samba_rvss.manifests import chunks, subset
from samba_rvss.manifests.chunks import Digest, Reader
from samba_rvss.manifests.diff import changes
from samba_rvss.manifests.draft import Draft
from samba_rvss.manifests.entry import (
    CARRIED,
    LASTING,
    Entry,
    Kind,
    is_same_content,
    is_unchanged,
    merged,
    metadata,
)
from samba_rvss.manifests.links import Links
from samba_rvss.manifests.make import Last, Progress, fill
from samba_rvss.manifests.manifest import VERSION, Manifest, remove
from samba_rvss.manifests.verify import Difference, compare
from tests.unit.values import CONFIG

FILE = Entry(path=b"a", kind=Kind.FILE, size=3, mtime=5, ctime=10, inode=7, digest=b"d")


@pytest.mark.parametrize(
    ("present", "until", "unchanged"),
    [
        (FILE, 11, True),
        (replace(FILE, digest=b""), 11, True),  # that is what is to be found out
        (FILE, 10, False),
        (FILE, 9, False),
        (replace(FILE, ctime=11), 100, False),
        (replace(FILE, mtime=6), 100, False),
        (replace(FILE, size=4), 100, False),
        (replace(FILE, inode=8), 100, False),
        (replace(FILE, kind=Kind.DIRECTORY), 100, False),
    ],
)
def test_what_has_not_changed(present: Entry, until: int, *, unchanged: bool) -> None:
    assert is_unchanged(FILE, present, until) is unchanged


def test_what_was_not_read_is_not_taken_over() -> None:
    assert not is_unchanged(replace(FILE, digest=b""), FILE, 100)
    assert not is_unchanged(replace(FILE, fault="it cannot be read"), FILE, 100)


def test_what_differs() -> None:
    other = replace(FILE, mode=0o700, ctime=11, acl=b"x")
    assert metadata(FILE, other, LASTING) == ("mode", "acl", "ctime")
    assert metadata(FILE, other, CARRIED) == ("mode", "acl")
    assert is_same_content(FILE, other)
    assert not is_same_content(FILE, replace(FILE, digest=b"e"))
    unread = replace(FILE, digest=b"")
    assert not is_same_content(unread, unread)
    link = Entry(path=b"l", kind=Kind.LINK, target=b"here")
    assert is_same_content(link, link)
    assert not is_same_content(link, replace(link, target=b"there"))


@given(st.dictionaries(st.binary(), st.integers()), st.dictionaries(st.binary(), st.integers()))
def test_two_streams_side_by_side(left: dict[bytes, int], right: dict[bytes, int]) -> None:
    found = list(merged(sorted(left.items()), sorted(right.items())))
    assert found == [(left.get(key), right.get(key)) for key in sorted(left.keys() | right.keys())]


@given(st.integers(0, 5 * chunks.SIZE))
def test_how_many_chunks(size: int) -> None:
    count = chunks.count(size)
    assert count == len(range(0, size, chunks.SIZE)) or (size, count) == (0, 1)


@given(st.lists(st.sampled_from([b"a" * 32, b"b" * 32, chunks.EMPTY]), min_size=2), st.data())
def test_a_digest_does_not_depend_on_how_it_was_added(
    digests: list[bytes], data: st.DataObject
) -> None:
    """Nor on which of the chunks of zeroes are told."""
    cut = data.draw(st.integers(0, len(digests)))
    size = len(digests) * chunks.SIZE
    whole, parts = Digest(size), Digest(size)
    for number, each in enumerate(digests):
        whole.add(number, each)
    for first, piece in ((0, digests[:cut]), (cut, digests[cut:])):
        parts.add(*chunks.trimmed(first, piece))
    told = [
        number.to_bytes(8, "big") + each
        for number, each in enumerate(digests)
        if each != chunks.EMPTY
    ]
    assert whole.value() == parts.value() == hashlib.sha256(b"".join(told)).digest()


def test_the_digest_of_a_file_of_one_chunk_is_that_chunk_s() -> None:
    for content in (chunks.EMPTY, b"a" * 32):
        digest = Digest(chunks.SIZE)
        digest.add(0, content)
        assert digest.value() == content


def test_the_largest_files_that_there_can_be(tmp_path: Path) -> None:
    """Anybody can make them: they cost what is in them, whatever is done with them."""
    size = (1 << 63) - 1
    far = (5 << 60) + chunks.SIZE
    with TemporaryDirectory(dir="/dev/shm") as directory:
        for name in (b"one", b"other", b"gone", b"hole"):
            with open(os.path.join(os.fsencode(directory), name), "wb") as file:
                file.truncate(size)
                if name != b"hole":
                    os.pwrite(file.fileno(), b"data", far)
        with closing(manifest_of(directory, tmp_path / "x")) as manifest:
            (told,) = (entry for entry in manifest.entries() if entry.path == b"one")
            assert [(first, len(each)) for first, each in manifest.runs(told)] == [
                (far // chunks.SIZE, 32),
                (chunks.count(size) - 1, 32),
            ]
            assert different(manifest, directory) == {}
            with open(f"{directory}/one", "r+b") as file:
                os.pwrite(file.fileno(), b"more", 3 << 60)
            with open(f"{directory}/other", "r+b") as file:
                os.pwrite(file.fileno(), b"DATA", far)
            os.truncate(f"{directory}/gone", 0)
            os.truncate(f"{directory}/gone", size)
            found = different(manifest, directory)
            assert {path: each.offset for path, each in found.items()} == {
                b"one": 3 << 60,
                b"other": far,
                b"gone": far,
            }
            with closing(manifest_of(directory, tmp_path / "y")) as after:
                assert [(change.path, change.size) for change in changes(manifest, after)] == [
                    (b"gone", chunks.SIZE),
                    (b"one", chunks.SIZE),
                    (b"other", chunks.SIZE),
                ]


def manifest_of(directory: str, path: Path) -> Manifest:
    """Return the manifest of a directory."""
    with Draft(f"{path}.partial", "x") as draft, _opened(directory) as root:
        fill(draft, root, None, Progress())
        draft.complete({}, f"{path}.db")
    return Manifest(f"{path}.db", "x")


def different(manifest: Manifest, directory: str) -> dict[bytes, Difference]:
    """Return what is different in the content of a directory's files."""
    with _opened(directory) as root:
        found = list(compare(manifest, root, Progress()))
    return {each.path: each for each in found if each.what == "content"}


_DEVICES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8)


@given(_DEVICES)
def test_names_that_are_one_file_and_are_not(files: list[tuple[int, int]]) -> None:
    """Some name differs where two trees do not have the same names as one file, and only there."""
    with Links() as links:
        found = [
            links.difference(b"%d" % number, *(b"%d" % of if of else b"" for of in pair))
            for number, pair in enumerate(files)
        ]
    groups = [
        {
            frozenset(n for n, pair in enumerate(files) if pair[tree] == mine[tree] or n == number)
            if mine[tree]
            else frozenset({number})
            for number, mine in enumerate(files)
        }
        for tree in (0, 1)
    ]
    assert any(found) == (groups[0] != groups[1])


def test_hard_links_of_a_copy(tmp_path: Path) -> None:
    """One that has become two, and two that have become one."""
    before, after = tmp_path / "before", tmp_path / "after"
    for top in (before, after):
        top.mkdir()
        for name in ("a", "c", "lone"):
            (top / name).write_bytes(b"content")
        os.link(top / "a", top / "e")
    (before / "b").hardlink_to(before / "a")
    (before / "d").hardlink_to(before / "c")
    (after / "b").write_bytes(b"content")
    (after / "d").hardlink_to(after / "a")
    for path in (*before.iterdir(), *after.iterdir(), before, after):
        os.utime(path, (1, 1))
    with closing(manifest_of(str(before), tmp_path / "x")) as manifest:
        with _opened(str(before)) as root:
            assert list(compare(manifest, root, Progress(), elsewhere=True)) == []
        with _opened(str(after)) as root:
            found = list(compare(manifest, root, Progress(), elsewhere=True))
        assert {each.path: (each.what, each.detail) for each in found} == {
            b"b": ("metadata", "it is another file than a, and was the same"),
            b"d": ("metadata", "it is the same file as a, and was the same as c"),
        }
        with closing(manifest_of(str(after), tmp_path / "y")) as other:
            told = {each.path: each.fields for each in changes(manifest, other)}
            assert told == {b"b": ("links",), b"d": ("links",)}
            assert list(changes(manifest, manifest)) == []


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, chunks.SIZE, chunks.SIZE + 1, 4 * chunks.SIZE + 7])
@pytest.mark.parametrize("written", [(), (0,), (1,), (2, 4)])
def test_holes_are_zeroes(tmp_path: Path, size: int, written: tuple[int, ...]) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        for number in written:
            file.seek(number * chunks.SIZE)
            file.write(b"data")
        file.truncate(size)
    content = path.read_bytes()
    with path.open("rb") as file:
        reader = Reader(file.fileno(), size)
        for number in range(chunks.count(size)):
            piece = content[number * chunks.SIZE : (number + 1) * chunks.SIZE]
            assert reader.digest(number) == hashlib.sha256(piece).digest()


def test_a_file_that_ends_too_early_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"short")
    with path.open("rb") as file, pytest.raises(OSError, match="ends before"):
        Reader(file.fileno(), 10).digest(0)


@given(st.binary(max_size=30), st.integers(0, 1 << 20), st.integers(1, 40))
def test_each_chunk_is_in_one_part(path: bytes, chunk: int, parts: int) -> None:
    of = [subset.parse(f"{number}/{parts}") for number in range(1, parts + 1)]
    assert sum(each.has(path, chunk) for each in of) == 1
    assert subset.WHOLE.has(path, chunk)
    assert subset.parse("100%").has(path, chunk)


def test_a_percentage_is_about_that_much_and_another_one_each_time() -> None:
    numbers = range(20_000)
    first, second = ({n for n in numbers if each.has(b"x", n)} for each in _twice("10%"))
    assert 1700 < len(first) < 2300
    assert 1700 < len(second) < 2300
    assert first != second


def _twice(text: str) -> Iterator[subset.Subset]:
    yield subset.parse(text)
    yield subset.parse(text)


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1/0", "1", "0%", "101%", "-1%", "a/b", "1 %x"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ValueError, match="is wanted"):
        subset.parse(text)


def test_all_of_it_is_no_subset() -> None:
    assert subset.parse("1/1") == subset.parse("100%") == subset.parse("100.0%") == subset.WHOLE


def test_a_subset_that_is_well_hides_no_damage_elsewhere(tmp_path: Path) -> None:
    """Nor does it say that all of it was verified; only that does so."""
    config = replace(CONFIG, state_directory=str(tmp_path))
    (tmp_path / "manifests").mkdir()
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 6)]
    steps = [("1/3", 0), ("", 2), ("1/3", 0), ("2/3", 3), ("", 0)]
    seen = []
    for time, (part, damaged) in zip(times, steps, strict=True):
        manifests.record(config, "x", time, part, damaged)
        found = manifests.verification(config, "x")
        assert found is not None
        assert (found.time, found.subset) == (time, part)
        seen.append((found.damaged, found.whole))
    whole = times[1]
    assert seen == [(0, None), (2, whole), (2, whole), (3, whole), (0, times[4])]


ENTRIES = st.dictionaries(
    st.binary(max_size=20),
    st.builds(
        Entry,
        path=st.just(b""),
        kind=st.sampled_from(Kind),
        size=st.integers(0, (1 << 63) - 1),
        mtime=st.integers(-(1 << 63), (1 << 63) - 1),
        inode=st.integers(0, (1 << 63) - 1),
        target=st.binary(max_size=20),
        digest=st.binary(max_size=32),
        fault=st.text("ab \n\u0416", max_size=10),
    ),
    max_size=5,
)


@given(ENTRIES)
def test_what_is_written_is_read(entries: dict[bytes, Entry]) -> None:
    written = {path: replace(entry, path=path) for path, entry in entries.items()}
    with TemporaryDirectory() as directory:
        with Draft(f"{directory}/x.partial", "x") as draft:
            for entry in written.values():
                draft.add(entry, done=True)
                draft.add(replace(entry, mode=1), done=False)  # it is there
            draft.complete({"made": "now"}, f"{directory}/x.db")
        assert os.listdir(directory) == ["x.db"]
        with Manifest(f"{directory}/x.db", "x") as manifest:
            found = list(manifest.entries())
            number = str(len(written))
            assert manifest.about == {"made": "now", "image": "x", "entries": number}
            for path, entry in written.items():
                assert manifest.get(path) == entry
        assert found == [written[path] for path in sorted(written)]


def test_one_of_another_version(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    with pytest.raises(RvssError, match="version") as refused:
        Manifest(path, "x")
    assert refused.value.problem is Problem.STATE
    remove(path)
    with pytest.raises(RvssError) as refused:
        Manifest(path, "x")
    assert refused.value.problem is Problem.NOT_FOUND
    remove(path)


@pytest.mark.parametrize(("first", "length"), [(0, 33), (0, 0), (255, 64), (2, 64), (1 << 40, 32)])
def test_digests_that_can_be_of_no_chunks(tmp_path: Path, first: int, length: int) -> None:
    large = replace(FILE, size=300 * chunks.SIZE if first == 255 else 3 * chunks.SIZE)
    with Draft(str(tmp_path / "x.partial"), "x") as draft:
        draft.add(large, done=True)
        draft.add_chunks(b"a", first, bytes(length))
        with pytest.raises(RvssError, match="digests"):
            list(draft.runs(large))


def test_damage_of_a_manifest_is_not_taken_over(tmp_path: Path) -> None:
    """Digests of chunks that are not those of the file: it is read."""
    path = tmp_path / "share" / "file"
    path.parent.mkdir()
    path.write_bytes(b"1" * (2 * chunks.SIZE))
    with closing(manifest_of(str(path.parent), tmp_path / "x")) as manifest:
        whole = list(manifest.entries())
    undamaged = (tmp_path / "x.db").read_bytes()
    for number, statement in enumerate(
        ["DELETE FROM chunk", "UPDATE chunk SET digests = zeroblob(32)"]
    ):
        with closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
            database.execute(statement)
        with (
            closing(Manifest(str(tmp_path / "x.db"), "x")) as damaged,
            Draft(str(tmp_path / "y.partial"), "y") as draft,
            _opened(str(path.parent)) as root,
        ):
            progress = Progress()
            fill(draft, root, Last(manifest=damaged, until=1 << 62), progress)
            assert progress.reused == 0
            assert list(draft.entries()) == whole
            draft.complete({}, str(tmp_path / f"y{number}.db"))
        with closing(Manifest(str(tmp_path / f"y{number}.db"), "y")) as again:
            assert different(again, str(path.parent)) == {}
        (tmp_path / "x.db").write_bytes(undamaged)


def test_names_that_are_missing_are_damage(tmp_path: Path) -> None:
    """One that has lost all of them must not say that all of it is as it was."""
    (tmp_path / "share").mkdir()
    with closing(manifest_of(str(tmp_path / "share"), tmp_path / "x")) as manifest:
        assert different(manifest, str(tmp_path / "share")) == {}
    with closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
        database.execute("DELETE FROM entry")
    with (
        closing(Manifest(str(tmp_path / "x.db"), "x")) as manifest,
        pytest.raises(RvssError, match="there are 0 names in it, and were 1"),
    ):
        different(manifest, str(tmp_path / "share"))


def test_one_that_another_has_replaced(tmp_path: Path) -> None:
    """What comes of reading the first says nothing of the second."""
    (tmp_path / "share").mkdir()
    with closing(manifest_of(str(tmp_path / "share"), tmp_path / "x")) as manifest:
        assert manifest.is_current()
        manifest_of(str(tmp_path / "share"), tmp_path / "x").close()
        assert not manifest.is_current()
        remove(str(tmp_path / "x.db"))
        assert not manifest.is_current()


def test_one_that_cannot_be_reached_is_one(tmp_path: Path) -> None:
    """What verifies everything must not leave it out, and say that there is nothing to verify."""
    config = replace(CONFIG, state_directory=str(tmp_path))
    assert not manifests.exists(config, "x")
    (tmp_path / "manifests").write_bytes(b"no directory")
    assert manifests.exists(config, "x")
    with pytest.raises(RvssError) as refused:
        Manifest(manifests.path(config, "x"), "x")
    assert refused.value.problem is Problem.STATE


def test_one_of_another_image(tmp_path: Path) -> None:
    with Draft(str(tmp_path / "y.partial"), "y") as draft:
        draft.complete({}, str(tmp_path / "x.db"))
    with pytest.raises(RvssError, match="it is of y, and not of x") as refused:
        Manifest(str(tmp_path / "x.db"), "x")
    assert refused.value.problem is Problem.STATE


def test_what_has_just_been_finished_is_nobody_s_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of who had opened it before it got its name; and it has its name before it is let go."""
    draft = Draft(str(tmp_path / "x.partial"), "x")
    connect = sqlite3.connect

    def late(*arguments: Any, **options: Any) -> sqlite3.Connection:
        found: sqlite3.Connection = connect(*arguments, **options)
        draft.complete({}, str(tmp_path / "x.db"))
        return found

    monkeypatch.setattr(sqlite3, "connect", late)
    with pytest.raises(RvssError) as refused:
        Draft(str(tmp_path / "x.partial"), "x")
    assert refused.value.problem is Problem.BUSY
    assert os.listdir(tmp_path) == ["x.db"]


def test_a_draft_that_is_none_or_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "x.partial"
    path.write_bytes(bytes(5000))
    with pytest.raises(RvssError) as refused:
        Draft(str(path), "x")
    assert refused.value.problem is Problem.STATE
    with pytest.raises(RvssError) as refused:
        Draft(str(tmp_path / "missing" / "x.partial"), "x")
    assert refused.value.problem is Problem.SYSTEM


def test_room_is_left_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users choose how many names there are; what was done stays."""
    blocks = {"left": 6}

    def statvfs(_: str) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 100, 50, blocks["left"], 0, 0, 0, 0, 255))

    with Draft(str(tmp_path / "x.partial"), "x") as draft, monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", statvfs)
        draft.add(FILE, done=True)
        blocks["left"] = 4
        with pytest.raises(RvssError) as refused:  # noqa: PT012 - at one of them
            for number in range(2000):
                draft.add(replace(FILE, path=b"%d" % number), done=True)
    assert refused.value.problem is Problem.NO_SPACE
    with Draft(str(tmp_path / "x.partial"), "x") as draft:
        assert FILE in draft.entries()


def test_idle_is_for_a_block() -> None:
    before = os.sched_getscheduler(0)
    with idle():
        assert os.sched_getscheduler(0) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == before
