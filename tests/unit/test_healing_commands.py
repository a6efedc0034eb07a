"""``reconcile``, ``status`` and ``events``: what they say and how they end, from values."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from samba_rvss import cli
from samba_rvss.cli import events, look, prune, standing, status
from samba_rvss.cli.deferred import deferred
from samba_rvss.cli.reconcile import as_data, as_line, exit_status, summary
from samba_rvss.copies.backup import Backup
from samba_rvss.daemon import holding
from samba_rvss.errors import Problem, RvssError
from samba_rvss.findings import Fate, Finding
from samba_rvss.ledger import Ledger
from samba_rvss.model import (
    Context,
    Event,
    Inventory,
    Moment,
    Nested,
    Phase,
    SambaCopy,
    SambaSet,
    SambaState,
    SetState,
    ShadowCopy,
    Share,
)
from samba_rvss.reconcile import report
from samba_rvss.reconcile.decision import Delete, LeftAlone, MountAgain, Plan
from samba_rvss.reconcile.observation import Observation
from samba_rvss.samba.conf import Config
from samba_rvss.samba.sections import Section
from samba_rvss.wire import Presence
from tests.unit.values import (
    CONFIG,
    COPY_ID,
    EXPOSED,
    OPTIONS,
    SET,
    copy_of,
    samba_copy_of,
    share_of,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SHARE = share_of(COPY_ID)
COPY = replace(
    copy_of(
        "20261122T100000Z-0000aaaa",
        Phase.SEALED,
        created=NOW - timedelta(hours=2),
        since=Moment(boot="b", seconds=1000.0),
    ),
    uid=1000,
    set_id=SET,
    copy_id=COPY_ID,
    context=Context.AUTO_RECOVERY | Context.FILE_SHARE,
    exposed_share=SHARE,
    state=SetState.RECOVERED,
)
KNOWN = samba_copy_of(COPY.path, SetState.RECOVERED, COPY.context)
SAMBA = SambaState(
    sets=(SambaSet(id=SET, state=SetState.RECOVERED, context=COPY.context),), copies=(KNOWN,)
)
PRESENCE = Presence(
    quiet=1.0,
    reconciled=NOW.isoformat(),
    done=(),
    failed=(),
    unsealed=(),
    refused=(),
    late=(),
    lacking=(),
)


def seen(copy: ShadowCopy | None = COPY, samba: SambaState | None = SAMBA) -> Observation:
    return Observation(
        wall=NOW,
        present=Moment(boot="b", seconds=1100.0),
        options=OPTIONS,
        exposed_directory=EXPOSED,
        copies=(copy,) if copy else (),
        inventory=Inventory(file_systems=frozenset({"fs"}), images=()),
        samba=samba,
        shares={SHARE: COPY.path} if copy else {},
    )


VMS = Section(
    name="VMs",
    path="/srv/vms",
    registry=False,
    share=Share(name="VMs", path="/srv/vms", nested=Nested.REFUSE),
    reason="",
)
SERVED = replace(CONFIG, sections=(VMS,))
EMPTY = Plan(actions=(), left_alone=(), findings={})


def looked(
    observation: Observation | None = None,
    plan: Plan = EMPTY,
    presence: Presence | None = PRESENCE,
    config: Config = SERVED,
    backups: tuple[Backup, ...] = (),
) -> look.Look:
    return look.Look(
        time=NOW,
        config=config,
        presence=presence,
        silence="" if presence else "the daemon does not run",
        seen=observation or seen(),
        plan=plan,
        change=None,
        backups=backups,
    )


def with_state(copy: SambaCopy, state: SetState) -> SambaState:
    return SambaState(
        sets=(SambaSet(id=SET, state=state, context=copy.context),),
        copies=(replace(copy, state=state),),
    )


# status: what is wrong


@pytest.mark.parametrize(
    ("what", "detail", "wrong"),
    [
        ("pruned", "", ""),
        ("pruned", "a is not deleted: it is mounted", "left what was to go: a is not deleted"),
        ("not pruned", "the clock is behind", "nothing was pruned at"),
    ],
)
def test_what_pruning_could_not_do_is_wrong(what: str, detail: str, wrong: str) -> None:
    event = Event(
        time=NOW, copy="", set_id="", share="", what=what, uid=-1, duration=None, detail=detail
    )
    found = standing.standing(replace(looked(), pruned=event), {}).wrong
    assert len(found) == bool(wrong)
    assert all(wrong in line for line in found)


def _pruning(what: str, days: int, copy: str = "") -> Event:
    """Return an event so many days ago."""
    when, detail = NOW - timedelta(days=days), f"it was {days}" if copy else ""
    return Event(
        time=when, copy=copy, set_id="", share="", what=what, uid=-1, duration=None, detail=detail
    )


def test_what_was_in_use_when_it_was_to_go_is_wrong_if_it_always_is() -> None:
    nights = [
        *(_pruning("pruning deferred", 9, "a"), _pruning("pruned", 9)),
        *(_pruning("pruning deferred", 4, "b"), _pruning("pruned", 4)),
        *(_pruning("pruning deferred", 3, "b"), _pruning("pruned", 3)),
        *(_pruning("pruning deferred", 2, "a"), _pruning("pruning deferred", 2, "b")),
    ]
    for end in ([], [_pruning("pruned", 2)]):  # as the last run goes on, and when it is over
        found = deferred([*nights, *end])
        since = {each.id: (NOW - each.since).days for each in found}
        assert (since, {each.reason for each in found}) == ({"a": 2, "b": 4}, {"it was 2"})
        (wrong,) = standing.standing(replace(looked(), deferred=found), {}).wrong
        assert wrong.startswith("b has been in use whenever it was to go since ")
    assert deferred([*nights, _pruning("pruned", 2), _pruning("pruned", 1)]) == ()


def test_what_another_program_holds_is_no_failure_of_pruning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = prune.Left()
    for name, problem in (("a", Problem.HELD), ("b", Problem.READ_ONLY), ("c", Problem.SYSTEM)):
        prune._note(CONFIG, left, name, name, RvssError(problem, f"why {name} stays"))
    assert left.in_use == {"a": "why a stays"}
    assert left.failures == {"b": "why b stays", "c": "why c stays"}
    assert left.status == Problem.READ_ONLY
    assert "a is not deleted yet: why a stays\n" in capsys.readouterr().err


def test_pruning_goes_on_where_it_cannot_be_recorded_what_is_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a daemon that has ended, or that is older and does not know of it."""
    left = prune.Left()
    config = replace(CONFIG, run_directory=str(tmp_path))
    prune._note(config, left, "a", "a", RvssError(Problem.BUSY, "somebody reads a"))
    assert (left.in_use, left.failures, left.status) == ({"a": "somebody reads a"}, {}, 0)
    said = capsys.readouterr().err
    assert "a is not deleted yet: somebody reads a\n" in said
    assert "that a is in use is not recorded: " in said


