"""Hyper-V's layout and chains of disks: told by names and identities, inside of one tree."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss import child
from samba_rvss.hyperv import apart, report
from samba_rvss.hyperv.chains import LONGEST, Linked, Parent, chain, link
from samba_rvss.hyperv.disk import Disk, State
from samba_rvss.hyperv.layout import Finder
from samba_rvss.hyperv.survey import Limits, Survey, survey
from samba_rvss.kernel import files
from tests import virtual_disks

GUID = "0F2C4D64-6A5C-4B43-9C5C-1F7B3E0A9D11"
OTHER = "7B1D7B2E-3A49-4C69-8C3E-5C0E5E6F7A22"
THIRD = "1C0FFEE1-3A49-4C69-8C3E-5C0E5E6F7A33"


def _child(identity: str, *linkage: str, names: tuple[str, ...] = ()) -> Disk:
    return Disk(state=State.WHOLE, identity=identity, is_child=True, linkage=linkage, names=names)


def _base(identity: str) -> Disk:
    return Disk(state=State.WHOLE, identity=identity)


def _linked(disks: dict[bytes, Disk]) -> dict[bytes, Linked]:
    return {each.path: each for each in link(disks)}


def _survey(tree: Path, limits: Limits | None = None) -> Survey:
    with files.opened(os.open(tree, files.DIRECTORY)) as root:
        return survey(root, limits or Limits())


def test_a_parent_is_found_by_its_path_and_its_identity() -> None:
    found = _linked(
        {
            b"vm/a.avhdx": _child("B", "A", names=(r"..\disks\Base.VHDX",)),
            b"disks/base.vhdx": _base("A"),
            b"copy/base.vhdx": _base("A"),  # a copy has the same identity
        }
    )
    assert found[b"vm/a.avhdx"].above == b"disks/base.vhdx"
    assert found[b"vm/a.avhdx"].parent is Parent.PRESENT
    assert found[b"disks/base.vhdx"].parent is Parent.NONE


def test_a_parent_elsewhere_is_found_by_its_identity_alone() -> None:
    child = _child("B", "X", "A", names=(r"C:\gone\other.vhdx",))
    found = _linked({b"vm/a.avhdx": child, b"a/b.vhdx": _base("A"), b"vm/b.vhdx": _base("A")})
    assert found[b"vm/a.avhdx"].above == b"vm/b.vhdx"  # the one beside it


def test_a_parent_that_was_written_to_is_another_one() -> None:
    child = _child("B", "A", names=(r"\\server\vms\disks\base.vhdx",))
    found = _linked({b"vm/a.avhdx": child, b"disks/base.vhdx": _base("A2")})
    assert found[b"vm/a.avhdx"].parent is Parent.CHANGED
    assert found[b"vm/a.avhdx"].above == b"disks/base.vhdx"


def test_no_name_leads_out_of_the_tree() -> None:
    for name in (r"..\..\..\..\etc\passwd", "/etc/passwd", r"C:\x\..\..\passwd", "..", "", "\0"):
        found = _linked({b"vm/a.avhdx": _child("B", "A", names=(name,)), b"base.vhdx": _base("C")})
        assert found[b"vm/a.avhdx"] == Linked(
            path=b"vm/a.avhdx", disk=found[b"vm/a.avhdx"].disk, parent=Parent.MISSING
        )


def test_what_is_wrong_above_is_said_of_all_below() -> None:
    disks = {
        b"3.avhdx": _child("3", "2"),
        b"2.avhdx": _child("2", "1"),
        b"1.avhdx": _child("1", "0"),
    }
    assert {each.parent for each in link(disks)} == {Parent.MISSING}
    assert {each.parent for each in link(disks | {b"0.vhdx": _base("0")})} == {
        Parent.PRESENT,
        Parent.NONE,
    }


def test_loops_and_long_chains_end() -> None:
    own = {b"1.avhdx": _child("1", "2"), b"2.avhdx": _child("2", "1"), b"s.avhdx": _child("s", "s")}
    assert {each.parent for each in link(own)} == {Parent.ENDLESS}
    known = _linked(own)
    assert [len(chain(known, path)) for path in own] == [1, 1, 0]
    long = {b"%d.avhdx" % n: _child(str(n), str(n + 1)) for n in range(LONGEST + 1)}
    long |= {b"base.vhdx": _base(str(LONGEST + 1))}
    found = _linked(long)
    assert found[b"0.avhdx"].parent is Parent.TOO_LONG
    assert found[b"1.avhdx"].parent is Parent.PRESENT
    assert len(chain(found, b"0.avhdx")) == LONGEST


_NAMES = st.sampled_from(["a", "b", r"..\b", r"d\a", "..", "/", r"c:\d\b"])


@given(
    st.dictionaries(
        st.sampled_from([b"a", b"b", b"d/a", b"d/b", b"d/e/a"]),
        st.builds(
            _child,
            st.sampled_from("123"),
            st.sampled_from("1234"),
            names=st.lists(_NAMES, max_size=3).map(tuple),
        ),
    )
)
def test_every_parent_is_a_disk_of_the_tree(disks: dict[bytes, Disk]) -> None:
    known = _linked(disks)
    assert known.keys() == disks.keys()
    for path, each in known.items():
        assert not each.above or each.above in disks
        assert len(chain(known, path)) <= len(disks)


def _show(finder: Finder, *paths: str) -> None:
    for path in paths:
        directory, _, name = path.rstrip("/").rpartition("/")
        finder.add(directory.encode(), name.encode(), is_file=not path.endswith("/"))


def test_machines_are_told_by_names() -> None:
    finder = Finder(1000)
    _show(
        finder,
        f"web/Virtual Machines/{GUID}.vmcx",
        f"web/Virtual Machines/{GUID}.VMRS",
        f"web/Virtual Machines/{GUID}/",
        "web/Virtual Machines/notes.txt",
        f"web/Snapshots/{THIRD}.vmcx",
        "web/Virtual Hard Disks/disk.vhdx",
        "web/Virtual Hard Disks/disk.vhdx.rct",
        "web/Virtual Hard Disks/other.vhdx.mrt",  # of no disk
        f"old/virtual machines/{OTHER.lower()}.XML",
        "old/disk.vhd",
        f"old/{THIRD}.vmcx",  # in no such directory
        f"loose/Virtual Machines/{THIRD}.vmrs",  # nothing defines it
        "alone.vhdx",
    )
    web, old = sorted(finder.machines(), key=lambda machine: machine.guid)
    assert (web.guid, web.home, web.others) == (GUID, b"web", ())
    assert web.configuration == (
        f"web/Virtual Machines/{GUID}".encode(),
        f"web/Virtual Machines/{GUID}.VMRS".encode(),
        f"web/Virtual Machines/{GUID}.vmcx".encode(),
    )
    assert web.checkpoints == (f"web/Snapshots/{THIRD}.vmcx".encode(),)
    assert web.disks == (b"web/Virtual Hard Disks/disk.vhdx",)
    assert web.trackers == (b"web/Virtual Hard Disks/disk.vhdx.rct",)
    assert (old.guid, old.disks) == (OTHER, (b"old/disk.vhd",))
    assert b"web/Virtual Hard Disks/disk.vhdx" in web.paths


def test_machines_of_one_directory_have_its_disks_together() -> None:
    finder = Finder(1000)
    _show(
        finder,
        f"Virtual Machines/{GUID}.vmcx",
        f"Virtual Machines/{OTHER}.vmcx",
        "Virtual Hard Disks/1.vhdx",
        f"own/Virtual Machines/{THIRD}.vmcx",
        "own/2.vhdx",
    )
    found = {machine.guid: machine for machine in finder.machines()}
    assert found[GUID].others == (OTHER,)
    assert found[GUID].disks == found[OTHER].disks == (b"Virtual Hard Disks/1.vhdx",)
    assert found[THIRD].disks == (b"own/2.vhdx",)


def test_a_home_of_thousands() -> None:
    """Anybody can make it: nothing is there once for each machine and each disk."""
    finder, count = Finder(10_000), 3000
    for number in range(count):
        guid = f"{number:08X}{GUID[8:]}"
        _show(finder, f"Virtual Machines/{guid}.vmcx", f"{number}.vhdx")
    found = finder.machines()
    assert len(found) == count
    assert len({id(machine.disks) for machine in found}) == 1
    assert len({id(machine.guids) for machine in found}) == 1


def test_a_finder_holds_no_more_than_it_may() -> None:
    finder = Finder(3)
    _show(finder, *(f"{number}.vhdx" for number in range(9)), f"Virtual Machines/{GUID}.vmcx")
    assert finder.is_full
    assert len(finder.disks) == 3
    assert finder.machines() == ()


def test_a_tree_with_a_chain_and_a_machine(tmp_path: Path) -> None:
    for name in ("web/Virtual Machines", "web/Virtual Hard Disks", "templates"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / f"web/Virtual Machines/{GUID}.vmcx").write_bytes(b"")
    base = virtual_disks.make(tmp_path / "templates/base.vhdx")
    child = tmp_path / "web/Virtual Hard Disks/disk.avhdx"
    virtual_disks.child(child, base, r"..\..\templates\base.vhdx", log=OTHER)
    found = _survey(tmp_path)
    assert found.left_out == ""
    assert [(each.path, each.disk.state, each.parent) for each in found.disks] == [
        (b"templates/base.vhdx", State.WHOLE, Parent.NONE),
        (b"web/Virtual Hard Disks/disk.avhdx", State.LOG, Parent.PRESENT),
    ]
    (machine,) = found.machines
    assert machine.disks == (b"templates/base.vhdx", b"web/Virtual Hard Disks/disk.avhdx")


def test_a_survey_is_bounded_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    virtual_disks.make(tmp_path / "a/b/c/disk.vhdx")
    virtual_disks.make(tmp_path / "a/disk.vhdx")
    virtual_disks.make(tmp_path / "disk.vhdx")
    assert len(_survey(tmp_path).disks) == 3
    assert _survey(tmp_path, Limits(deepest=1)).left_out == "directories lie too deep"
    assert len(_survey(tmp_path, Limits(deepest=1)).disks) == 2
    assert _survey(tmp_path, Limits(names=2)).left_out == "there are more than 2 names"
    few = _survey(tmp_path, Limits(held=1))
    assert few.left_out == "there are more than 1 disks and files of machines"
    assert len(few.disks) == 1
    assert _survey(tmp_path, Limits(seconds=0.0)).left_out == "it took too long"


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "elsewhere").mkdir()
    virtual_disks.make(tmp_path / "elsewhere/disk.vhdx")
    (tmp_path / "share/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "share/disk.vhdx").symlink_to(tmp_path / "elsewhere/disk.vhdx")
    assert _survey(tmp_path / "share").disks == ()


def _report(tmp_path: Path) -> tuple[Survey, list[bytes]]:
    base = virtual_disks.make(tmp_path / "a.vhdx")
    virtual_disks.child(tmp_path / "b.avhdx", base, "a.vhdx")
    virtual_disks.child(tmp_path / os.fsdecode(b"c\xff.avhdx"), GUID, "gone.vhdx")
    found = _survey(tmp_path)
    return found, list(report.messages(found))


def test_a_report_is_sent_and_written_down(tmp_path: Path) -> None:
    _, parts = _report(tmp_path)
    found = report.received(parts)
    assert [(each.path, each.is_good) for each in found.disks] == [
        ("a.vhdx", True),
        ("b.avhdx", True),
        (os.fsdecode(b"c\xff.avhdx"), False),
    ]
    assert found.words() == "3 disks: 3 whole, 1 without their parent"
    assert report.parse(json.loads(json.dumps(found.as_data()))) == found


def test_a_report_that_is_cut_off_or_altered_is_refused(tmp_path: Path) -> None:
    _, parts = _report(tmp_path)
    seen = json.loads(parts[0])
    for wrong in (
        parts[:-1],
        [b"{}", parts[-1]],
        [b"[]", parts[-1]],
        [b"\xff", parts[-1]],
        [json.dumps({**seen, "state": "good"}).encode(), parts[-1]],
        [json.dumps({**seen, "size": True}).encode(), parts[-1]],
        [json.dumps({**seen, "size": -1}).encode(), parts[-1]],
        [json.dumps({**seen, "path": "x" * 5000}).encode(), parts[-1]],
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - JSON's own among them
            report.received(wrong)


def test_a_report_has_an_end() -> None:
    names = [os.fsencode(f"{number}") + b"\xff" * 4000 + b".vhdx" for number in range(apart.DISKS)]
    disks = tuple(Linked(path=name, disk=_base("A")) for name in names)
    parts = list(report.messages(Survey(machines=(), disks=disks)))
    assert sum(map(len, parts)) <= report.MOST
    assert max(map(len, parts)) <= report.LARGEST
    found = report.received(parts)
    assert 0 < len(found.disks) < apart.DISKS
    assert found.left_out == "the names of the disks are too long"


def _served(root: int) -> list[bytes]:
    process, pipe = child.start(apart.serve, 20.0, fd=root)
    with pipe:
        found = list(iter(lambda: pipe.recv(report.LARGEST), b""))
        assert process.wait(20.0) == 0
    return found


@pytest.mark.require("root")
def test_a_process_of_its_own_finds_the_same(tmp_path: Path) -> None:
    _, parts = _report(tmp_path)
    with files.opened(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)) as root:
        assert _served(root) == parts


@pytest.mark.require("root")
def test_that_process_ends_with_its_owner(tmp_path: Path) -> None:
    virtual_disks.make(tmp_path / "0.vhdx")
    for number in range(1, apart.DISKS):  # each takes some milliseconds
        (tmp_path / f"{number}.vhdx").hardlink_to(tmp_path / "0.vhdx")
    with files.opened(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)) as root:
        process, pipe = child.start(apart.serve, 600.0, fd=root)
        pipe.close()
        assert process.wait(60.0) == apart.UNWANTED
