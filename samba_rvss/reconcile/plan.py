"""Planning: from an observation to actions, purely; what is left alone gets its reason too.

The rules are those of the design: what cannot be proven is not touched, and what is unaccounted
for is given time. `Plan.due` says when another look is worth while.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from samba_rvss.model import (
    Context,
    Image,
    Moment,
    Phase,
    SambaCopy,
    SambaSet,
    SetState,
    ShadowCopy,
    Worker,
)
from samba_rvss.reconcile.observation import Observation


class Kind(Enum):
    """What can be done about a finding, in the order in which it is done."""

    UNMOUNT = "unmount"
    DELETE = "delete"
    DESTROY = "destroy image"
    ADOPT = "adopt"
    REMOUNT = "mount again"
    SEAL = "seal"
    UNSHARE = "remove share"
    FORGET_SECURITY = "remove security descriptor"
    FORGET_SET = "remove set"


_UNLISTED = "but the images cannot be listed"
_PATIENCE = 30.0
"""How long a set that is in the way of others is left to who is connected, in seconds."""

_LOOK_AGAIN = 5.0
"""When to see again whether a client that is in the way has gone, in seconds."""

_COMMIT = 60.0
"""How long after its creation a copy's set may have been stored, in seconds."""

_ORDER = {kind: number for number, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do, and why.

    Attributes:
        target: id of a copy, an image or a set, a path, or the name of a share.
        reason: a sentence without a full stop.
        evidence: what was seen that says so.
        copy: the shadow copy as it was seen; when it is no longer so, nothing is done.
        image: the image, where no copy accounts for it.
        believes: if not empty, the states of the set in srv_fss.tdb that the action rests on; None
            is a set that is not there.
        idle: whether it rests on nobody being connected to an rpcd_fsrvp.
    """

    kind: Kind
    target: str
    reason: str
    evidence: tuple[str, ...] = ()
    copy: ShadowCopy | None = None
    image: Image | None = None
    believes: tuple[SetState | None, ...] = ()
    idle: bool = False

    def describe(self) -> str:
        """Return the action as a line for people."""
        return f"{self.kind.value} {self.target}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Something that is left as it is, and why.

    Attributes:
        due: in how many seconds it may be otherwise, if nothing happens.
        wrong: whether it is not as it should be, but nothing can or may be done about it.
    """

    target: str
    reason: str
    due: float | None = None
    wrong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, what to leave, and what is unaccounted for since when."""

    actions: tuple[Action, ...]
    kept: tuple[Kept, ...]
    findings: dict[str, Moment]
    problems: tuple[str, ...] = ()

    @property
    def due(self) -> float | None:
        """In how many seconds to look again, or None if only an event can change anything."""
        return min((one.due for one in self.kept if one.due is not None), default=None)


def plan(seen: Observation) -> Plan:
    """Decide what brings everything back into one state.

    Args:
        seen: an observation; what bears no mark of ours is not in it, or is left alone.
    """
    return _Planner(seen).plan()


class _Planner:
    """One planning: the observation, arranged for looking things up, and what is found."""

    def __init__(self, seen: Observation) -> None:
        self._seen = seen
        self._options = seen.options
        images = seen.inventory.images if seen.inventory else ()
        self._images = {image.id: image for image in images}
        self._listed = seen.inventory.file_systems if seen.inventory else frozenset()
        self._sets = {one.id: one for one in seen.samba.sets} if seen.samba else {}
        self._known = {copy.path: copy for copy in seen.samba.copies} if seen.samba else {}
        self._by_path = {path: share for share, path in (seen.shares or {}).items()}
        self._actions: list[Action] = []
        self._kept: list[Kept] = []
        self._findings: dict[str, Moment] = {}
        self._leaving: set[str] = set()
        self._adopted: set[str] = set()

    def plan(self) -> Plan:
        for copy in self._seen.copies:
            self._judge(copy)
        self._judge_images()
        self._judge_mounts()
        self._judge_shares()
        self._judge_descriptors()
        self._judge_sets()
        self._actions.sort(key=lambda action: _ORDER[action.kind])
        return Plan(
            actions=tuple(self._actions),
            kept=tuple(self._kept),
            findings=self._findings,
            problems=self._seen.problems,
        )

    # what comes of it

    def _act(
        self,
        kind: Kind,
        copy: ShadowCopy,
        reason: str,
        *evidence: str,
        believes: tuple[SetState | None, ...] = (),
    ) -> None:
        self._actions.append(
            Action(
                kind=kind,
                target=copy.id,
                reason=reason,
                evidence=evidence,
                copy=copy,
                believes=believes,
            )
        )
        if kind is Kind.DELETE:
            self._leaving.add(copy.path)

    def _expire(self, copy: ShadowCopy, reason: str, *evidence: str) -> None:
        """Remove a whole copy, because of what srv_fss.tdb says of it or does not say."""
        known = self._known.get(copy.path)
        state = known.state if known else None
        self._act(Kind.DELETE, copy, reason, *evidence, believes=(state,))

    def _keep(
        self, target: str, reason: str, due: float | None = None, *, wrong: bool = False
    ) -> None:
        due = None if due is None else max(due, 0.0)
        self._kept.append(Kept(target=target, reason=reason, due=due, wrong=wrong))

    def _unaccounted(
        self,
        name: str,
        target: str,
        reason: str,
        act: Callable[[], None],
        due: float = math.inf,
    ) -> None:
        """Act on something if it has been unaccounted for through the grace period.

        Args:
            name: by which it is found again.
            target: what it is called in the plan.
            reason: why it is unaccounted for.
            act: what to do then.
            due: seconds until something else is to be done about it.
        """
        since = self._found(name)
        left = self._options.grace - (self._seen.present.seconds - since.seconds)
        if left <= 0:
            act()
        else:
            self._keep(target, f"{reason}; it has {left:.0f} s left", min(left, due))

    def _found(self, name: str) -> Moment:
        """Note that something is unaccounted for, and return since when it has been."""
        since = self._seen.findings.get(name)
        if since is None or since.boot != self._seen.present.boot:
            since = self._seen.present
        self._findings[name] = since
        return since

    def _elapsed(self, copy: ShadowCopy) -> float:
        """Return for how long a copy has been as it is, in seconds of this start."""
        present = self._seen.present
        start = copy.since.seconds if copy.since.boot == present.boot else 0.0
        return present.seconds - start

    def _of_before(self, copy: ShadowCopy) -> bool:
        """Return whether a copy came to be as it is before the machine was started."""
        return copy.since.boot not in ("", self._seen.present.boot)

    # shadow copies

    def _judge(self, copy: ShadowCopy) -> None:
        seen = self._seen
        image = self._images.pop(copy.id, None)
        listed = copy.volume.file_system in self._listed
        if copy.id in seen.changing:
            self._keep(copy.id, "something is being done with it", self._options.grace)
        elif copy.phase is Phase.CREATING:
            self._judge_creating(copy)
        elif copy.phase is Phase.DELETING:
            self._act(Kind.DELETE, copy, "its deletion was cut off")
        elif seen.inventory is None:
            self._keep(copy.id, "the images cannot be listed", wrong=True)
        elif image is None and not listed:
            reason = f"its file system is not there ({copy.volume.file_system})"
            self._keep(copy.id, reason, wrong=True)
        elif image is None:
            self._act(Kind.DELETE, copy, "its image does not exist any more")
        elif not image.complete:
            self._act(Kind.DELETE, copy, "its image is not complete")
        else:
            self._judge_whole(copy, image)

    def _judge_creating(self, copy: ShadowCopy) -> None:
        left = self._options.commit_deadline - self._elapsed(copy)
        if self._seen.starting or left <= 0 or self._of_before(copy):
            self._act(Kind.DELETE, copy, "its creation was cut off")
        else:
            self._keep(copy.id, "it is being created", left)

    def _judge_whole(self, copy: ShadowCopy, image: Image) -> None:
        known = self._known.get(copy.path)
        if self._seen.samba is None:
            self._keep(copy.id, "srv_fss.tdb cannot be read", wrong=True)
        elif known is None and copy.id in self._seen.unproven:
            self._keep(copy.id, "srv_fss.tdb is to be read once more", self._options.grace)
        elif known is None:
            self._judge_unknown(copy)
        elif known.state is SetState.RECOVERED:
            self._judge_recovered(copy, known)
        else:
            self._judge_unrecovered(copy, known)
        if copy.path in self._leaving:
            return
        paths = {path for path in (copy.path, copy.previous_path) if path}
        if self._seen.mounts is not None and not paths <= self._seen.mounts:
            self._act(Kind.REMOUNT, copy, "it is not mounted")
        if copy.phase is Phase.SEALED and not image.read_only:
            self._act(Kind.SEAL, copy, "it was sealed, and its image is writable")

    def _judge_unrecovered(self, copy: ShadowCopy, known: SambaCopy) -> None:
        """Judge a copy whose set srv_fss.tdb shows committed or exposed, or before."""
        exposed = known.state is SetState.EXPOSED
        timer = self._options.recovery_timeout
        if not exposed:
            # MS-FSRVP gives a client 180 s after Commit to expose what it has.
            timer = min(timer, self._options.grace)
        # Its time counts from when the daemon learned that state: what is news is of just now.
        left = timer - (self._elapsed(copy) if copy.state is known.state else 0.0)
        state = f"its set {known.set_id} is {known.state.name.lower()}"
        if self._of_before(copy):
            self._expire(copy, "the machine was started before its recovery was", state)
        elif left <= 0:
            reason = f"its client has been silent for {timer:g} s before RecoveryComplete"
            self._expire(copy, reason, state)
        elif exposed and self._share_is_gone(copy):
            self._lose_share(copy, left)
        else:
            self._keep(copy.id, f"{state}; its timer has {left:.0f} s left", left)

    def _judge_recovered(self, copy: ShadowCopy, known: SambaCopy) -> None:
        if self._of_before(copy) and not self._is_recovered(copy):
            # Only sealing brings what recovery wrote to the disk for certain.
            self._expire(copy, "the machine was started before it was sealed")
        elif copy.phase is Phase.SEALING:
            self._act(Kind.SEAL, copy, "its sealing was cut off")
        elif copy.phase is not Phase.SEALED:
            self._act(Kind.SEAL, copy, "its recovery is complete")
        elif self._share_is_gone(copy):
            self._lose_share(copy)
        else:
            self._judge_age(copy, known.context, f"its set {known.set_id} is recovered")

    def _judge_unknown(self, copy: ShadowCopy) -> None:
        """Judge a copy that srv_fss.tdb does not have: after a reboot, or for no good reason."""
        registered = copy.path in self._by_path
        if copy.phase is Phase.SEALED and (registered or self._seen.shares is None):
            self._judge_served(copy)
        elif self._of_before(copy) and not self._is_recovered(copy):
            self._expire(copy, "the machine was started before its recovery was complete")
        elif copy.phase is Phase.SEALED:
            self._unaccounted(
                f"copy {copy.id}",
                copy.id,
                "neither srv_fss.tdb nor a share has it",
                lambda: self._expire(copy, "neither srv_fss.tdb nor a share has it"),
            )
        elif copy.phase is Phase.SEALING and self._is_released(copy):
            self._release(copy)
        elif copy.phase is Phase.SEALING:
            self._act(Kind.SEAL, copy, "its sealing was cut off")
        else:
            self._judge_silent(copy)

    def _is_recovered(self, copy: ShadowCopy) -> bool:
        """Return whether our own record says that a recovery was complete, or adopted it so.

        It does as soon as all of it is on disk (`Lifecycle.write_out`).
        """
        if copy.phase is Phase.SEALING:
            return copy.state is SetState.RECOVERED or not copy.set_id
        return copy.phase is Phase.SEALED

    def _is_released(self, copy: ShadowCopy) -> bool:
        """Return whether a copy was not to outlive the start of the machine that it is of."""
        persistent = bool(copy.context & Context.PERSISTENT)
        return self._of_before(copy) and bool(copy.set_id) and not persistent

    def _release(self, copy: ShadowCopy) -> None:
        reason = "the machine was started anew, and its context is not persistent"
        self._expire(copy, reason, f"context {copy.context:#x}")

    def _judge_silent(self, copy: ShadowCopy) -> None:
        """Judge a copy that is taken or open, and that no set has."""
        if copy.copy_id and self._seen.workers != ():
            # A worker may have its set in memory, erased from the file by another one.
            timer, reason = self._options.recovery_timeout, "srv_fss.tdb has lost its set"
        else:
            timer, reason = self._options.grace, "its Commit failed or was cut off"
        elapsed = self._elapsed(copy)
        # The first share of a large set waits for the last one: while clients do something, or
        # may, it can still be its turn; but no Commit takes as long as a client may be silent.
        waited = min(elapsed, self._seen.quiet or 0.0)
        longest = max(timer, self._options.recovery_timeout)
        left = min(timer - waited, longest - elapsed)
        if left <= 0:
            self._expire(copy, reason, f"for {timer:g} s")
        else:
            self._keep(copy.id, f"{reason}, perhaps; it has {left:.0f} s left", left)

    def _judge_served(self, copy: ShadowCopy) -> None:
        """Judge a sealed copy whose set Samba has forgotten, but whose share still works."""
        if not self._of_before(copy):
            self._judge_age(copy, copy.context, "its share still works")
        elif not copy.set_id:
            self._keep(copy.id, "its context is not known any more", wrong=True)
        elif copy.state in (SetState.COMMITTED, SetState.EXPOSED):
            # Sealed at once, because nobody may write to it; but nobody has said that it is good.
            self._expire(copy, "the machine was started before its recovery was complete")
        elif self._is_released(copy):
            self._release(copy)
        else:
            self._judge_age(copy, copy.context, "its context is persistent")

    def _judge_age(self, copy: ShadowCopy, context: int, why: str) -> None:
        if context & Context.NO_AUTO_RELEASE or not copy.set_id:
            self._keep(copy.id, f"{why}, and lives until it is deleted")
            return
        age = (self._seen.wall - copy.created).total_seconds()
        if not self._of_before(copy):
            age = min(age, self._elapsed(copy))  # the clock may have been set
        left = self._options.maximum_age - age
        connected = self._seen.connected
        if left > 0:
            self._keep(copy.id, f"{why}; it has {left:.0f} s left", left)
        elif connected is None:
            reason = f"{why}; it is too old, but who is connected cannot be told"
            self._keep(copy.id, reason, self._options.grace, wrong=True)
        elif copy.exposed_share.lower() in {share.lower() for share in connected}:
            reason = f"{why}; it is too old, but somebody is connected"
            self._keep(copy.id, reason, self._options.grace)
        else:
            reason = f"it is older than {self._options.maximum_age:g} s"
            self._expire(copy, reason, why, "nobody is connected to its share")

    def _share_is_gone(self, copy: ShadowCopy) -> bool:
        return self._seen.shares is not None and copy.path not in self._by_path

    def _lose_share(self, copy: ShadowCopy, due: float = math.inf) -> None:
        reason = "its exposed share was removed"
        self._unaccounted(
            f"copy {copy.id}", copy.id, reason, lambda: self._expire(copy, reason), due
        )

    # what belongs to no shadow copy

    def _may_exist(self, path: str) -> bool:
        """Return whether a path may be that of an image that cannot be listed now."""
        if self._seen.inventory is not None:
            return False
        known = any(path == copy.path for copy in self._seen.copies)
        return not known and _image_of(path) not in self._seen.gone

    def _judge_images(self) -> None:
        for image in self._images.values():
            if image.id not in self._seen.changing:
                self._judge_image(image)

    def _judge_image(self, image: Image) -> None:
        def destroy(reason: str) -> None:
            self._actions.append(
                Action(kind=Kind.DESTROY, target=image.id, reason=reason, image=image)
            )

        if image.id in self._seen.gone:
            destroy("it was deleted and came back with a crash of the machine")
        elif image.complete:
            reason = "the ledger does not know it"
            self._actions.append(
                Action(kind=Kind.ADOPT, target=image.id, reason=reason, image=image)
            )
            self._adopted.add(image.id)
        elif self._seen.starting:
            destroy("its creation was cut off")
        else:
            reason = "its creation was cut off"
            self._unaccounted(f"image {image.id}", image.id, reason, lambda: destroy(reason))

    def _judge_mounts(self) -> None:
        """Judge mounts and directories. One is named after its image: an adopted one keeps its."""
        seen = self._seen
        accounted = {path for copy in seen.copies for path in (copy.path, copy.previous_path)}
        for path in sorted((seen.mounts or frozenset()) | (seen.directories or frozenset())):
            if path in accounted or _image_of(path) in self._adopted:
                continue
            reason = "no shadow copy belongs to it"
            action = Action(kind=Kind.UNMOUNT, target=path, reason=reason)
            if self._may_exist(path):
                self._keep(path, f"{reason}, {_UNLISTED}", wrong=True)
            elif seen.starting:
                self._actions.append(action)
            else:
                self._unaccounted(f"mount {path}", path, reason, _adder(self._actions, action))

    def _judge_shares(self) -> None:
        paths = {copy.path for copy in self._seen.copies}
        for share, path in sorted((self._seen.shares or {}).items()):
            ours = path.startswith(self._seen.exposed_directory)
            if not ours or path in paths or _image_of(path) in self._adopted:
                continue
            reason = "its shadow copy does not exist"
            if self._may_exist(path):
                self._keep(share, f"{reason}, {_UNLISTED}", wrong=True)
                continue
            action = Action(kind=Kind.UNSHARE, target=share, reason=reason, evidence=(path,))
            self._unaccounted(f"share {share}", share, reason, _adder(self._actions, action))

    def _judge_descriptors(self) -> None:
        """Judge security descriptors; only a share that the ledger had makes one ours."""
        if self._seen.shares is None:
            return
        present = {share.lower() for share in self._seen.shares}
        present |= {copy.exposed_share.lower() for copy in self._seen.copies}
        for share in sorted((self._seen.descriptors or frozenset()) - present):
            if share not in self._seen.history:
                continue
            reason = "its share does not exist"
            action = Action(kind=Kind.FORGET_SECURITY, target=share, reason=reason)
            self._unaccounted(f"security {share}", share, reason, _adder(self._actions, action))

    # Samba's sets

    def _judge_sets(self) -> None:
        if self._seen.samba is None:
            return
        alive = {copy.path for copy in self._seen.copies} - self._leaving
        members: dict[str, list[SambaCopy]] = {}
        for copy in self._seen.samba.copies:
            members.setdefault(copy.set_id, []).append(copy)
        for one in self._sets.values():
            copies = members.get(one.id, [])
            paths = [copy.path for copy in copies if copy.path]
            if not self._is_ours(one, copies):
                if one.state is not SetState.RECOVERED:
                    reason = f"it is {one.state.name.lower()} and not of our shares alone"
                    self._keep(one.id, reason, wrong=True)
            elif alive.isdisjoint(paths) and self._adopted.isdisjoint(map(_image_of, paths)):
                self._judge_set(one, copies)

    def _is_ours(self, one: SambaSet, members: list[SambaCopy]) -> bool:
        """Return whether a set is of our shares alone.

        One that was not committed yet is in the file because another one's step wrote it along.
        Its copies have no path, or it has no copies: then nothing of anybody is behind it.
        """
        if not members:
            return one.state < SetState.COMMITTED
        return all(
            copy.path.startswith(self._seen.exposed_directory)
            if copy.path
            else copy.share_path in self._seen.share_paths
            for copy in members
        )

    def _judge_set(self, one: SambaSet, members: list[SambaCopy]) -> None:
        """Judge a set none of whose copies will be left; a worker must not have it in memory."""
        paths = [copy.path for copy in members if copy.path]
        expired = bool(paths) and all(
            path in self._leaving or _image_of(path) in self._seen.gone for path in paths
        )
        workers, quiet = self._seen.workers, self._seen.quiet
        reason = "no shadow copy of it is left"
        since = self._found(f"set {one.id}")
        waited = self._seen.present.seconds - since.seconds
        # Before Expose it keeps every other set from being begun.
        blocking = one.state not in (SetState.EXPOSED, SetState.RECOVERED)
        # A committed one is dead without its copies; one before that may only wait for them.
        dead = one.state is SetState.COMMITTED
        patience = min(self._options.grace, _PATIENCE) if dead else self._options.grace
        begun = self._seen.starting and (dead or not workers)
        grace = 0.0 if expired or begun else patience
        if any(self._may_exist(copy.path) for copy in members):
            self._keep(one.id, f"{reason}, {_UNLISTED}", wrong=True)
            return
        if workers is None:
            self._keep(one.id, "whether a worker has it in memory cannot be told", wrong=True)
            return
        busy = [worker for worker in workers if worker.clients != 0]
        timeout = self._options.recovery_timeout
        if not busy:
            left, evidence = grace - waited, "nobody is connected to an rpcd_fsrvp"
        elif quiet is not None and quiet >= timeout:
            left = grace - waited
            evidence = f"clients of its worker have been silent for {quiet:.0f} s"
        else:
            reason = f"{reason}, but a client is connected to its worker"
            left, evidence = timeout - (quiet or 0.0), "nobody got past it"
            if blocking:
                # Those who ask again and again are neither gone nor silent. A worker that read
                # it from the file has it in memory: no other set can be in progress there.
                read = all(self._has_read(worker, since, members) for worker in busy)
                left = (patience if read else timeout) - waited
        if left > 0:
            due = min(left, _LOOK_AGAIN) if busy and blocking else left
            self._keep(one.id, f"{reason}; it has {left:.0f} s left", due)
            return
        self._actions.append(
            Action(
                kind=Kind.FORGET_SET,
                target=one.id,
                reason="no shadow copy of it is left",
                evidence=(f"the set is {one.state.name.lower()}", evidence),
                believes=(one.state,),
                idle=not busy,
            )
        )

    def _has_read(self, worker: Worker, since: Moment, members: list[SambaCopy]) -> bool:
        """Return whether a worker was started when a set was in the file already."""
        if worker.started > since.seconds:
            return True
        wall = self._seen.wall
        ages = [(wall - copy.created).total_seconds() for copy in members if copy.path]
        # Samba keeps whole seconds, and it stores the set after the time that it notes.
        return bool(ages) and worker.started > self._seen.present.seconds - min(ages) + _COMMIT


def _image_of(path: str) -> str:
    """Return the id of the image that a recovery mount is of: it is named after it."""
    return path.rpartition("/")[2]


def _adder(actions: list[Action], action: Action) -> Callable[[], None]:
    return lambda: actions.append(action)
