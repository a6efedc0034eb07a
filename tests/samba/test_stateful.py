"""Random steps of two users, with processes that die at random: no promise is ever broken.

SAMBA_RVSS_STEPS says how many steps are made (150, or 300 with SAMBA_RVSS_LONG), SAMBA_RVSS_SEED
from which number they come (a random one, which is printed); the same number makes the same choices
again. With SAMBA_RVSS_SHRINK=1 hypothesis looks for a shorter way to what failed, which takes long:
each attempt is made on a real smbd.
"""

import os
import secrets
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from samba_rvss.copies.instance import POINTS
from samba_rvss.model import Context
from tests.samba.invariants import Invariants
from tests.samba.step_runner import PLAIN, PREVIOUS, SHARES, Actor, StepRunner, Told

if TYPE_CHECKING:
    from collections.abc import Callable

    from samba_rvss.testing.users import BackupOperator
    from tests.samba.conftest import Rig

STEPS = "SAMBA_RVSS_STEPS"
SEED = "SAMBA_RVSS_SEED"
SHRINK = "SAMBA_RVSS_SHRINK"

_AT_ONCE = 100
_SHORT = 10
_ENOUGH = 300
_THOROUGH = 10
_MOST_COPIES = 8

# MS-FSRVP 2.2.2.2: BACKUP and NAS_ROLLBACK, with and without AUTO_RECOVERY
contexts = st.sampled_from(
    [
        Context.AUTO_RECOVERY,
        Context(0),
        Context.AUTO_RECOVERY | Context.PERSISTENT | Context.NO_AUTO_RELEASE,
        Context.PERSISTENT | Context.NO_AUTO_RELEASE | Context.NO_WRITERS,
    ]
)
wishes = st.sampled_from([(PLAIN,), (PREVIOUS,), SHARES, (PREVIOUS, PLAIN)])
who = st.integers(0, 1)
most = st.integers(0, 7)
distances = st.integers(1, 9)
which = st.integers(0, 15)
victims = st.sampled_from(["daemon", "worker", "smbd"])


