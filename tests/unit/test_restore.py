"""What becomes of a name that is restored, which names are wanted, and what they may be called."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.cli import importing, parser
from samba_rvss.cli import restore as cli
from samba_rvss.copies import machines, restore
from samba_rvss.errors import Problem, RvssError
from samba_rvss.hyperv.layout import Machine
from samba_rvss.manifests.entry import Entry, Kind
from samba_rvss.restore import attributes, beside
from samba_rvss.restore.plan import Overwrite, State, decide
from samba_rvss.restore.selection import Paths, Selection
from samba_rvss.restore.tally import Tally
from samba_rvss.samba import modules, open_files

_small = st.integers(0, 2)
_entries = st.builds(
    Entry,
    path=st.just(b"x"),
    kind=st.sampled_from(Kind),
    mode=_small,
    uid=_small,
    size=_small,
    mtime=_small,
    inode=st.integers(3, 5),
    target=st.sampled_from([b"", b"there"]),
    acl=st.sampled_from([b"", b"acl"]),
)
_names = st.text("aB*?[]!.é/\\", max_size=6)


@given(
    source=_entries,
    present=st.none() | _entries,
    overwrite=st.sampled_from(Overwrite),
    in_use=st.booleans(),
    same=st.booleans(),
)
def test_what_is_decided(
    source: Entry, present: Entry | None, overwrite: Overwrite, *, in_use: bool, same: bool
) -> None:
    """What is there stays unless all that speaks for replacing it holds."""
    state = decide(source, present, overwrite, in_use=in_use, same=lambda: same)
    assert (state is State.RESTORED) == (present is None)
    if present is None:
        return
    assert (state is State.LEFT) == (overwrite is Overwrite.NEVER)
    directory = present.kind is Kind.DIRECTORY
    if state is State.IN_WAY:
        assert directory
        assert source.kind is not Kind.DIRECTORY
    if state is State.UPDATED:
        assert overwrite is not Overwrite.NEVER
        assert not in_use or directory
        assert not directory or source.kind is Kind.DIRECTORY
    if state is State.UNCHANGED:
        alike = replace(present, inode=source.inode)
        assert replace(source, size=0) == replace(alike, size=0) or source.kind is Kind.DIRECTORY
        assert source.kind is not Kind.FILE or same
    if state is State.IN_USE:
        assert in_use


@given(_entries, st.sampled_from(Overwrite))
def test_the_same_is_left_as_it_is(entry: Entry, overwrite: Overwrite) -> None:
    state = decide(entry, replace(entry, inode=9), overwrite, in_use=True, same=lambda: True)
    if overwrite is Overwrite.IF_CHANGED:
        assert state is State.UNCHANGED


def test_content_is_read_only_where_it_matters() -> None:
    def read() -> bool:
        raise AssertionError

    entry = Entry(path=b"x", kind=Kind.FILE, size=5, mtime=7)
    for present in (None, replace(entry, size=6), replace(entry, mtime=8)):
        decide(entry, present, Overwrite.IF_CHANGED, same=read)
    for overwrite in (Overwrite.NEVER, Overwrite.ALWAYS):
        decide(entry, entry, overwrite, same=read)


@pytest.mark.parametrize(
    ("include", "exclude", "wanted", "unwanted"),
    [
        ([], [], "a a/b ", ""),
        (["*.VHDX"], [], "x.vhdx a/y.vhdx Q.Vhdx/in/it", "a x.vhd "),
        (["/a/b"], [], "a/b a/b/c", "x/a/b a ab"),
        (["a/*.txt"], [], "a/x.txt a/b/x.txt A/X.TXT", "x.txt"),
        ([], ["*.log", "tmp/"], "a a/log", "a/x.log tmp/x a/b.LOG/c"),
        (["*.vhdx"], ["old/*"], "a.vhdx new/a.vhdx", "old/a.vhdx"),
        (["a[1].txt"], ["/b[1]/c"], "x/A[1].txt a1.txt", "a2.txt b[1]/c"),
        (["größe"], [], "GRÖSSE Größe/x", "grosz"),
    ],
)
def test_patterns(include: list[str], exclude: list[str], wanted: str, unwanted: str) -> None:
    selection = Selection(include, exclude)
    for paths, expected in ((wanted, True), (unwanted, False)):
        for path in paths.split(" ") if paths else ():
            assert selection.has(path.encode()) == expected, path


def test_paths_that_are_wanted() -> None:
    paths = Paths([b"a/b", b"a/c/d"])
    assert [path for path in (b"", b"a", b"a/b", b"a/b/x", b"a/c", b"a/x") if paths.has(path)] == [
        b"a/b",
        b"a/b/x",
    ]
    found = [path for path in (b"", b"a", b"a/b", b"a/b/x", b"a/c", b"a/x") if paths.enters(path)]
    assert found == [b"", b"a", b"a/b", b"a/b/x", b"a/c"]
    assert Paths([b""]).has(b"x")


def test_where_all_of_a_machine_is() -> None:
    configuration = b"vms/one/Virtual Machines/X.vmcx"
    machine = Machine(guid="X", home=b"vms/one", configuration=(configuration,))
    assert machines.common(machine) == b"vms/one"
    elsewhere = replace(machine, disks=(b"vms/disks/base.vhdx",))
    assert machines.common(elsewhere) == b"vms"
    assert machines.common(replace(machine, disks=(b"base.vhdx",))) == b""
    at_top = replace(machine, home=b"", configuration=(b"Virtual Machines/X.vmcx",))
    assert machines.common(at_top) == b""


_CURLY = "\N{RIGHT SINGLE QUOTATION MARK}"  # PowerShell takes it for a quote


def test_what_to_do_on_the_host() -> None:
    name = importing.unc("SRV", "vms", f"it's {_CURLY}/one/")
    assert name == f"\\\\SRV\\vms\\it's {_CURLY}\\one"
    told = importing.steps(f"{name}\\X.vmcx", name, "\\\\SRV\\vms\\one", in_place=True)
    quoted = f"'\\\\SRV\\vms\\it''s {_CURLY}{_CURLY}\\one\\X.vmcx'"
    assert told[-1] == f"Import-VM -Path {quoted} -Register"
    told = importing.steps(f"{name}\\X.vmcx", name, "\\\\SRV\\vms\\one", in_place=False)
    commands = [line for line in told if line.startswith("Import-VM")]
    assert ["-GenerateNewId" in line for line in commands] == [False, True]
    assert all(f"-Path {quoted} -Copy" in line for line in commands)


@given(st.lists(_names, max_size=2), st.lists(_names, max_size=2), st.binary(max_size=8))
def test_what_is_wanted_can_be_reached(include: list[str], exclude: list[str], path: bytes) -> None:
    """Whatever the pattern and the name; and what is in a directory that is wanted is wanted."""
    selection = Selection(include, exclude)
    if selection.has(path):
        assert all(selection.enters(path[:at]) for at, byte in enumerate(path) if byte == ord("/"))
    if path and include and not exclude and selection.has(path):
        assert selection.has(path + b"/below")


_NAME = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name)


@given(name=_NAME, is_file=st.booleans())
def test_names_beside(name: bytes, *, is_file: bool) -> None:
    found = beside.names(name, b"20261127T071200Z", is_file=is_file)
    assert len(set(found)) == len(found)
    assert all(0 < len(each) <= 255 and each != name for each in found)
    assert beside.names(name, b"", is_file=is_file) == [name]


def test_what_a_name_ends_with_stays() -> None:
    (first, second, *_) = beside.names(b"disk.vhdx", b"NOW", is_file=True)
    assert (first, second) == (b"disk.restored-NOW.vhdx", b"disk.restored-NOW-2.vhdx")
    (first, *_) = beside.names(b"v1.5", b"NOW", is_file=False)
    assert first == b"v1.5.restored-NOW"


def test_what_gives_rights_is_taken_away() -> None:
    found = attributes.Attributes(
        is_link=False,
        mode=0o7755,
        uid=1,
        gid=2,
        atime=3,
        mtime=4,
        extended={b"security.capability": b"x", b"user.y": b"z"},
    )
    assert attributes.harmless(found, is_directory=False).mode == 0o1755
    less = attributes.harmless(found, is_directory=True)
    assert (less.mode, less.extended) == (0o3755, {b"user.y": b"z"})
    assert replace(less, mode=found.mode, extended=found.extended) == found


def test_modules_that_keep_something_elsewhere() -> None:
    objects = ("acl_tdb:x", "acl_xattr", "/lib/streams_depot.so", "xattr_tdb", "streams_xattr")
    assert modules.by_inode(objects) == ("acl_tdb", "streams_depot", "xattr_tdb")


def _opened(pid: str) -> dict[str, object]:
    return {"server_id": {"pid": pid}, "uid": 1000}


def test_who_has_a_file_open(says: Callable[[str], None]) -> None:
    file = {
        "service_path": "/srv/vms/",
        "filename": "a/disk.vhdx:stream",
        "fileid": {"devid": 41, "inode": 257},
        "opens": {"1/2": _opened("1"), "3/4": _opened("3")},
    }
    said = {
        "sessions": {
            "x": {"server_id": {"pid": "1"}, "username": "ann", "remote_machine": "10.0.0.5"}
        },
        "tcons": {
            "1": {"server_id": {"pid": "1"}, "service": "vms"},
            "2": {"server_id": {"pid": "3"}, "service": "vms"},
            "3": {"server_id": {"pid": "3"}, "service": "all"},
        },
        "open_files": {"/srv/vms/a/disk.vhdx": file},
    }
    says(json.dumps(said))
    known = open_files.OpenFile(
        path="/srv/vms/a/disk.vhdx",
        device=41,
        inode=257,
        share="vms",
        user="ann",
        machine="10.0.0.5",
    )
    unknown = replace(known, share="", user="1000", machine="")
    assert open_files.look("smb.conf") == [known, unknown]
    says("{}")
    assert open_files.look("smb.conf") == []


@pytest.mark.parametrize("text", ["", "[]", '{"open_files": {"1": {}}}', '{"tcons": {"1": 5}}'])
def test_what_is_not_understood(says: Callable[[str], None], text: str) -> None:
    says(text)
    with pytest.raises(RvssError, match="not understood") as caught:
        open_files.look("smb.conf")
    assert caught.value.problem is Problem.SAMBA


def test_who_interrupts_it_hears_of_the_guard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(
        instance: object, wish: object, tally: object, guard: Callable[[], str]
    ) -> None:
        guard()
        raise KeyboardInterrupt

    part = SimpleNamespace(id="20261127T071200Z-1", share="vms")
    monkeypatch.setattr(cli, "configuration", lambda arguments: None)
    monkeypatch.setattr(cli, "open_ledger", lambda config: nullcontext())
    monkeypatch.setattr(cli, "_part", lambda ledger, word, share: part)
    monkeypatch.setattr(cli, "instance_of", lambda config, ledger: None)
    monkeypatch.setattr(cli, "ask", lambda config, request, quiet: "20261127T080000Z-2")
    monkeypatch.setattr(restore, "restore", interrupted)
    words = ["backup", "restore", "x", "--overwrite", "always", "--json"]
    with pytest.raises(KeyboardInterrupt):
        cli.run(parser().parse_args(words))
    told = capsys.readouterr()
    assert "the backup 20261127T080000Z-2" in told.err
    found = json.loads(told.out)
    assert (found["failure"], found["guard"]) == ("interrupted", "20261127T080000Z-2")


def test_what_was_restored_is_told_in_any_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if nobody can tell what to do with it next."""

    def unknown(config: object, wish: object, found: object) -> list[str]:
        raise RvssError(Problem.CONFIG, "smb.conf cannot be read")

    def done(instance: object, wish: object, tally: Tally, guard: object) -> restore.Outcome:
        return restore.Outcome(tally=tally, where="/srv/vms")

    part = SimpleNamespace(id="20261127T071200Z-1", share="vms")
    monkeypatch.setattr(cli, "configuration", lambda arguments: None)
    monkeypatch.setattr(cli, "open_ledger", lambda config: nullcontext())
    monkeypatch.setattr(cli, "_part", lambda ledger, word, share: part)
    monkeypatch.setattr(cli, "instance_of", lambda config, ledger: None)
    monkeypatch.setattr(cli, "_note", lambda config, part, found: None)
    monkeypatch.setattr(cli, "_steps", unknown)
    monkeypatch.setattr(restore, "restore", done)
    assert cli.run(parser().parse_args(["backup", "restore", "x", "--json"])) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["where"], found["failure"]) == ("/srv/vms", "")
    assert "smb.conf cannot be read" in found["warnings"][0]


