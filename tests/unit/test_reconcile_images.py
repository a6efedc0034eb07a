"""Whose an image is, and what it proves: what reconciling decides, one row a situation.

The rows are written as those of the other tables are.
"""

from dataclasses import replace

import pytest

from samba_rvss.model import Phase, SetState, Whose
from samba_rvss.reconcile.decision import (
    Adopt,
    Amend,
    Clear,
    Delete,
    Destroy,
    MountAgain,
    OnCopy,
    TakeOver,
)
from samba_rvss.reconcile.plan import plan
from tests.unit.test_reconcile_plan import (
    ABSENT,
    BARE,
    BEFORE,
    EVIDENCE,
    HEALTHY,
    OPEN,
    PERSISTENT,
    REBOOTED,
    RECOVERY,
    REMOUNT,
    SHARE,
    TAKEN,
    YEAR,
    A,
    Does,
    Given,
    Leaves,
    Row,
    ago,
    delete,
    lives,
    row,
    said,
    seal,
    state_of,
)
from tests.unit.values import COPY_ID, EXPOSED, NOW, SET, VOLUME, foreign_of, mark_of, sealed_of

OTHER = replace(VOLUME, id="257")
SEALED = sealed_of(PERSISTENT)
AMENDED = Does(kind=Amend, reason="its image is sealed, by its mark")
TAKEN_OVER = Does(kind=TakeOver, reason="the ledger has it")
ADOPTED = Leaves(reason="it was adopted, and lives until it is deleted")


def stranger(whose: Whose, instance: str = "", mark: str = A) -> Given:
    """Return a situation in which nothing is there but an image that is not ours."""
    return replace(BARE, foreign=(foreign_of("x", whose, mark_of(mark), instance),))


def strange(reason: str, *, wrong: bool = False, target: str = "x") -> Leaves:
    """It is named and left."""
    return Leaves(reason=reason, target=target, wrong=wrong)


