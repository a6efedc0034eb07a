"""What must hold after every step, and in the end, whatever the steps were."""

import hashlib
import os
import time
from pathlib import Path

from samba_rvss.model import Context, Phase, SambaCopy, SetState, ShadowCopy
from tests.samba.fault_cases import SLOW
from tests.samba.step_runner import GRACE, RECOVERY_TIMEOUT, SHARES, StepRunner

SETTLE = 30.0 * SLOW
"""Seconds in which samba-rvss does what is due at once; far more than an idle machine needs."""

_UNRECORDED = RECOVERY_TIMEOUT + GRACE + SETTLE
_GONE_SOON = 2 * (RECOVERY_TIMEOUT + GRACE) + SETTLE
_REQUIRED = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC


class Invariants:
    """Watches whether the promises are kept while steps are run.

    Args:
        runner: what runs them.
    """

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner
        self._digests: dict[str, str] = {}
        self._kept: dict[str, str] = {}  # Samba's ids of what was recovered, by ours
        self._unrecorded: dict[str, float] = {}
        self._ended = 0

    def check(self, *, thorough: bool = False) -> None:
        """Fail if a promise is broken, or stays broken for longer than it takes to act.

        Args:
            thorough: look at images and at what is foreign too.
        """
        deadline = time.monotonic() + SETTLE
        while late := self._look():
            assert time.monotonic() < deadline, "; ".join(late)
            time.sleep(0.02)
        if thorough:
            self._look_at_images()
            foreign = self._runner.foreign_is_there()
            assert not foreign, f"what is foreign was touched: {foreign}"

    def _look(self) -> list[str]:
        """Return what samba-rvss has not done yet; what may never be is an AssertionError."""
        runner = self._runner
        running = runner.rig.daemon.running
        # The ledger first: nothing that it says to be over may be undone afterwards.
        copies = {copy.path: copy for copy in runner.rig.ledger()}
        writable = self._writable(copies)
        state = runner.rig.samba_state()
        known = {copy.path: copy for copy in state.copies}
        for path in writable:
            assert path not in copies or copies[path].phase is not Phase.SEALED, (
                f"{path} was sealed and is writable"
            )
            if path in known:
                assert known[path].context & Context.AUTO_RECOVERY, (
                    f"{path} is writable and was never to be"
                )
        late = [f"{path} is writable, and recovered" for path in writable if _done(known.get(path))]
        late += self._look_at_the_unrecorded(writable, known)
        for path, copy in copies.items():
            late += _steps_due(copy, known.get(path))
            if copy.phase is Phase.OPEN and path not in writable and _awaits(known.get(path)):
                late += [f"{path} is open, and not writable"] * (copy.id not in runner.damaged)
        self._look_at_the_sealed(copies, known)
        return late if running else []

    def _writable(self, copies: dict[str, ShadowCopy]) -> list[str]:
        found = []
        for target in self._runner.rig.mounts():
            try:
                flags = os.statvfs(target).f_flag
            except FileNotFoundError:
                continue  # unmounted while we looked
            if target not in self._runner.rig.mounts():
                continue
            assert flags & _REQUIRED == _REQUIRED, f"{target} has lost its restrictions"
            if not flags & os.ST_RDONLY:
                assert "/previous/" not in target, f"{target} is writable"
                found.append(target)
        return found

    def _look_at_the_unrecorded(
        self, writable: list[str], known: dict[str, SambaCopy]
    ) -> list[str]:
        """A worker that was killed may take a set with it: then the timer closes the copy."""
        present = time.monotonic()
        lost = {path for path in writable if path not in known}
        since = {path: self._unrecorded.get(path, present) for path in lost}
        self._unrecorded = since
        return [
            f"{path} is writable, and no set has it"
            for path, begun in since.items()
            if present - begun > _UNRECORDED
        ]

    def _look_at_the_sealed(
        self, copies: dict[str, ShadowCopy], known: dict[str, SambaCopy]
    ) -> None:
        """See that what was sealed is as it was, and there until its time has come."""
        runner = self._runner
        sealed = {c.id: c for c in copies.values() if c.phase is Phase.SEALED}
        wanted = {name for name, samba in self._kept.items() if not self._may_go(name, samba)}
        assert wanted <= sealed.keys(), (
            f"{wanted - sealed.keys()} was recovered, and is gone though nobody deleted it"
        )
        self._kept = {name: self._kept[name] for name in wanted}
        for name, copy in sealed.items():
            if name in runner.damaged:
                continue
            digest = content(copy.path)
            if not digest:
                assert name not in wanted, f"{name} was recovered, and is not mounted"
            elif self._digests.setdefault(name, digest) != digest:
                raise AssertionError(f"{name} has changed after it was sealed")
            elif _done(known.get(copy.path)) and not self._may_go(name, copy.copy_id):
                self._kept[name] = copy.copy_id

    def _may_go(self, name: str, samba: str) -> bool:
        runner = self._runner
        return name in runner.damaged or bool({name, samba} & runner.attempted)

    def _look_at_images(self) -> None:
        """See that the image of what is sealed is read-only, not only its mount."""
        sealed = [copy.id for copy in self._runner.rig.ledger() if copy.phase is Phase.SEALED]
        images = self._runner.inventory()
        for name in sealed:
            if name in images:
                assert images[name].read_only, f"{name} is sealed, and its image is writable"

    def in_the_end(self) -> None:
        """Fail unless everything goes when nobody wants it any more, and a fresh set succeeds."""
        runner = self._runner
        if runner.steps == self._ended:
            return
        for actor in runner.actors:
            actor.vanish()
            actor.stage = "start"
        if runner.armed:
            runner.stop_daemon(kindly=False)
        runner.start_daemon()
        self.check(thorough=True)
        said: list[str] = []
        for copy in runner.rig.ledger():
            if copy.phase is Phase.SEALED:
                runner.ask(said, "delete", copy)
        runner.note(f"in the end: {said}")
        rig = runner.rig
        rig.assert_nothing_left(_GONE_SOON)
        user = runner.actors[0].account
        rig.assert_a_fresh_set_works(*SHARES, user=user, unblock=self._unblock, seconds=SETTLE)
        rig.assert_nothing_left(_GONE_SOON)
        foreign = runner.foreign_is_there()
        assert not foreign, f"what is foreign was touched: {foreign}"
        self._ended = runner.steps
        runner.forget()
        self.forget()

    def forget(self) -> None:
        """Begin anew where no copies are."""
        self._digests.clear()
        self._kept.clear()
        self._unrecorded.clear()

    def _unblock(self) -> None:
        """Free Samba of a set that a client has begun and left.

        It is in the memory of a worker alone, and goes with it, 60 s after the last connection;
        Samba's own timer does not free it, since every SetContext stops that (srv_fss_agent.c,
        _fss_SetContext()).
        """
        self._runner.rig.samba.end_workers()
        self._runner.rig.assert_nothing_left(_GONE_SOON)