def backup_of(share: str, hours: float, *tags: str) -> Backup:
    part = replace(COPY, share=share, phase=Phase.KEPT, created=NOW - timedelta(hours=hours))
    return Backup(id=part.id, parts=(part,), missing="", tags=frozenset(tags), holds=(), seen=True)


@pytest.mark.parametrize(
    ("warn_age", "backups", "wrong"),
    [
        (None, (), ""),
        (None, (backup_of("vms", 99.0),), ""),
        (3600.0 * 36, (backup_of("VMs", 99.0), backup_of("vms", 35.0, "offsite")), ""),
        (3600.0 * 36, (backup_of("VMs", 99.0),), "[VMs]: its newest backup is 4 d 3 h old"),
        (3600.0 * 36, (backup_of("others", 1.0),), "[VMs]: its newest backup does not exist"),
    ],
    ids=["not wanted", "any age", "young", "stale", "none"],
)
def test_the_age_of_the_newest_backup(
    warn_age: float | None, backups: tuple[Backup, ...], wrong: str
) -> None:
    assert VMS.share is not None
    section = replace(VMS, share=replace(VMS.share, backup_warn_age=warn_age))
    seen_now = looked(config=replace(CONFIG, sections=(section,)), backups=backups)
    judged = standing.standing(seen_now, {})
    said = f"{wrong}, and 'rvss:backup warn age' is 1 d 12 h"
    assert judged.wrong == ((said,) if wrong else ())
    data = status.as_data(seen_now, judged, 1, {})["backups"]
    assert data["total"] == len(backups)
    assert [of["here_only"] for of in data["shares"]] == (
        [sum(not backup.tags for backup in backups if "others" not in backup.shares)]
        if warn_age or backups
        else []
    )