def test_what_fails_is_told_to_programs_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With as much of the object as is known by then."""

    def failed(instance: object, wish: object, tally: Tally, guard: Callable[[], str]) -> None:
        tally.states[State.UPDATED] += 3
        raise RvssError(Problem.NO_SPACE, "there is no room", "make some")

    monkeypatch.setattr(cli, "configuration", lambda arguments: None)
    monkeypatch.setattr(cli, "open_ledger", lambda config: nullcontext())
    monkeypatch.setattr(cli, "instance_of", lambda config, ledger: None)
    monkeypatch.setattr(cli, "parts_of", lambda ledger, word: [])
    monkeypatch.setattr(restore, "restore", failed)
    words = ["backup", "restore", "x:dir", "--json"]
    with pytest.raises(RvssError) as caught:
        cli.run(parser().parse_args(words))
    assert caught.value.problem is Problem.NOT_FOUND
    found = json.loads(capsys.readouterr().out)
    assert found == {"version": 1, "failure": caught.value.line()}
    part = SimpleNamespace(id="20261127T071200Z-1", share="vms")
    monkeypatch.setattr(cli, "_part", lambda ledger, word, share: part)
    with pytest.raises(RvssError) as caught:
        cli.run(parser().parse_args(words))
    found = json.loads(capsys.readouterr().out)
    assert found["failure"] == caught.value.line()
    assert (found["id"], found["path"], found["where"]) == (part.id, "dir", "")
    assert (found["states"]["updated"], found["compared"]) == (3, "")
