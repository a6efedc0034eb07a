"""What srv_fss.tdb's word on a shadow copy calls for: the specification, as a table."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.copies.follow import Step, steps
from samba_rvss.model import Context, Phase, SambaCopy, SetState, ShadowCopy
from tests.unit.values import COPY_ID, SET, copy_of, path_of, samba_copy_of

NAME = "20240229T235959Z-0123abcd"
AUTOMATIC = Context.AUTO_RECOVERY
LEARN, OPEN, SEAL = Step.LEARN, Step.OPEN, Step.SEAL


def copy_in(
    phase: Phase, *, known: bool = True, context: int = 0, state: SetState | None = None
) -> ShadowCopy:
    """Return a copy in a phase; ``known`` if Samba's ids have been recorded, ``state`` too."""
    return replace(
        copy_of(NAME, phase),
        set_id=SET if known else "",
        copy_id=COPY_ID if known else "",
        context=context,
        state=state if known else None,
    )


def seen_in(state: SetState, context: int) -> SambaCopy:
    """Return Samba's record of that copy."""
    return samba_copy_of(path_of(NAME), state, context)


# phase, state of the set, whether the client asked for auto-recovery: what is due
TABLE = [
    # Until Samba has committed the set, nobody may write and nothing is decided.
    (Phase.TAKEN, SetState.STARTED, AUTOMATIC, ()),
    (Phase.TAKEN, SetState.ADDED, AUTOMATIC, ()),
    (Phase.TAKEN, SetState.CREATING, AUTOMATIC, ()),
    # Committed with auto-recovery: open it, once.
    (Phase.TAKEN, SetState.COMMITTED, AUTOMATIC, (OPEN,)),
    (Phase.TAKEN, SetState.EXPOSED, AUTOMATIC, (OPEN,)),
    (Phase.OPEN, SetState.COMMITTED, AUTOMATIC, ()),
    (Phase.OPEN, SetState.EXPOSED, AUTOMATIC, ()),
    # RecoveryComplete: seal it, also if it was over before we looked.
    (Phase.TAKEN, SetState.RECOVERED, AUTOMATIC, (SEAL,)),
    (Phase.OPEN, SetState.RECOVERED, AUTOMATIC, (SEAL,)),
    (Phase.SEALING, SetState.RECOVERED, AUTOMATIC, (SEAL,)),
    # Without auto-recovery nobody may ever write.
    (Phase.TAKEN, SetState.COMMITTED, 0, (SEAL,)),
    (Phase.TAKEN, SetState.EXPOSED, 0, (SEAL,)),
    (Phase.TAKEN, SetState.RECOVERED, 0, (SEAL,)),
    (Phase.TAKEN, SetState.CREATING, 0, ()),
    # There is no way back: what is being sealed, or is, does not open.
    (Phase.SEALING, SetState.COMMITTED, AUTOMATIC, ()),
    (Phase.SEALING, SetState.EXPOSED, AUTOMATIC, ()),
    (Phase.SEALED, SetState.COMMITTED, AUTOMATIC, ()),
    (Phase.SEALED, SetState.EXPOSED, AUTOMATIC, ()),
    (Phase.SEALED, SetState.RECOVERED, AUTOMATIC, ()),
    # What is not there yet, or goes, is left to whoever makes or removes it.
    (Phase.CREATING, SetState.COMMITTED, AUTOMATIC, ()),
    (Phase.DELETING, SetState.RECOVERED, AUTOMATIC, ()),
    (Phase.GONE, SetState.EXPOSED, AUTOMATIC, ()),
]


@pytest.mark.parametrize(("phase", "state", "context", "due"), TABLE)
def test_table(phase: Phase, state: SetState, context: int, due: tuple[Step, ...]) -> None:
    assert steps(copy_in(phase, context=context, state=state), seen_in(state, context)) == due