def test_healthy() -> None:
    judged = standing.standing(looked(), {})
    assert judged.healthy
    assert judged.wrong == judged.differences == ()
    assert judged.oldest is COPY
    assert judged.unsealed == {}
    assert judged.sets == judged.samba_copies == {SetState.RECOVERED: 1}


def test_nothing_at_all_is_healthy() -> None:
    judged = standing.standing(looked(seen(None, SambaState(sets=(), copies=()))), {})
    assert judged.healthy
    assert judged.oldest is None


WRONG = {
    "the daemon does not run": looked(presence=None),
    "the last reconciling failed: seal x": looked(presence=replace(PRESENCE, failed=("seal x",))),
    "a callout has been under way": looked(
        presence=replace(PRESENCE, late=("a callout has been under way",))
    ),
    # The command sees it too, and says it in the same words.
    "[vms]: it may not": looked(presence=replace(PRESENCE, lacking=("[vms]: it may not",) * 2)),
    "its file system is not there": looked(
        plan=replace(
            EMPTY,
            left_alone=(LeftAlone(target="x", reason="its file system is not there", wrong=True),),
        )
    ),
    "cannot see the images: why": looked(
        plan=replace(EMPTY, problems=("cannot see the images: why",))
    ),
    "is not sealed 100 s after its recovery": looked(seen(replace(COPY, phase=Phase.SEALING))),
    "it is not mounted: run samba-rvss reconcile": looked(
        plan=replace(
            EMPTY,
            actions=(MountAgain(copy=COPY, reason="it is not mounted"),),
        )
    ),
    "'registry shares' is off": looked(
        config=replace(SERVED, warnings=("'registry shares' is off",))
    ),
}


def _as(name: str, path: str) -> Section:
    return replace(
        VMS, name=name, path=path, share=Share(name=name, path=path, nested=Nested.REFUSE)
    )


SHARES = {
    "is no share of ours any more": (replace(VMS, share=None, reason="no shell_snap"),),
    "has another name now: machines, more": (_as("machines", VMS.path), _as("more", VMS.path)),
    "leads to /srv/other now, and no longer to /srv/vms": (_as("vms", "/srv/other"),),
}


@pytest.mark.parametrize("text", SHARES)
def test_a_share_that_is_no_more_what_its_copies_are_of(text: str) -> None:
    config = replace(CONFIG, sections=SHARES[text])
    (line,) = standing.standing(looked(config=config), {}).wrong
    assert line.startswith(f"[{COPY.share}] has 1 exposed shadow copies, and {text}")
    assert "samba-rvss delete" in line
    # Of the same share, written otherwise, and of what is gone or not exposed, nothing is said.
    same = replace(CONFIG, sections=(_as("vms", "/srv/vms/"),))
    assert standing.standing(looked(config=same), {}).healthy
    assert standing.standing(looked(seen(None), config=config), {}).healthy


@pytest.mark.parametrize("text", WRONG)
def test_wrong(text: str) -> None:
    judged = standing.standing(WRONG[text], {})
    assert not judged.healthy
    (line,) = judged.wrong
    assert text in line


def test_share_without_support_is_wrong() -> None:
    judged = standing.standing(looked(), {"tmp": "tmpfs is neither btrfs nor ZFS"})
    assert judged.wrong == ("[tmp]: tmpfs is neither btrfs nor ZFS",)


def test_work_that_the_daemon_will_do_is_not_wrong() -> None:
    action = Delete(copy=COPY, reason="it is too old")
    left = LeftAlone(target="x", reason="it has 10 s left", due=10.0)
    judged = standing.standing(
        looked(plan=replace(EMPTY, actions=(action,), left_alone=(left,))), {}
    )
    assert judged.healthy