ROWS = [
    # others' images
    row(
        "another instance's is no fault of this server",
        stranger(Whose.INSTANCE, "theirs"),
        strange("it is another instance's, theirs (at /.samba-rvss/x on btrfs fs)"),
    ),
    row(
        "another machine's",
        stranger(Whose.MACHINE, "ours"),
        strange("'samba-rvss adopt --from ours' takes it over", wrong=True),
    ),
    row(
        "a clone of one of ours",
        stranger(Whose.CLONE, "ours"),
        strange("it was made on the file system fs, of which this one is a copy", wrong=True),
    ),
    row(
        "a clone of another instance's",
        stranger(Whose.CLONE, "theirs"),
        strange("it was made on the file system fs, of which this one is a copy"),
    ),
    row(
        "one of ours that was copied",
        stranger(Whose.RENAMED, "ours"),
        strange(f"it was renamed or copied, and is {A} by its mark", wrong=True),
    ),
    row(
        "one that says nothing",
        stranger(Whose.UNKNOWN),
        strange("its mark cannot be read"),
    ),
    row(
        "its mount and share stay: our state directory was lost",
        Given(
            phase=None,
            image="",
            state=ABSENT,
            foreign=(foreign_of(A, Whose.INSTANCE, mark_of(A), "theirs"),),
            starting=True,
            found={f"share {SHARE}": YEAR, f"mount {A}": YEAR},
        ),
        Leaves(reason="it is another instance's"),
    ),
    row(
        "a copy's image that was renamed is not lost",
        Given(image="", foreign=(foreign_of("x", Whose.RENAMED, mark_of(A), "ours"),)),
        strange("it was renamed or copied", wrong=True),
        strange("its image is not ours any more: renamed or copied", wrong=True, target=A),
    ),
    row(
        "a copy's image that another instance took over",
        Given(image="", foreign=(foreign_of(A, Whose.INSTANCE, mark_of(A), "theirs"),)),
        Leaves(reason="it is another instance's"),
        Leaves(reason="its image is not ours any more: another instance's", wrong=True),
    ),
    row(
        "a file system that cannot be listed, and a copy on it",
        Given(image="", listed=False, unlisted={"fs": "why"}),
        strange("its images cannot be listed: why", wrong=True, target="fs"),
        Leaves(reason="its file system cannot be listed (fs): why", wrong=True),
    ),
    row(
        "a file system that cannot be listed, and nothing of ours on it",
        replace(BARE, unlisted={"usb": "why"}),
        strange("its images cannot be listed: why", target="usb"),
    ),
    # marks of the first form
    row("of the first form, and the ledger has it", Given(former=True), TAKEN_OVER, HEALTHY),
    row(
        "of the first form, open, and the ledger has it",
        replace(OPEN, former=True, since=ago(1800)),
        TAKEN_OVER,
        delete("its client has been silent", SetState.EXPOSED),
    ),
    row(
        "of the first form, and the ledger has it of another volume",
        Given(former=True, volume=OTHER),
        Leaves(reason="its record is of the volume btrfs:fs:256, its image of", wrong=True),
    ),
    row(
        "of the first form, and the ledger calls its file system by name",
        Given(former=True, volume=replace(VOLUME, file_system="guid"), names={"fs": "guid"}),
        TAKEN_OVER,
        Does(kind=Amend, reason="its file system has another name"),
        HEALTHY,
    ),
    row(
        "of the first form, and the ledger does not know it",
        replace(BARE, image="read-only", former=True),
        Leaves(reason="'samba-rvss adopt --from RUN-DIRECTORY' takes it over", wrong=True),
    ),
    row(
        "of the first form, not sealed, and the ledger does not know it",
        replace(BARE, image="writable", former=True),
        Leaves(reason="it is not sealed: remove it by hand", wrong=True),
    ),
    row(
        "of the first form, and the ledger says that it was deleted",
        replace(BARE, image="read-only", former=True, gone=frozenset({A})),
        Leaves(reason="its mark says nothing but our run directory", wrong=True),
    ),
    # adopted without a record
    row(
        "sealed, and the ledger does not know it",
        replace(BARE, image="read-only", sealed=SEALED),
        Does(kind=Adopt, reason="the ledger does not know it"),
    ),
    row(
        "sealed, and a part of it is missing",
        replace(BARE, image="incomplete", sealed=SEALED, starting=True),
        Leaves(reason="it was sealed, and a part of it is missing", wrong=True),
    ),
    row(
        "deleted, but of another volume",
        replace(BARE, image="read-only", gone=frozenset({A}), volume=OTHER),
        Leaves(reason="one of that name was deleted, but of the volume", wrong=True),
    ),
    *(
        row(f"adopted: {title}", replace(given, adopted=True), *said_of)
        for title, given, said_of in (
            ("lives on", Given(sealed=SEALED), (ADOPTED,)),
            ("older than any", Given(sealed=SEALED, age=YEAR, since=ago(9e5)), (ADOPTED,)),
            (
                "after a reboot, and its context is not persistent",
                replace(REBOOTED, sealed=sealed_of(RECOVERY), context=RECOVERY),
                (ADOPTED, REMOUNT),
            ),
            (
                "nothing knows it",
                replace(REBOOTED, sealed=SEALED, served=False, found={f"copy {A}": YEAR}),
                (ADOPTED, REMOUNT),
            ),
            (
                "its share was removed",
                Given(sealed=SEALED, served=False, found={f"copy {A}": YEAR}),
                (Leaves(reason="its exposed share was removed; it was adopted", wrong=True),),
            ),
            (
                "not sealed, and no set has it",
                replace(TAKEN, state=ABSENT, since=ago(YEAR)),
                (Leaves(reason="and no set of Samba's has it: it stays closed", wrong=True),),
            ),
            (
                "a client recovers it",
                replace(OPEN, since=ago(100)),
                (Leaves(reason="is exposed; its timer has 1700 s left", due=1700),),
            ),
            (
                "its client is silent",
                replace(OPEN, since=ago(1800)),
                (Does(kind=Delete, reason="its client has been silent for 1800 s"),),
            ),
            (
                "its client is silent, and its image is read-only",
                replace(OPEN, since=ago(1800), image="read-only"),
                (Leaves(reason="'samba-rvss delete' it if it is not wanted", wrong=True),),
            ),
            (
                "its recovery is complete",
                replace(TAKEN, state=SetState.RECOVERED, served=True),
                (seal("its recovery is complete"),),
            ),
        )
    ),
    # an old ledger was put back
    *(
        row(
            f"sealed, and the record says {phase.value}, {when}",
            replace(
                REBOOTED,
                phase=phase,
                since=since,
                sealed=SEALED,
                context=PERSISTENT,
                learned=SetState.EXPOSED,
                starting=True,
            ),
            AMENDED,
            REMOUNT,
            lives(seconds, why),
        )
        for phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING)
        for when, since, seconds, why in (
            ("of the boot before", BEFORE, 72 * 3600 - 100, "its context is persistent"),
            ("of this boot", ago(60), 72 * 3600 - 60, "its share still works"),
        )
    ),
    *(
        row(
            f"sealed, and the record says {phase.value} and knows no set",
            replace(REBOOTED, phase=phase, sealed=SEALED, known=False, starting=True),
            AMENDED,
            REMOUNT,
            ADOPTED,
        )
        for phase in (Phase.CREATING, Phase.TAKEN, Phase.OPEN)
    ),
    *(
        row(
            f"sealed, the record says {phase.value}, and no set and no share has it",
            replace(
                REBOOTED,
                phase=phase,
                sealed=SEALED,
                context=PERSISTENT,
                learned=SetState.EXPOSED,
                served=False,
                found={f"copy {A}": YEAR},
            ),
            AMENDED,
            REMOUNT,
            ADOPTED,
        )
        for phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING)
    ),
    row(
        "sealed and not persistent, and the record says open",
        replace(
            REBOOTED,
            phase=Phase.OPEN,
            sealed=sealed_of(RECOVERY),
            context=RECOVERY,
            learned=SetState.EXPOSED,
        ),
        AMENDED,
        delete("the machine was started anew, and its context is not persistent", None),
    ),
    *(
        row(
            f"read-only, and the record says {phase.value}, of the boot before",
            replace(REBOOTED, phase=phase, learned=SetState.EXPOSED, starting=True),
            EVIDENCE,
            REMOUNT,
        )
        for phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING)
    ),
    row(
        "read-only, and the record says creating",
        Given(phase=Phase.CREATING, since=ago(1), starting=True),
        Leaves(reason="its image is read-only, though its record says", wrong=True),
    ),
    row(
        "read-only, no set has it, and it is of this boot",
        replace(TAKEN, image="read-only", state=ABSENT, since=ago(YEAR)),
        EVIDENCE,
    ),
    row(
        "the image is of another volume than the record",
        Given(volume=OTHER, phase=Phase.DELETING),
        Leaves(reason="its record is of the volume btrfs:fs:256, its image of", wrong=True),
    ),
    # srv_fss.tdb and ledger lost together
    row(
        "sealed, and its record lacks its set",
        replace(REBOOTED, known=False, sealed=SEALED),
        AMENDED,
        REMOUNT,
        ADOPTED,
    ),
    # what recovery left
    row(
        "sealed, and what recovery wrote to is still there",
        Given(sealed=SEALED, remnants=True),
        HEALTHY,
        Does(kind=Clear, reason="what recovery wrote to is no part of the sealed image"),
    ),
    row(
        "not sealed: nothing is cleared",
        replace(OPEN, remnants=True),
        Leaves(reason="its timer has 1740 s left", due=1740),
    ),
]


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.title)
def test_images(case: Row) -> None:
    said(plan(case.given.seen()), case, sets=False)