@pytest.mark.parametrize(("phase", "state", "context", "due"), TABLE)
def test_what_samba_calls_it_is_learned_first(
    phase: Phase, state: SetState, context: int, due: tuple[Step, ...]
) -> None:
    left_alone = phase in (Phase.CREATING, Phase.DELETING, Phase.GONE)
    expected = () if left_alone else (LEARN, *due)
    assert steps(copy_in(phase, known=False), seen_in(state, context)) == expected


@pytest.mark.parametrize("before", [None, *SetState])
@pytest.mark.parametrize(("phase", "state", "context", "due"), TABLE)
def test_each_new_state_is_learned(
    phase: Phase, state: SetState, context: int, due: tuple[Step, ...], before: SetState | None
) -> None:
    """Its time counts from then. Sealing at RecoveryComplete waits for no write of its own."""
    copy = copy_in(phase, context=context, state=before)
    left_alone = phase in (Phase.CREATING, Phase.DELETING, Phase.GONE)
    sealed_with_it = SEAL in due and state is SetState.RECOVERED
    news = before is not state and not left_alone and not sealed_with_it
    assert steps(copy, seen_in(state, context)) == ((LEARN, *due) if news else due)


_contexts = st.integers(0, 2**32 - 1) | st.sampled_from([0, int(AUTOMATIC)])
_any = {
    "phase": st.sampled_from(Phase),
    "state": st.sampled_from(SetState),
    "context": _contexts,
    "known": st.booleans(),
    "recorded": _contexts,
}


def _due(phase: Phase, state: SetState, context: int, known: bool, recorded: int) -> set[Step]:  # noqa: FBT001
    return set(steps(copy_in(phase, known=known, context=recorded), seen_in(state, context)))


@given(**_any)
def test_open_only_what_may_be_written_to(
    phase: Phase,
    state: SetState,
    context: int,
    known: bool,  # noqa: FBT001
    recorded: int,
) -> None:
    """Samba's word on auto-recovery counts, not what was recorded before."""
    if OPEN in _due(phase, state, context, known, recorded):
        assert phase is Phase.TAKEN
        assert state in (SetState.COMMITTED, SetState.EXPOSED)
        assert context & AUTOMATIC


@given(**_any)
def test_never_both_opened_and_sealed(
    phase: Phase,
    state: SetState,
    context: int,
    known: bool,  # noqa: FBT001
    recorded: int,
) -> None:
    assert not {OPEN, SEAL} <= _due(phase, state, context, known, recorded)


@given(phase=st.sampled_from([Phase.TAKEN, Phase.OPEN, Phase.SEALING]), context=_contexts)
def test_recovered_is_always_sealed(phase: Phase, context: int) -> None:
    assert steps(copy_in(phase), seen_in(SetState.RECOVERED, context)) == (SEAL,)


def _after(phase: Phase, due: set[Step]) -> Phase:
    """Return the phase that carrying the steps out leads to (`copies`)."""
    if SEAL in due:
        return Phase.SEALED
    return Phase.OPEN if OPEN in due else phase


@given(st.lists(st.tuples(st.sampled_from(SetState), _contexts), max_size=12))
def test_there_is_no_way_back(history: list[tuple[SetState, int]]) -> None:
    """Whatever Samba says, in whatever order: once it is being sealed it never opens again."""
    phase, sealed = Phase.TAKEN, False
    for state, context in history:
        due = set(steps(copy_in(phase), seen_in(state, context)))
        assert not (sealed and OPEN in due)
        sealed = sealed or SEAL in due
        phase = _after(phase, due)
        if not sealed:
            assert state is not SetState.RECOVERED


def test_looking_again_calls_for_nothing_new() -> None:
    for state, context in product(SetState, (0, int(AUTOMATIC))):
        due = set(steps(copy_in(Phase.TAKEN), seen_in(state, context)))
        assert LEARN in due or state is SetState.RECOVERED
        again = steps(copy_in(_after(Phase.TAKEN, due), state=state), seen_in(state, context))
        assert again == ()