def test_sealing_within_its_time_is_shown_and_not_wrong() -> None:
    since = Moment(boot="b", seconds=1099.0)
    judged = standing.standing(looked(seen(replace(COPY, phase=Phase.SEALING, since=since))), {})
    assert judged.healthy
    assert judged.unsealed == {COPY.id: 1.0}


def test_age_of_what_was_sealing_before_this_boot() -> None:
    since = Moment(boot="another", seconds=9000.0)
    judged = standing.standing(looked(seen(replace(COPY, phase=Phase.SEALING, since=since))), {})
    assert judged.unsealed == {COPY.id: 1100.0}
    assert not judged.healthy


def test_open_copy_of_a_recovered_set_is_unsealed() -> None:
    copy = replace(COPY, phase=Phase.OPEN, state=SetState.EXPOSED)
    assert COPY.id in standing.standing(looked(seen(copy)), {}).unsealed


@pytest.mark.parametrize(
    ("seconds", "state", "wrong"),
    [
        (1000.0, SetState.COMMITTED, True),
        (1000.0, SetState.EXPOSED, False),
        (1045.0, SetState.COMMITTED, False),
    ],
)
def test_a_set_that_is_committed_and_not_exposed_for_long(
    seconds: float, state: SetState, *, wrong: bool
) -> None:
    """Samba begins no other while there is one; its client exposes it at once if it lives."""
    copy = replace(COPY, phase=Phase.OPEN, state=state, since=Moment(boot="b", seconds=seconds))
    lines = standing.standing(looked(seen(copy, with_state(KNOWN, state))), {}).wrong
    assert bool(lines) is wrong
    for line in lines:
        assert line.startswith(f"Samba's set {SET} of [VMs] was committed 100 s ago and is not exp")
        assert line.endswith(f"and 'samba-rvss delete {COPY.id}' at once")


# status: Samba's view beside ours


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (seen(samba=SambaState(sets=(), copies=())), "is sealed, and in no set of Samba's"),
        (seen(samba=with_state(KNOWN, SetState.EXPOSED)), "is sealed, and its set exposed"),
        (seen(replace(COPY, phase=Phase.OPEN, state=SetState.EXPOSED)), "is open, and its set rec"),
        (replace(seen(), shares={}), f"has lost its share {SHARE}"),
        (seen(None), f"Samba has {COPY.copy_id} of [VMs] at {COPY.path}, which we have not"),
        (seen(samba=replace(SAMBA, copies=())), f"Samba's set {SET} is recovered and empty"),
        (
            replace(seen(), shares={SHARE: COPY.path, "other": f"{EXPOSED}vms/x"}),
            f"the share other leads to {EXPOSED}vms/x, which we have not",
        ),
    ],
)
def test_difference(observation: Observation, said: str) -> None:
    found = standing.standing(looked(observation), {}).differences
    assert any(said in line for line in found), found


def test_what_somebody_is_at_work_on_is_no_difference() -> None:
    busy = replace(seen(replace(COPY, phase=Phase.OPEN)), changing=frozenset({COPY.id}))
    assert standing.standing(looked(busy), {}).differences == ()
    leaving = seen(replace(COPY, phase=Phase.DELETING), SambaState(sets=(), copies=()))
    assert standing.standing(looked(leaving), {}).differences == ()


def test_srv_fss_that_cannot_be_read() -> None:
    judged = standing.standing(looked(seen(samba=None)), {})
    assert judged.sets is None
    data = status.as_data(looked(seen(samba=None)), judged, 1, {})
    assert data["samba"] is None


# status: what is printed


def test_status_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """However much is wrong, differs, and is to be done."""
    lines = tuple(f"line {number}" for number in range(1000))
    actions = tuple(Delete(copy=replace(COPY, id=line), reason="why") for line in lines)
    there = looked(
        plan=replace(EMPTY, actions=actions, problems=lines),
        presence=replace(PRESENCE, done=lines),
    )
    judged = replace(standing.standing(there, {}), differences=lines)
    status.show(there, judged, 3, {})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "NOT HEALTHY: 1000 wrong"
    assert len(shown) < 50
    assert "  and 992 more" in shown
    assert max(map(len, shown)) < 400


def test_status_shows_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    there = looked(plan=replace(EMPTY, problems=("cannot see \x1b[2J\udcff",)))
    status.show(there, standing.standing(there, {}), 1, {})
    assert "cannot see \\x1b[2J\\udcff" in capsys.readouterr().out