def test_the_record_becomes_what_the_mark_says() -> None:
    given = replace(REBOOTED, phase=Phase.OPEN, known=False, sealed=SEALED)
    amend, mount = plan(given.seen()).actions
    assert isinstance(amend, Amend)
    assert amend.amended == replace(
        amend.copy,
        phase=Phase.SEALED,
        set_id=SET,
        copy_id=COPY_ID,
        context=PERSISTENT,
        exposed_share=SHARE,
        state=SetState.RECOVERED,
        adopted=True,
    )
    assert isinstance(mount, MountAgain)
    # It is carried out once the record is as amended.
    assert isinstance(mount, OnCopy)
    assert mount.copy == amend.amended


def test_the_record_says_when_its_image_was_taken() -> None:
    """What the mark says, if the record is from before that was known."""
    sealed = replace(SEALED, transid=7, taken=NOW)
    given = replace(REBOOTED, phase=Phase.OPEN, known=False, sealed=sealed)
    amend = plan(given.seen()).actions[0]
    assert isinstance(amend, Amend)
    assert (amend.copy.transid, amend.copy.taken) == (0, None)
    assert (amend.amended.transid, amend.amended.taken) == (7, NOW)


def test_a_ledger_that_knows_the_set_is_not_called_adopted() -> None:
    given = replace(
        REBOOTED, phase=Phase.SEALING, sealed=SEALED, context=PERSISTENT, learned=SetState.EXPOSED
    )
    amend = plan(given.seen()).actions[0]
    assert isinstance(amend, Amend)
    assert not amend.amended.adopted
    assert amend.amended.state is SetState.RECOVERED
    assert amend.amended.since == amend.copy.since


