"""What must hold after every step, and in the end, whatever the steps were."""

import hashlib
import os
import time
from pathlib import Path

from samba_rvss.model import Context, Phase, SambaCopy, SambaState, SetState, ShadowCopy
from samba_rvss.samba import fss_state
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from tests.samba.cells import SLOW
from tests.samba.world import GRACE, RECOVERY_TIMEOUT, SHARES, Actor, World

SETTLE = 30.0 * SLOW
"""Seconds in which samba-rvss does what is due at once; far more than an idle machine needs."""

_UNRECORDED = RECOVERY_TIMEOUT + GRACE + SETTLE
_GONE_SOON = 2 * (RECOVERY_TIMEOUT + GRACE) + SETTLE
_REQUIRED = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC


class Promises:
    """Watches a world for broken promises.

    Args:
        world: the world.
    """

    def __init__(self, world: World) -> None:
        self._world = world
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
            foreign = self._world.foreign_is_there()
            assert not foreign, f"what is foreign was touched: {foreign}"

    def _look(self) -> list[str]:
        """Return what samba-rvss has not done yet; what may never be is an AssertionError."""
        world = self._world
        running = world.rig.daemon.running
        # The ledger first: nothing that it says to be over may be undone afterwards.
        copies = {copy.path: copy for copy in world.rig.ledger()}
        writable = self._writable(copies)
        state = self._samba()
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
                late += [f"{path} is open, and not writable"] * (copy.id not in world.damaged)
        self._look_at_the_sealed(copies, known)
        return late if running else []

    def _writable(self, copies: dict[str, ShadowCopy]) -> list[str]:
        found = []
        for target in self._world.rig.mounts():
            try:
                flags = os.statvfs(target).f_flag
            except FileNotFoundError:
                continue  # unmounted while we looked
            if target not in self._world.rig.mounts():
                continue
            assert flags & _REQUIRED == _REQUIRED, f"{target} has lost its restrictions"
            if not flags & os.ST_RDONLY:
                assert "/previous/" not in target, f"{target} is writable"
                found.append(target)
        return found

    def _samba(self) -> SambaState:
        path = str(self._world.rig.samba.lock_directory / "srv_fss.tdb")
        return fss_state.settled(path)

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
        world = self._world
        sealed = {c.id: c for c in copies.values() if c.phase is Phase.SEALED}
        wanted = {name for name, samba in self._kept.items() if not self._may_go(name, samba)}
        assert wanted <= sealed.keys(), (
            f"{wanted - sealed.keys()} was recovered, and is gone though nobody deleted it"
        )
        self._kept = {name: self._kept[name] for name in wanted}
        for name, copy in sealed.items():
            if name in world.damaged:
                continue
            digest = content(copy.path)
            if not digest:
                assert name not in wanted, f"{name} was recovered, and is not mounted"
            elif self._digests.setdefault(name, digest) != digest:
                raise AssertionError(f"{name} has changed after it was sealed")
            elif _done(known.get(copy.path)) and not self._may_go(name, copy.copy_id):
                self._kept[name] = copy.copy_id

    def _may_go(self, name: str, samba: str) -> bool:
        world = self._world
        return name in world.damaged or bool({name, samba} & world.attempted)

    def _look_at_images(self) -> None:
        """See that the image of what is sealed is read-only, not only its mount."""
        sealed = [copy.id for copy in self._world.rig.ledger() if copy.phase is Phase.SEALED]
        images = self._world.inventory()
        for name in sealed:
            if name in images:
                assert images[name].read_only, f"{name} is sealed, and its image is writable"

    def in_the_end(self) -> None:
        """Fail unless everything goes when nobody wants it any more, and a fresh set succeeds."""
        world = self._world
        if world.steps == self._ended:
            return
        for actor in world.actors:
            actor.vanish()
            actor.stage = "start"
        if world.armed:
            world.stop_daemon(kindly=False)
        world.start_daemon()
        self.check(thorough=True)
        said: list[str] = []
        for copy in world.rig.ledger():
            if copy.phase is Phase.SEALED:
                world.ask(said, "delete", copy)
        world.note(f"in the end: {said}")
        self._nothing_is_left()
        self._fresh_set(world.actors[0])
        self._nothing_is_left()
        foreign = world.foreign_is_there()
        assert not foreign, f"what is foreign was touched: {foreign}"
        self._ended = world.steps
        world.forget()
        self.forget()

    def forget(self) -> None:
        """Begin anew with a world in which no copies are."""
        self._digests.clear()
        self._kept.clear()
        self._unrecorded.clear()

    def _nothing_is_left(self) -> None:
        deadline = time.monotonic() + _GONE_SOON
        while left := self._world.left():
            assert time.monotonic() < deadline, f"something is left of shadow copies: {left}"
            time.sleep(0.2)

    def _fresh_set(self, actor: Actor) -> None:
        """Take a set from beginning to end."""
        rig = self._world.rig
        try:
            with rig.client(actor.account) as client:
                taken = rig.expose(client, *SHARES)
        except FsrvpError as exc:
            if exc.hresult != HResult.FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS:
                raise
            # A client has begun a set and left. It is in the memory of a worker alone, and goes
            # with it, 60 s after the last connection; Samba's own timer does not free it, since
            # every SetContext stops that (srv_fss_agent.c, _fss_SetContext()).
            rig.samba.end_workers()
            self._nothing_is_left()
            with rig.client(actor.account) as client:
                taken = rig.expose(client, *SHARES)
        for mapping in taken.mappings:
            with rig.session(mapping.exposed_share, actor.account) as session:
                session.write("recovered", b"x")
        with rig.client(actor.account) as taken.client:
            taken.complete()
            rig.wait_for_phase(Phase.SEALED, 2, SETTLE)
            taken.delete()


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