class Steps(RuleBasedStateMachine):
    """Steps on a rig that outlives the machine; a machine leaves it empty."""

    runner: ClassVar[StepRunner]
    watch: ClassVar[Invariants]

    def _actor(self, number: int) -> Actor:
        return self.runner.actors[number]

    def _told(self, number: int) -> Told:
        return self.runner.told[number % len(self.runner.told)]

    def _checked(self, *, thorough: bool = False) -> None:
        self.watch.check(thorough=thorough or self.runner.steps % _THOROUGH == 0)

    @initialize(first=wishes, second=wishes, context=contexts)
    def begin(self, first: tuple[str, ...], second: tuple[str, ...], context: Context) -> None:
        """Let both users want a set."""
        # hypothesis swallows what goes wrong in the end of steps that it has cut short itself.
        assert not self.runner.broken, self.runner.broken
        self._actor(0).begin(context, first)
        self._actor(1).begin(Context.AUTO_RECOVERY, second)
        self.runner.start_daemon()

    # the way of a client

    def _room(self) -> bool:
        return len(self.runner.told) < _MOST_COPIES

    @precondition(_room)
    @rule(user=who, context=contexts, shares=wishes, patience=most, served=most, count=distances)
    def start(
        self,
        user: int,
        context: Context,
        shares: tuple[str, ...],
        patience: int,
        served: int,
        count: int,
    ) -> None:
        """Begin a set; seldom without giving up the one before, which then blocks Samba."""
        actor = self._actor(user)
        if patience and actor.stage != "start":
            actor.stage = "abort"
            self.runner.forward(actor)
        actor.begin(context, shares)
        self._go_on(user, count, served)

    @rule(user=who, count=distances, served=most)
    def forward(self, user: int, count: int, served: int) -> None:
        """Go on for some steps, in the order that leads somewhere."""
        self._go_on(user, count, served)

    @rule(user=who, other_count=distances, count=distances, served=most)
    def in_turns(self, user: int, count: int, other_count: int, served: int) -> None:
        """Go on with both."""
        self._go_on(user, count, served)
        self._go_on(1 - user, other_count, served)

    def _go_on(self, user: int, count: int, served: int) -> None:
        """Go on; seldom without the daemon."""
        actor = self._actor(user)
        if served:
            self.runner.start_daemon()
        for _ in range(count):
            if actor.stage == "start" and not self._room():
                return
            self.runner.forward(actor)
            self._checked()

    @precondition(lambda self: self.runner.told)
    @rule(user=who, number=which)
    def delete(self, user: int, number: int) -> None:
        """Delete what some client has exposed."""
        self.runner.delete(self._actor(user), self._told(number))
        self._checked()

    @rule(user=who)
    def vanish(self, user: int) -> None:
        """Lose every connection."""
        with self.runner.step(f"{self._actor(user).name} vanishes"):
            self._actor(user).vanish()
        self._checked()

    @rule(user=who, number=which, method=st.integers(0, 11), own=st.booleans())
    def anything(self, user: int, number: int, method: int, own: bool) -> None:  # noqa: FBT001
        """Call a method of FSRVP on a set that may be anybody's, or long gone."""
        self.runner.anything(
            self._actor(user), self._actor(user if own else 1 - user), number, method
        )
        self._checked()

    # what is written

    @precondition(lambda self: self.runner.told)
    @rule(user=who, number=which)
    def write(self, user: int, number: int) -> None:
        """Write through an exposed share."""
        actor, told = self._actor(user), self._told(number)
        with self.runner.step(f"{actor.name} writes") as said:
            self.runner.write(actor, told, said)
        self._checked()

    @precondition(lambda self: self.runner.told)
    @rule(user=who, number=which)
    def hold(self, user: int, number: int) -> None:
        """Keep a file open for writing."""
        self.runner.hold(self._actor(user), self._told(number))
        self._checked()

    @precondition(lambda self: any(actor.held for actor in self.runner.actors))
    @rule(user=who)
    def write_held(self, user: int) -> None:
        """Write to what was kept open."""
        self.runner.write_held(self._actor(user))
        self._checked()

    @rule(share=st.sampled_from(SHARES))
    def change_source(self, share: str) -> None:
        """Change what the next copy is taken of."""
        self.runner.change_source(share)

    # what dies

    @rule(victim=victims)
    def kill(self, victim: str) -> None:
        """SIGKILL a process between two calls."""
        with self.runner.step(f"SIGKILL of {victim}"):
            self.runner.kill(victim)
        self._checked()

    @rule(user=who, victim=victims, milliseconds=st.integers(0, 40), count=st.integers(1, 4))
    def kill_meanwhile(self, user: int, victim: str, milliseconds: int, count: int) -> None:
        """SIGKILL a process in the middle of a call."""
        actor = self._actor(user)
        with self.runner.killing(victim, milliseconds):
            self.runner.note(f"SIGKILL of {victim} in {milliseconds} ms")
            for _ in range(count):
                self.runner.forward(actor)
        self._checked()

    @rule(user=who, point=st.sampled_from(POINTS), count=st.integers(1, 9))
    def crash(self, user: int, point: str, count: int) -> None:
        """Let the daemon end itself at one point of its work, and go on."""
        self.runner.stop_daemon(kindly=False)
        self.runner.start_daemon(crash_at=point)
        for _ in range(count):
            self.runner.forward(self._actor(user))
        self._checked()

    @rule(kindly=st.booleans())
    def stop_daemon(self, kindly: bool) -> None:  # noqa: FBT001
        """End the daemon for a while."""
        with self.runner.step("samba-rvss stops"):
            self.runner.stop_daemon(kindly=kindly)
        self._checked()

    @precondition(lambda self: not self.runner.rig.daemon.running)
    @rule()
    def start_daemon(self) -> None:
        """Start the daemon."""
        with self.runner.step("samba-rvss starts"):
            self.runner.start_daemon()
        self._checked(thorough=True)

    @rule()
    def reconcile(self) -> None:
        """Reconcile as an administrator."""
        with self.runner.step("samba-rvss reconcile") as said:
            self.runner.ask(said, "reconcile")
        self._checked(thorough=True)

    @rule()
    def restart_daemon(self) -> None:
        """Start the daemon anew."""
        with self.runner.step("samba-rvss starts anew"):
            self.runner.restart_daemon()
        self._checked(thorough=True)

    # an administrator, and time

    @rule(number=which)
    def administer_delete(self, number: int) -> None:
        """Delete a copy as an administrator."""
        if copies := self.runner.rig.ledger():
            with self.runner.step("samba-rvss delete") as said:
                self.runner.ask(said, "delete", copies[number % len(copies)])
            self._checked()

    @rule(number=which, what=st.sampled_from(["share", "mount", "image"]))
    def damage(self, number: int, what: str) -> None:
        """Remove a part of a copy by hand."""
        if copies := self.runner.rig.ledger():
            copy = copies[number % len(copies)]
            with self.runner.step(f"the {what} of {copy.id} is removed by hand"):
                self.runner.damage(copy, what)
            self._checked()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        with self.runner.step(f"{seconds:g} s pass"):
            time.sleep(seconds)
        self._checked()

    def teardown(self) -> None:
        """See that everything goes when nobody wants it any more."""
        reason = sys.exception()
        if not isinstance(reason, Exception):
            try:
                self.watch.in_the_end()
            except Exception as exc:
                self.runner.broken = str(exc)
                self._clear_away(exc)
                raise
        elif not self.runner.broken:
            self._clear_away(reason)

    def _clear_away(self, reason: Exception) -> None:
        """Say what is wrong while it is known, and begin anew: hypothesis tries again first."""
        self.runner.tell(str(reason))
        self.runner.reset()
        self.watch.forget()


def _settings(steps: int) -> settings:
    phases = [Phase.generate, *([Phase.shrink] if os.environ.get(SHRINK) == "1" else [])]
    return settings(
        # hypothesis begins with short ones.
        max_examples=_SHORT + -(-steps // _AT_ONCE),
        stateful_step_count=min(steps, _AT_ONCE),
        deadline=None,
        database=None,
        phases=phases,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def test_random_steps(rig: "Rig", second_operator: "BackupOperator") -> None:
    """Two users, real daemons, and no broken promise."""
    wanted = int(os.environ.get(STEPS, "300" if os.environ.get("SAMBA_RVSS_LONG") else "150"))
    number = int(os.environ.get(SEED) or secrets.randbelow(1 << 32))
    runner = StepRunner(rig, (rig.operator, second_operator))
    with closing(runner):
        runner.build()

        class Run(Steps):
            """The steps on this rig."""

        Run.runner, Run.watch = runner, Invariants(runner)
        while runner.steps < wanted:
            began, left = time.monotonic(), wanted - runner.steps
            print(f"{SEED}={number} {STEPS}={left}", flush=True)
            run: Callable[..., None] = run_state_machine_as_test
            run(seed(number)(Run), settings=_settings(left))
            print(f"{runner.steps} steps, {time.monotonic() - began:.0f} s", flush=True)
            number += 1
        for what, count in sorted(runner.tally.items()):
            print(f"{count:6} {what}")
        # What never happens cannot go wrong.
        assert wanted < _ENOUGH or runner.tally["complete done"], runner.tally