def test_an_image_that_vanished_is_not_one_that_we_deleted() -> None:
    (action,) = plan(Given(image="", state=ABSENT, workers=()).seen()).actions
    assert isinstance(action, Delete)
    assert action.lost
    seen = replace(BARE, image="read-only").seen()
    (action2,) = plan(replace(seen, gone={A: None})).actions
    assert isinstance(action2, Adopt)
    (action3,) = plan(replace(seen, gone={A: VOLUME})).actions
    assert isinstance(action3, Destroy)


def test_what_may_be_on_a_file_system_that_cannot_be_listed_stays() -> None:
    given = Given(phase=None, state=ABSENT, image="", starting=True, unlisted={"fs": "why"})
    assert plan(replace(given, found={f"share {SHARE}": YEAR}).seen()).actions == ()


def test_a_second_image_of_an_id_hides_none() -> None:
    """Whoever may mount a file system of his own can know an ``rvss:instance``."""
    seen = replace(OPEN, since=ago(1800)).seen()
    assert seen.inventory is not None
    (image,) = seen.inventory.images
    twin = replace(image, mark=replace(image.mark, volume=OTHER))
    for images in ((image, twin), (twin, image)):
        decided = plan(replace(seen, inventory=replace(seen.inventory, images=images)))
        (action,) = (action for action in decided.actions if isinstance(action, OnCopy))
        assert isinstance(action, Delete)
        (left,) = (left for left in decided.left_alone if left.target == A)
        assert "another image has its id, of the volume btrfs:fs:257" in left.reason


def test_a_copy_without_a_record_is_adopted_where_samba_has_it() -> None:
    """Whatever the directories are called now: its share leads to where it was."""
    older = f"{EXPOSED}My%20VMs/{A}"
    lost = replace(BARE, image="read-only", sealed=SEALED)
    situations = {
        older: replace(lost, shares={SHARE: older}),
        f"{EXPOSED}b/{A}": replace(lost, tdb=state_of(SetState.RECOVERED, 0, f"{EXPOSED}b/{A}")),
        "": replace(lost, shares={SHARE: f"/elsewhere/{A}", f"x{SHARE}": f"{EXPOSED}vms/other"}),
    }
    for path, given in situations.items():
        adopted = [a.path for a in plan(given.seen()).actions if isinstance(a, Adopt)]
        assert adopted == [path]