def content(path: str) -> str:
    """Return a digest of all that is mounted at a path; empty if nothing is, or no longer."""
    digest = hashlib.sha256()
    for directory, names, files in os.walk(path):
        names.sort()
        for name in sorted(files):
            file = Path(directory, name)
            try:
                status = file.stat()
                digest.update(f"{file} {status.st_mode} {status.st_uid} {status.st_size}".encode())
                digest.update(file.read_bytes())
            except FileNotFoundError:
                continue  # unmounted while we looked
    return digest.hexdigest() if os.path.ismount(path) else ""


def _done(known: SambaCopy | None) -> bool:
    return known is not None and known.state is SetState.RECOVERED


def _awaits(known: SambaCopy | None) -> bool:
    return known is not None and known.state in (SetState.COMMITTED, SetState.EXPOSED)


def _steps_due(copy: ShadowCopy, known: SambaCopy | None) -> list[str]:
    """Return what should have been done with a copy, going by srv_fss.tdb."""
    if known is None or copy.phase in (Phase.CREATING, Phase.DELETING, Phase.SEALED):
        return []
    if known.state is SetState.RECOVERED:
        return [f"{copy.id} is recovered, and {copy.phase.value}"]
    if known.state in (SetState.COMMITTED, SetState.EXPOSED):
        if not known.context & Context.AUTO_RECOVERY:
            return [f"{copy.id} was never to be written, and is {copy.phase.value}"]
        if copy.phase is Phase.TAKEN:
            return [f"{copy.id} is {known.state.name.lower()}, and not open"]
    return []
