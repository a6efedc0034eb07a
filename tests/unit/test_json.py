"""What programs read: each ``--json`` prints one object with a version, which the manual describes.

A new command with ``--json`` needs a line in `COMMANDS`; a new member, a word in the manual.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss import cli, output
from samba_rvss.backups import pruning
from samba_rvss.cli import (
    check,
    exposing,
    kept,
    listed_files,
    listing,
    manifest,
    prune,
    reconcile,
    restore,
    standing,
    status,
    verify,
)
from samba_rvss.cli.running import verb
from samba_rvss.cli.running.order import Order, Outcome
from samba_rvss.copies import examine, manifests
from samba_rvss.copies.backup import OfDefinition, backups
from samba_rvss.copies.restore import Outcome as Restored
from samba_rvss.copies.restore import Wish
from samba_rvss.demo import show
from samba_rvss.demo.reporter import Reporter
from samba_rvss.findings import Fate, Finding
from samba_rvss.hyperv.chains import Parent
from samba_rvss.hyperv.disk import State
from samba_rvss.hyperv.layout import Machine
from samba_rvss.hyperv.report import Report, Seen
from samba_rvss.manifests.diff import Change, How
from samba_rvss.manifests.draft import Draft
from samba_rvss.manifests.entry import Entry, Kind
from samba_rvss.manifests.verify import Difference
from samba_rvss.model import Branch, Consistency, Exposed, Hold, Phase, Run, Share, Whose
from samba_rvss.restore.selection import Selection
from samba_rvss.restore.tally import Tally
from samba_rvss.samba.definitions import Definition
from samba_rvss.samba.open_files import OpenFile
from tests.unit.test_backup import kept_image
from tests.unit.test_healing_commands import looked
from tests.unit.values import CONFIG, COPY_ID, NOW, SET, copy_of, image_of, mark_of

if TYPE_CHECKING:
    from tests.unit.conftest import Resting

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "status": ("status",),
    "list": ("list",),
    "show": ("show", "{copy}"),
    "events": ("events",),
    "shares": ("shares",),
    "doctor": ("doctor",),
    "setup": ("setup", "vms", "--previous-versions"),
    "backup list": ("backup", "list"),
    "backup show": ("backup", "show", "{kept}"),
    "backup manifest": ("backup", "manifest", "{kept}"),
    "backup verify": ("backup", "verify", "{kept}"),
    "backup find": ("backup", "find", "*"),
    "backup diff": ("backup", "diff", "{kept}", "{kept}"),
    "check": ("check", "vms"),
    "prune": ("prune", "--dry-run"),
    "reconcile": ("reconcile", "--dry-run"),
    "adopt": ("adopt", "--from", "0123456789abcdef", "--dry-run"),
}
# They take a machine, a server, an image or a whole backup, and tests of their own.
ELSEWHERE = frozenset({"demo", "backup run", "backup files", "backup restore"})


def with_json() -> frozenset[str]:
    """Return the commands that have ``--json``."""

    def of(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
        for action in parser._actions:
            if "--json" in action.option_strings:
                yield name
            if isinstance(action, argparse._SubParsersAction):
                for verb, inner in action.choices.items():
                    yield from of(inner, f"{name} {verb}".strip())

    return frozenset(of(cli.parser(), ""))


def members(value: object) -> Iterator[str]:
    """Yield the name of each member, at any depth, of what is printed."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            if name == "samba" and inner:
                yield from inner
            elif name not in ("samba", "by_phase", "unsupported", "counts"):  # of phases, shares
                yield from members(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from members(inner)


@pytest.fixture(scope="module")
def section() -> str:
    """Return the manual's section on JSON."""
    text = (Path(__file__).parents[2] / "packaging/man/samba-rvss.8").read_text()
    return text[text.index("\n.Sh JSON\n") : text.index("\n.Sh EXIT STATUS\n")]


def told_of(section: str, command: str) -> frozenset[str]:
    """Return the members that the manual tells of a command's object."""
    found = re.search(rf"^\.It Cm {command}$(.*?)^\.(?:It|El)\b", section, re.M | re.S)
    assert found, f"the manual's section JSON does not tell what '{command}' prints"
    return frozenset(re.findall(r"^\.Va (\w+)", found[1], re.M))


@pytest.mark.require("root", "smbd")
def test_each_command_prints_an_object_that_the_manual_describes(
    resting: "Resting", section: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_json() == COMMANDS.keys() | ELSEWHERE
    proven(resting)
    seen = set(members(_of_functions())) | {"version"}
    for command, words in COMMANDS.items():
        ids = {"copy": resting.copy, "kept": resting.kept}
        named = [word.format(**ids) for word in words]
        cli.main(["-s", str(resting.configuration), *named, "--json"])
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        assert isinstance(found, dict), command
        assert (next(iter(found)), found.pop("version")) == ("version", output.JSON_VERSION)
        assert sorted(found.keys() - told_of(section, command)) == [], command
        seen |= set(members(found))
    told = set(re.findall(r"^\.Va (\w+)", section, re.M))
    assert (sorted(seen - told), sorted(told - seen)) == ([], [])


def test_the_demonstration_is_described(section: str) -> None:
    assert _demonstration().keys() <= told_of(section, "demo")


def test_a_run_is_described(section: str) -> None:
    assert _run().keys() <= told_of(section, "backup run")


def test_a_restore_is_described(section: str) -> None:
    assert _restore().keys() <= told_of(section, "backup restore")


def proven(resting: "Resting") -> None:
    """Give the backup a manifest and a disk, and say that it was verified."""
    config = replace(CONFIG, state_directory=str(Path(resting.ledger).parent))
    path = Path(manifests.path(config, resting.kept))
    path.parent.mkdir()
    (resting.configuration.parent / "vms").mkdir(exist_ok=True)
    about = dict.fromkeys(("entries", "files", "size", "unreadable", "left_out", "reused"), "0")
    with Draft(f"{path}.partial", resting.kept) as draft:
        draft.add(Entry(path=b"a", kind=Kind.FILE), done=True)
        draft.complete({**about, "made": NOW.isoformat()}, str(path))
    manifests.record(config, resting.kept, NOW, "", 0)
    seen = Seen(path="a.vhdx", state=State.WHOLE, why="", size=1, parent=Parent.NONE)
    found = json.dumps(Report(disks=(seen,)).as_data())
    Path(manifests.disks_path(config, resting.kept)).write_text(found)


def _of_functions() -> list[Any]:
    """Return what those commands have nothing of."""
    shared = replace(
        image_of("x"), mark=replace(mark_of("x"), branch=Branch(of="y", exposed=Exposed(share="s")))
    )
    image = kept_image("x", holds=(Hold(tag="audit"),))
    assert image.mark.kept is not None
    run = Run(name="nightly", consistency=Consistency.CRASH)
    image = replace(image, mark=replace(image.mark, kept=replace(image.mark.kept, run=run)))
    (whole,) = backups([replace(copy_of("x", Phase.KEPT), set_id=SET)], {}, [image])
    counted = pruning.Backup(id="x", groups=frozenset(), taken=NOW, consistent=True)
    reason = pruning.Reason(text="newest", group="g")
    lost = Difference(path=b"x", what="missing")
    verdict = pruning.Verdict(backup=counted, removed=False, reasons=(reason,))
    managed = OfDefinition(
        name="nightly", server="", count=0, newest=None, warn_age=None, trouble=""
    )
    there = replace(looked(), definitions=(managed,))
    return [
        exposing.as_data(shared),
        kept.as_data(whole, CONFIG),
        manifest.change_as_data("s", Change(path=b"x", how=How.ADDED)),
        check.as_data(
            Share(name="s", path="/s"),
            examine.Examination(
                findings={examine.What.LINK: examine.Finding(count=1, paths=[b"x"])},
                machines=(Machine(guid="G", home=b"", configuration=(b"G.vmcx",)),),
            ),
            [OpenFile(path="/s/x", device=0, inode=0, share="s", user="ann", machine="host")],
            "",
        ),
        verify.as_data(verify.Found(part=whole.parts[0], told=[lost])),
        listing.other("x", Whose.FORMER, None, "other", "where", "fs", read_only=True),
        prune.as_data(verdict, whole, prune.Left()),
        reconcile.as_data(
            [
                Finding(fate=Fate.DONE, reason="why", action="delete", target="x"),
                Finding(fate=Fate.WRONG, reason="why", target="y"),
            ]
        ),
        _restore(),
        status.as_data(there, standing.standing(there, {}), 2, {}),
        _demonstration(),
        _run(),
        listed_files.as_data(whole.parts[0], Entry(path=b"x", kind=Kind.FILE)),
    ]


def _run() -> dict[str, Any]:
    definition = Definition(name="nightly", shares=("vms",))
    order = Order(config=CONFIG, definition=definition, parent=1, host="files", own=True)
    outcome = Outcome(
        set_id=SET,
        copies={"vms": COPY_ID},
        parts={"vms": "x"},
        consistency=Consistency.APPLICATION,
        problems=(),
        status=0,
    )
    return verb.as_data(order, outcome)


def _restore() -> dict[str, Any]:
    tally = Tally()
    for told in (tally.changes, tally.faults, tally.notes):
        told.add(b"x", "what")
    wish = Wish(part=copy_of("x", Phase.KEPT), path=b"x", wanted=Selection())
    machine = Machine(guid="x", home=b"", configuration=(b"x",))
    return restore.as_data(wish, Restored(tally=tally, machine=machine), ["do"])


def _demonstration() -> dict[str, object]:
    reporter = Reporter(progress=lambda line: None, look=lambda: None)
    reporter.step("step", 1.0, "")
    reporter.expect("it works", "it does", met=True)
    return show.as_data(reporter, 1.0, None)