def test_status_as_json() -> None:
    there = looked()
    data = status.as_data(there, standing.standing(there, {}), 2, {})
    assert json.loads(json.dumps(data)) == data
    assert data["healthy"] is True
    assert data["copies"]["by_phase"] == {"sealed": 1}
    assert data["copies"]["oldest"]["id"] == COPY.id
    assert data["reconcile"]["last"] == NOW.isoformat()


# reconcile

ACTION = Delete(copy=replace(COPY, id="x"), reason="it is too old", evidence=("a", "b"))


def finding(fate: Fate) -> Finding:
    return Finding(fate=fate, reason="why")


@pytest.mark.parametrize(
    ("fates", "expected"),
    [
        ([], 0),
        ([Fate.LEFT_ALONE], 0),
        ([Fate.DONE, Fate.LEFT_ALONE, Fate.STALE], 0),
        ([Fate.BEGUN, Fate.DONE], 0),
        ([Fate.TO_DO], 3),
        ([Fate.DONE, Fate.WRONG], 3),
        ([Fate.FAILED, Fate.WRONG, Fate.DONE], 1),
        ([Fate.UNSEEN, Fate.TO_DO], 1),
    ],
)
def test_exit_status(fates: list[Fate], expected: int) -> None:
    assert exit_status(map(finding, fates)) == expected


def test_summary() -> None:
    assert summary([]) == "nothing to do"
    assert summary([finding(Fate.LEFT_ALONE)] * 2) == "nothing to do, 2 left alone"
    mixed = [finding(fate) for fate in (Fate.LEFT_ALONE, Fate.DONE, Fate.FAILED, Fate.DONE)]
    assert summary(mixed) == "2 done, 1 failed, 1 left alone"


def test_lines() -> None:
    assert as_line(report.of_action(ACTION)) == "to do: delete x: it is too old (a; b)"
    failed = report.of_action(ACTION, Fate.FAILED, "no room")
    assert as_line(failed) == "failed: delete x: it is too old (a; b): no room"
    assert as_line(Finding(fate=Fate.UNSEEN, reason="cannot see x")) == "not seen: cannot see x"


def test_plan_as_json() -> None:
    decided = Plan(
        actions=(ACTION,),
        left_alone=(
            LeftAlone(target="y", reason="young", due=5.0),
            LeftAlone(target="z", reason="?", wrong=True),
        ),
        findings={},
        problems=("cannot see",),
    )
    findings = list(report.of_plan(decided))
    assert as_data(findings) == {
        "actions": [
            {
                "kind": "delete",
                "target": "x",
                "reason": "it is too old",
                "evidence": ["a", "b"],
                "outcome": "to do",
                "error": "",
            }
        ],
        "left_alone": [
            {"target": "y", "reason": "young", "due": 5.0, "wrong": False},
            {"target": "z", "reason": "?", "due": None, "wrong": True},
        ],
        "problems": ["cannot see"],
    }
    assert exit_status(findings) == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["reconcile", "--dry-run", "--boot"],
        ["reconcile", "x"],
        ["status", "x"],
        ["events", "--limit", "0"],
        ["events", "--limit", "-1"],
        ["events", "--limit", "many"],
    ],
)
def test_wrong_usage(argv: list[str]) -> None:
    with pytest.raises(RvssError) as caught:
        cli.parser().parse_args(argv)
    assert caught.value.problem is Problem.USAGE


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("reconcile", "status", "events"):
        with pytest.raises(SystemExit) as ended:
            cli.parser().parse_args([verb, "--help"])
        assert ended.value.code == 0
    assert "3 something is left" in " ".join(capsys.readouterr().out.split())
    assert isinstance(cli.parser().parse_args(["events", "--limit", "5", "x"]), argparse.Namespace)


