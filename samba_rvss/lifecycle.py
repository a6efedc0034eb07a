"""The life of one shadow copy: check, create, learn, open, seal, delete.

Each verb writes its intent to the ledger, acts, and writes the result, so that `reconcile` can
finish or undo whatever a crash cut off. Verbs block; their caller sees to it that one volume's
creates and deletes, and one copy's verbs, run one at a time.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from enum import Enum

from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger, now
from samba_rvss.model import (
    Image,
    Inventory,
    Mark,
    Phase,
    SambaCopy,
    SetState,
    ShadowCopy,
    Share,
)
from samba_rvss.mounts import Mounts
from samba_rvss.providers import Provider
from samba_rvss.samba import control, fss_state, registry
from samba_rvss.samba.conf import Config, base_share, find_share
from samba_rvss.samba.process import SambaProcess
from samba_rvss.target import Target, locate

_logger = logging.getLogger(__name__)

POINTS = (
    "create.intent",
    "create.image",
    "create.mounted",
    "create.taken",
    "open.intent",
    "open.opened",
    "seal.intent",
    "seal.read-only",
    "seal.closed",
    "seal.settled",
    "seal.sealed",
    "delete.intent",
    "delete.unmounted",
    "delete.destroyed",
    "delete.forgotten",
    "delete.gone",
)
"""Where a test may end the daemon; see `Lifecycle`."""


class Step(Enum):
    """What a look into srv_fss.tdb calls for."""

    LEARN = "learn"
    OPEN = "open"
    SEAL = "seal"


def steps(copy: ShadowCopy, seen: SambaCopy) -> tuple[Step, ...]:
    """Decide what srv_fss.tdb's word on a copy calls for.

    A copy opens only while its set is committed or exposed and has AUTO_RECOVERY; it is sealed at
    RecoveryComplete, or at once if nobody may ever write to it. There is no way back.
    """
    found: list[Step] = []
    if copy.phase in (Phase.CREATING, Phase.DELETING, Phase.GONE):
        return ()
    automatic = replace(copy, context=seen.context).auto_recovery
    if copy.phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING):
        if seen.state is SetState.RECOVERED:
            found.append(Step.SEAL)
        elif seen.state in (SetState.COMMITTED, SetState.EXPOSED):
            if not automatic:
                found.append(Step.SEAL)
            elif copy.phase is Phase.TAKEN:
                found.append(Step.OPEN)
    # Sealing records that recovery is complete: it must not wait for a write of its own.
    news = copy.state is not seen.state and not (
        seen.state is SetState.RECOVERED and Step.SEAL in found
    )
    if copy.copy_id != seen.copy_id or news:
        found.insert(0, Step.LEARN)
    return tuple(found)


class Lifecycle:
    """The verbs, on one instance.

    Args:
        config: the present reading of smb.conf; replaced when it changes.
        ledger: where every change is recorded.
        providers: the file systems that are known.
        mounts: the recovery mounts.
        samba: where python-samba runs.
        reached: called with each name of `POINTS`; for tests of crashes.
    """

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        providers: Sequence[Provider],
        mounts: Mounts,
        samba: SambaProcess,
        reached: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.config = config
        self.ledger = ledger
        self.mounts = mounts
        self._providers = {provider.name: provider for provider in providers}
        self._samba = samba
        self._reached = reached

    # check

    def check(self, words: tuple[str, ...]) -> Target:
        """Find out whether a share can be snapshotted.

        Args:
            words: its path as the callout got it.

        Raises:
            RvssError: NOT_OURS, BAD_PATH, NOT_SUPPORTED, NESTED, NO_SPACE or READ_ONLY.
        """
        return self.locate(find_share(self.config, words), thorough=True)

    def locate(self, share: Share, *, thorough: bool = False) -> Target:
        """Find the volume of a share; with ``thorough`` look for file systems mounted in it too.

        Raises:
            RvssError: as `check`.
        """
        return locate(share, self._providers.values(), self.config.run_directory, thorough=thorough)

    # create

    def create(self, target: Target, uid: int, deadline: float) -> ShadowCopy:
        """Take a shadow copy and mount it, read-only; all is undone if anything fails.

        Args:
            target: what `locate` returned.
            uid: the client's user.
            deadline: time (`time.monotonic`) after which the copy is not wanted any more.

        Raises:
            RvssError: DEADLINE, NO_SPACE, READ_ONLY, NESTED, BAD_PATH, STATE or SYSTEM.
        """
        share, started = target.share, time.monotonic()
        _require_time(deadline)
        created = now().replace(microsecond=0)
        name = f"{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        copy = ShadowCopy(
            id=name,
            share=share.name,
            share_path=share.path,
            volume=target.volume,
            created=created,
            phase=Phase.CREATING,
            path=self.mounts.exposed_path(share.name, name),
            uid=uid,
        )
        if share.previous_versions:
            copy = replace(copy, previous_path=self.mounts.reserve_previous(share.name, created))
        try:
            # A record first: what a crash leaves behind is then known to be nobody's.
            self.ledger.add(copy, "create")
            self._reached("create.intent")
            self._provider(copy).create(_mark(copy, share))
            self._reached("create.image")
            _require_time(deadline)
            self._attach(copy, _paths(copy))
            _require_time(deadline)
            taken = self.ledger.change(
                copy, "taken", uid=uid, phase=Phase.TAKEN, duration=time.monotonic() - started
            )
        except BaseException as exc:
            self._undo(copy, exc)
            raise
        if taken is None:
            raise RvssError(Problem.STATE, f"the record of {copy.id} vanished")
        self._reached("create.taken")
        return taken

    def _undo(self, copy: ShadowCopy, reason: BaseException) -> None:
        """Remove what a failed create made; what resists stays recorded as being deleted."""
        try:
            if copy.previous_path:
                self.mounts.detach(copy.previous_path)
            if self.ledger.get(copy.id) is not None:
                self.withdraw(copy, str(reason))
        except RvssError:
            _logger.exception("[%s] %s: cannot undo a failed create yet", copy.share, copy.id)

    def _attach(self, copy: ShadowCopy, paths: Sequence[str]) -> None:
        for path in paths:
            parts = self._provider(copy).open(copy.volume, copy.id)
            try:
                self.mounts.attach(parts, path)
            finally:
                for _, part in parts:
                    os.close(part)
            self._reached("create.mounted")

    def withdraw(self, copy: ShadowCopy, reason: str) -> None:
        """Remove a copy whose path could not be handed to Samba.

        Raises:
            RvssError: as `delete`.
        """
        self.ledger.note(copy, "withdrawn", detail=reason)
        self.delete(copy)

    # learn, open

    def learn(self, copy: ShadowCopy, seen: SambaCopy) -> ShadowCopy | None:
        """Record what Samba calls a copy; None if it is being removed."""
        return self.ledger.change(
            copy,
            seen.state.name.lower(),
            unless=(Phase.DELETING, Phase.GONE),
            set_id=seen.set_id,
            copy_id=seen.copy_id,
            context=seen.context,
            exposed_share=seen.exposed_share,
            state=seen.state,
        )

    def open(self, copy: ShadowCopy) -> None:
        """Open the recovery mount for auto-recovery; `opened` records it.

        The mount opens before anything is written: a client's first write may follow within
        milliseconds, and after a crash srv_fss.tdb still says what is due.

        Raises:
            RvssError: NOT_FOUND or SYSTEM.
        """
        self._reached("open.intent")
        self.mounts.open(copy.path)
        self._reached("open.opened")

    def opened(self, copy: ShadowCopy) -> ShadowCopy | None:
        """Record that a recovery mount is open; None if the copy is past that."""
        past = (Phase.SEALING, Phase.SEALED, Phase.DELETING, Phase.GONE)
        return self.ledger.change(copy, "opened", unless=past, phase=Phase.OPEN)

    def amend(self, shares: dict[str, bool]) -> None:
        """Make exposed shares fit for what they are, and tell smbd.

        Args:
            shares: for each, whether smbd must refuse writes.

        Raises:
            RvssError: SAMBA.
        """
        objects = {share: self.config.modules(base_share(share)) for share in shares}
        if self._samba.call(registry.amend, self.config.file, shares, objects):
            control.reload_config(self.config.file)

    # seal

    def begin_seal(self, copy: ShadowCopy) -> ShadowCopy | None:
        """Make the image read-only; None if the copy is sealed, or being removed, already.

        New opens for writing fail from here on. Old ones are `finish_seal`'s. That recovery is
        complete is not recorded yet: a loss of power would take what it wrote.

        Raises:
            RvssError: NOT_FOUND, STATE or SYSTEM.
        """
        sealing = self.ledger.change(
            copy,
            _sealing_event(copy),
            unless=(Phase.SEALED, Phase.DELETING, Phase.GONE),
            phase=Phase.SEALING,
        )
        if sealing is None:
            return None
        self._reached("seal.intent")
        self._provider(sealing).seal(sealing.volume, sealing.id)
        self._reached("seal.read-only")
        # What a client may write to is sealed at RecoveryComplete and never before.
        return replace(sealing, state=SetState.RECOVERED if copy.auto_recovery else copy.state)

    def write_out(self, copy: ShadowCopy) -> None:
        """Bring to the disk what recovery wrote, and record that it is complete.

        For a copy that a writer keeps from being sealed: from here on it outlives the machine's
        next start.

        Args:
            copy: what `begin_seal` returned.

        Raises:
            RvssError: NOT_SEALED, NOT_FOUND, STATE or SYSTEM.
        """
        self._provider(copy).settle(copy.volume, copy.id)
        past = (Phase.SEALED, Phase.DELETING, Phase.GONE)
        self.ledger.change(copy, "written out", unless=past, since=copy.since, state=copy.state)

    def finish_seal(self, copy: ShadowCopy, started: float) -> ShadowCopy | None:
        """Close the recovery mount for good, verify, and record it.

        Args:
            copy: what `begin_seal` returned.
            started: when the sealing began (`time.monotonic`).

        Returns:
            The sealed copy, as it is if it is being removed; None while somebody still has a
            file open for writing, and nothing has changed then.

        Raises:
            RvssError: NOT_SEALED, NOT_FOUND, STATE or SYSTEM.
        """
        if not self.mounts.close(copy.path):
            return None
        self._reached("seal.closed")
        self._provider(copy).settle(copy.volume, copy.id)
        if not self.mounts.is_closed(copy.path):
            raise RvssError(Problem.NOT_SEALED, f"the mount {copy.path} is still writable")
        self._reached("seal.settled")
        sealed = self.ledger.change(
            copy,
            "sealed",
            unless=(Phase.DELETING, Phase.GONE),
            phase=Phase.SEALED,
            state=copy.state,
            duration=time.monotonic() - started,
        )
        self._reached("seal.sealed")
        return sealed or replace(copy, phase=Phase.DELETING)

    def drop_writers(self, copy: ShadowCopy) -> None:
        """Have smbd drop every connection to a copy's exposed share.

        Raises:
            RvssError: SAMBA.
        """
        if copy.exposed_share:
            control.close_share(self.config.file, copy.exposed_share)

    def describe_writers(self, copy: ShadowCopy) -> str:
        """Return who still writes to a copy, for a message."""
        holders = self.mounts.holders(copy.path)
        said = [f"{one.command} (pid {one.pid}) {one.path}" for one in holders[:5]]
        return ", ".join(said) or "nobody seen"

    # delete

    def find(self, words: tuple[str, ...]) -> ShadowCopy:
        """Find the copy that a delete callout means.

        Args:
            words: the share's path as the callout got it, and the path that create printed.

        Raises:
            RvssError: BAD_REQUEST, NOT_OURS or NOT_FOUND.
        """
        if len(words) < 2:
            raise RvssError(Problem.BAD_REQUEST, "delete needs a share path and a snapshot path")
        share = find_share(self.config, words[:-1])
        copy = self.ledger.by_path(words[-1])
        if copy is None:
            raise RvssError(
                Problem.NOT_FOUND,
                f"{words[-1]} is not a shadow copy that we made",
                "nothing is done",
            )
        if copy.share_path != share.path:
            raise RvssError(
                Problem.NOT_FOUND,
                f"{copy.path} is a shadow copy of {copy.share_path}, not of {share.path}",
                "nothing is done",
            )
        return copy

    def delete(
        self, copy: ShadowCopy, uid: int = -1, hidden: Callable[[], object] = lambda: None
    ) -> None:
        """Remove a copy: mounts, image, and what Samba leaves behind. Gone already is success.

        Args:
            copy: which one.
            uid: who wants it.
            hidden: called once nobody can reach the copy any more, for certain: what is left is
                to destroy its image.

        Raises:
            RvssError: BUSY, READ_ONLY, STATE, SAMBA or SYSTEM; what could be removed is, and the
                rest is tried again later.
        """
        started = time.monotonic()
        copy = self.ledger.change(
            copy, "delete", unless=(Phase.GONE,), uid=uid, phase=Phase.DELETING
        ) or replace(copy, phase=Phase.GONE)
        if copy.phase is Phase.GONE:
            return
        self._reached("delete.intent")
        # Later callbacks run first, and one that fails does not keep the others from running.
        with ExitStack() as remaining:
            remaining.callback(self._destroy, copy)
            with ExitStack() as hiding:
                for path in _paths(copy):
                    hiding.callback(self.mounts.detach, path)
                # smbd lets go of its connections before the ground under them is taken away.
                hiding.callback(self._forget_share, copy)
            hidden()
        self.ledger.change(
            copy, "gone", uid=uid, phase=Phase.GONE, duration=time.monotonic() - started
        )
        self._reached("delete.gone")

    def _destroy(self, copy: ShadowCopy) -> None:
        self._reached("delete.unmounted")
        self._provider(copy).destroy(copy.volume, copy.id)
        self._reached("delete.destroyed")

    def _forget_share(self, copy: ShadowCopy) -> None:
        if copy.exposed_share:
            self.forget_share(copy.exposed_share)
            self._reached("delete.forgotten")

    # what reconciling needs

    def inventory(self) -> Inventory:
        """List this instance's images on every mounted file system, of every kind."""
        found = [provider.inventory() for provider in self._providers.values()]
        return Inventory(
            file_systems=frozenset[str]().union(*(one.file_systems for one in found)),
            images=tuple(image for one in found for image in one.images),
        )

    def destroy_image(self, image: Image) -> None:
        """Remove an image that no shadow copy accounts for.

        Raises:
            RvssError: as `delete`.
        """
        self._provider_named(image.provider).destroy(image.mark.volume, image.id)

    def adopt(self, image: Image) -> ShadowCopy:
        """Write a lost record anew from an image's mark.

        Raises:
            RvssError: STATE.
        """
        mark = image.mark
        share = next((share for share in self.config.shares if share.name == mark.share), None)
        previous = share is not None and share.previous_versions
        copy = ShadowCopy(
            id=image.id,
            share=mark.share,
            share_path=mark.share_path,
            volume=mark.volume,
            created=mark.created,
            phase=Phase.SEALING if image.read_only else Phase.TAKEN,
            path=self.mounts.exposed_path(mark.share, image.id),
            previous_path=self.mounts.reserve_previous(mark.share, mark.created)
            if previous
            else "",
        )
        self.ledger.add(copy, "adopted", "its record was lost and is made anew from its mark")
        return copy

    def reseal(self, copy: ShadowCopy, reason: str) -> ShadowCopy | None:
        """Record that a copy is to be sealed (again); who follows it seals it."""
        return self.ledger.change(
            copy,
            "to be sealed",
            unless=(Phase.DELETING, Phase.GONE),
            detail=reason,
            phase=Phase.SEALING,
        )

    def forget_share(self, share: str) -> None:
        """Remove an exposed share and its security descriptor.

        Raises:
            RvssError: SAMBA.
        """
        if self._samba.call(registry.remove_shares, self.config.file, (share,)):
            control.reload_config(self.config.file)
        # Samba wants to drop the share's connections itself, but as the client's user it may not
        # send messages (lib/messages_dgm.c, the sockets are root's).
        control.close_share(self.config.file, share)
        self.forget_security(share)

    def forget_security(self, share: str) -> None:
        """Remove a share's security descriptor.

        Raises:
            RvssError: SAMBA.
        """
        directory = self.config.samba_state_directory
        self._samba.call(registry.remove_security, directory, (share,))

    def forget_set(self, set_id: str, state: SetState | None, reason: str) -> None:
        """Remove a set from srv_fss.tdb, if it is still in a state; no rpcd_fsrvp may live.

        Raises:
            RvssError: BUSY or SAMBA.
        """
        wanted = {set_id: state} if state is not None else {}
        config = self.config
        if self._samba.call(
            fss_state.forget_sets, config.fss_state, config.samba_lock_directory, wanted
        ):
            self.ledger.note_set(set_id, "removed from srv_fss.tdb", detail=reason)

    def remount(self, copy: ShadowCopy) -> None:
        """Mount a copy again, read-only, where it is not mounted, unless it is being removed.

        Raises:
            RvssError: NOT_FOUND, BAD_PATH or SYSTEM.
        """
        current = self.ledger.get(copy.id)
        if current is None or current.phase in (Phase.DELETING, Phase.GONE):
            return
        # One that is mounted stays: clients may have files open through it, and a second mount
        # could be sealed without their noticing.
        missing = [path for path in _paths(copy) if not os.path.ismount(path)]
        if copy.path in missing and current.phase is Phase.OPEN:
            # Recorded first: a crash must not leave a closed mount that is said to be open.
            self.ledger.change(copy, "no longer mounted", phase=Phase.TAKEN)
        self._attach(copy, missing)
        self.ledger.note(copy, "mounted again")

    def _provider(self, copy: ShadowCopy) -> Provider:
        return self._provider_named(copy.volume.provider)

    def _provider_named(self, name: str) -> Provider:
        try:
            return self._providers[name]
        except KeyError:
            raise RvssError(Problem.STATE, f"there is no provider {name}") from None


def _sealing_event(copy: ShadowCopy) -> str:
    if copy.phase is Phase.SEALING:
        return "sealing again"
    return "recovered" if copy.state is SetState.RECOVERED else "sealing"


def _paths(copy: ShadowCopy) -> list[str]:
    return [path for path in (copy.path, copy.previous_path) if path]


def _mark(copy: ShadowCopy, share: Share) -> Mark:
    return Mark(
        id=copy.id,
        share=copy.share,
        share_path=copy.share_path,
        volume=copy.volume,
        created=copy.created,
        nested=share.nested,
    )


def _require_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise RvssError(
            Problem.DEADLINE,
            "the shadow copy was not ready within 'rvss:commit deadline' and was undone",
            "see what keeps the file system busy",
        )