# events


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Ledger]:
    """A set of two copies, one of which is gone; a copy of no set; and a set of no copy."""
    ledger = Ledger(str(tmp_path / "ledger.db"))
    bare = replace(COPY, set_id="", copy_id="", phase=Phase.CREATING)
    ledger.add(bare, "create")
    ledger.change(bare, "taken", uid=1000, duration=0.5, phase=Phase.TAKEN)
    ledger.change(bare, "committed", set_id=SET, copy_id=COPY.copy_id)
    second = replace(bare, id="20261122T100001Z-0000bbbb", path=f"{EXPOSED}vms/b")
    ledger.add(second, "create")
    ledger.change(second, "committed", set_id=SET, copy_id="3")
    ledger.change(second, "gone", phase=Phase.GONE)
    lonely = replace(bare, id="20261122T100002Z-0000cccc", path=f"{EXPOSED}vms/c")
    ledger.add(lonely, "create")
    ledger.note_set(SET, "removed from srv_fss.tdb")
    ledger.note_set("another", "worker ended")
    ledger.note_set("", "reconciled", detail="all")
    yield ledger
    ledger.close()


def whats(found: list[Event]) -> list[str]:
    return [event.what for event in found]


def test_events_of_everything(record: Ledger) -> None:
    found = events.select(record, [], 1000)
    assert len(found) == 10
    assert whats(found)[-1] == "reconciled"
    assert whats(events.select(record, [], 2)) == ["worker ended", "reconciled"]


def test_events_of_a_copy_by_each_of_its_names(record: Ledger) -> None:
    expected = ["create", "taken", "committed"]
    for word in (COPY.id, "0000aaaa", COPY.copy_id, COPY.path):
        assert whats(events.select(record, [word], 1000)) == expected, word
    assert whats(events.select(record, ["0000bbbb"], 1000)) == ["create", "committed", "gone"]


def test_an_event_of_a_set_names_its_copies(record: Ledger) -> None:
    (event,) = [found for found in record.events(SET) if not found.copy]
    row = events.as_data(event, None, record.of_set(event.set_id), users={})
    ids = {(copy["copy"], copy["copy_id"]) for copy in row["copies"]}
    assert ids == {(COPY.id, COPY.copy_id), ("20261122T100001Z-0000bbbb", "3")}


def test_events_of_a_set_begin_with_its_copies(record: Ledger) -> None:
    found = events.select(record, [SET], 1000)
    assert whats(found) == [
        *("create", "taken", "committed"),
        *("create", "committed", "gone"),
        "removed from srv_fss.tdb",
    ]
    assert found == events.select(record, [SET, COPY.id, SET], 1000)
    assert whats(events.select(record, [SET], 2)) == ["gone", "removed from srv_fss.tdb"]


def test_events_of_a_set_without_copies(record: Ledger) -> None:
    assert whats(events.select(record, ["another"], 1000)) == ["worker ended"]


def test_events_of_nothing_known(record: Ledger) -> None:
    with pytest.raises(RvssError) as caught:
        events.select(record, [COPY.id, "nonsense"], 1000)
    assert caught.value.problem is Problem.NOT_FOUND


def test_event_has_both_ids_that_came_later(record: Ledger) -> None:
    first, second, third = events.select(record, [COPY.id], 1000)
    copy = record.get(COPY.id)
    assert first.set_id == ""
    data = events.as_data(first, copy, users={})
    assert (data["copy"], data["set_id"], data["copy_id"]) == (COPY.id, SET, COPY.copy_id)
    assert (data["uid"], data["duration"]) == (1000, None)
    nobody = events.as_data(third, copy, users={})
    assert (nobody["uid"], nobody["user"]) == (None, "")
    root = events.as_data(replace(second, uid=0), copy, users={0: "root"})
    assert (root["uid"], root["user"], root["duration"]) == (0, "root", 0.5)


def test_last_event(record: Ledger) -> None:
    found = record.last_event("reconciled")
    assert found is not None
    assert found.detail == "all"
    assert record.last_event("never") is None


# who is the one writer


@pytest.mark.require("root")  # packages are built in a chroot, whose mount table may lack the mount
def test_taken_is_seen_without_disturbing(tmp_path: Path) -> None:
    import fcntl

    config = replace(CONFIG, state_directory=str(tmp_path))
    assert not holding.is_taken(config)
    with open(tmp_path / "lock", "w", encoding="ascii") as lock:
        assert not holding.is_taken(config)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert holding.is_taken(config)
    assert not holding.is_taken(config)
