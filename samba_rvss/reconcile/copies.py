"""Judging shadow copies: which are deleted, mounted again or sealed, and which live for how long.

A copy that was taken is judged only if its image and srv_fss.tdb can be seen. What the file says of
its set counts more than its record; if the file says nothing, as after a boot, the record and the
share in Samba's registry count. No record counts more than its image: a mark that says sealed
amends it, and a read-only image without that is left alone. A copy that was adopted is never
deleted here.
"""

import math

from samba_rvss.copies import keep
from samba_rvss.copies.seal import is_recovered
from samba_rvss.model import Context, Foreign, Image, Phase, SambaCopy, SetState, ShadowCopy
from samba_rvss.reconcile import backups, evidence
from samba_rvss.reconcile.decision import (
    Amend,
    Attest,
    Clear,
    Delete,
    Keep,
    MountAgain,
    Seal,
    TakeOver,
)
from samba_rvss.reconcile.draft import Draft
from samba_rvss.reconcile.observation import Observation
from samba_rvss.samba.parser import exposed_copy

_HELP = "see whether it is whole, and 'samba-rvss delete' it if it is not wanted"


def judge(seen: Observation, draft: Draft) -> None:
    """Judge every copy in the ledger that is not gone."""
    judging = _Judging(seen, draft)
    for copy in seen.copies:
        judging.judge(copy)


class _Judging:
    """Judges one copy after another, with the observation indexed by ids and paths."""

    def __init__(self, seen: Observation, draft: Draft) -> None:
        self._seen = seen
        self._draft = draft
        self._options = seen.options
        images = seen.inventory.images if seen.inventory else ()
        self._images: dict[str, list[Image]] = {}
        for image in images:
            self._images.setdefault(image.id, []).append(image)
        self._listed = seen.inventory.file_systems if seen.inventory else frozenset()
        self._foreign: dict[str, Foreign] = {}
        for foreign in seen.inventory.foreign if seen.inventory else ():
            self._foreign[foreign.mark.id if foreign.mark else foreign.id] = foreign
        self._known = {copy.path: copy for copy in seen.samba.copies} if seen.samba else {}
        self._registered = frozenset((seen.shares or {}).values())

    def judge(self, copy: ShadowCopy) -> None:
        seen = self._seen
        if copy.id in seen.changing:
            self._draft.leave(copy.id, "something is being done with it", self._options.grace)
            return
        image, foreign = self._image_of(copy), self._foreign.get(copy.id)
        if image is None and foreign is not None:
            reason = f"its image is not ours any more: {foreign.whose.value}, at {foreign.where}"
            self._draft.leave(copy.id, f"{reason} on {foreign.file_system}", wrong=True)
            return
        doubt = evidence.doubt(seen, copy, image)
        if doubt:
            self._draft.leave(copy.id, doubt, wrong=True)
            return
        copy = self._amended(copy, image)
        if copy.phase is Phase.KEPT and image is not None:
            self._draft.ended.add(copy.path)
            backups.judge_present(seen, self._draft, copy, image)
            return
        attested = evidence.attested(copy, image)
        if image is not None and image.former:
            reason = "the ledger has it, and its mark says nothing but our run directory"
            self._draft.act(TakeOver(image=attested or image, reason=reason))
        elif attested is not None:
            reason = "Samba has said that its recovery is complete since it was sealed"
            self._draft.act(Attest(image=attested, reason=reason))
        listed = copy.volume.file_system in self._listed
        if seen.inventory is None:
            self._draft.leave(copy.id, "the images cannot be listed", wrong=True)
        elif copy.phase is Phase.DELETING:
            self._delete(copy, "its deletion was cut off")
        elif image is None and not listed:
            file_system = copy.volume.file_system
            reason = f"its file system is not there ({file_system})"
            if file_system in seen.inventory.unlisted:
                why = seen.inventory.unlisted[file_system]
                reason = f"its file system cannot be listed ({file_system}): {why}"
            self._draft.leave(copy.id, reason, wrong=True)
        elif image is not None and image.empty and copy.phase is not Phase.CREATING:
            self._delete(copy, "its image does not exist any more")
        elif image is not None and not image.complete and (copy.adopted or image.mark.sealed):
            self._draft.leave(copy.id, "a part of its image is missing", wrong=True)
        elif copy.phase is Phase.CREATING:
            self._judge_creating(copy)
        elif image is None and copy.volume.file_system in seen.inventory.homeless:
            reason = "there is no home of images on its file system: was it renamed or deleted?"
            self._draft.leave(copy.id, reason, wrong=True)
        elif image is None:
            reason = "its image does not exist any more"
            self._draft.act(Delete(copy=copy, reason=reason, lost=True))
        elif not image.complete:
            self._delete(copy, "its image is not complete")
        else:
            self._judge_whole(copy, image)

    def _image_of(self, copy: ShadowCopy) -> Image | None:
        """Return the image of a copy: of those that have its id, that of its volume."""
        found = self._images.get(copy.id, [])
        if len(found) > 1 and self._seen.inventory is not None:
            present = self._seen.inventory.present
            found = sorted(
                found, key=lambda i: present(i.mark.volume).key != present(copy.volume).key
            )
            for twin in found[1:]:
                reason = f"another image has its id, of the volume {twin.mark.volume.key}"
                self._draft.leave(copy.id, f"{reason}: see who made it", wrong=True)
        return found[0] if found else None

    def _amended(self, copy: ShadowCopy, image: Image | None) -> ShadowCopy:
        """Return the record as its image's mark wants it, and have it amended if it is not so."""
        amended, reason = evidence.amended(self._seen, copy, image)
        if amended != copy:
            self._draft.act(Amend(copy=copy, amended=amended, reason=reason))
        return amended

    def _judge_creating(self, copy: ShadowCopy) -> None:
        left = self._options.commit_deadline - self._elapsed(copy)
        if self._seen.starting or left <= 0 or self._of_before(copy):
            self._delete(copy, "its creation was cut off")
        else:
            self._draft.leave(copy.id, "it is being created", left)

    def _judge_whole(self, copy: ShadowCopy, image: Image) -> None:
        known = self._known.get(copy.path)
        if keep.is_due(copy) and not image.read_only:
            pass  # it is sealed again, below, and judged then
        elif self._seen.samba is None:
            self._draft.leave(copy.id, "srv_fss.tdb cannot be read", wrong=True)
        elif known is None and copy.id in self._seen.unproven:
            reason = "srv_fss.tdb is to be read once more"
            self._draft.leave(copy.id, reason, self._options.grace)
        elif copy.adopted:
            self._judge_adopted(copy, image, known)
        elif self._is_evidence(copy, image, known):
            reason = "its image is read-only, though its record says that recovery is not complete"
            self._draft.leave(copy.id, f"{reason}; {_HELP}", wrong=True)
        elif known is None:
            self._judge_unknown(copy)
        elif known.state is SetState.RECOVERED:
            self._judge_recovered(copy, known)
        else:
            self._judge_unrecovered(copy, known)
        if copy.path in self._draft.leaving:
            return
        if self._seen.mounts is not None and not self._seen.mounts.issuperset(copy.paths):
            self._draft.act(MountAgain(copy=copy, reason="it is not mounted"))
        elif self._is_closed_too_early(copy, known):
            reason = "it is to be open for recovery, and somebody has closed it"
            self._draft.act(MountAgain(copy=copy, reason=reason))
        if copy.phase is Phase.SEALED and not image.read_only:
            self._seal(copy, "it was sealed, and its image is writable")
        elif copy.phase is Phase.SEALED and image.mark.sealed and image.remnants:
            reason = "what recovery wrote to is no part of the sealed image, and still there"
            self._draft.act(Clear(copy=copy, reason=reason))

    def _is_closed_too_early(self, copy: ShadowCopy, known: SambaCopy | None) -> bool:
        """Return whether the writable layer of a copy was taken away, which is being recovered."""
        due = known is not None and known.state in (SetState.COMMITTED, SetState.EXPOSED)
        opened = self._seen.opened
        return due and copy.phase is Phase.OPEN and opened is not None and copy.path not in opened

    def _is_evidence(self, copy: ShadowCopy, image: Image, known: SambaCopy | None) -> bool:
        """Return whether an image, read-only and with no word that it is sealed, forbids deletion.

        That nothing of a recovery is missing in it cannot be told, nor that it is incomplete.
        """
        if copy.phase is Phase.SEALED or not image.read_only or image.mark.sealed:
            return False
        if self._of_before(copy):
            return not is_recovered(copy)
        return known is None and copy.phase is not Phase.SEALING

    # copies whose record was made anew from the image's mark

    def _judge_adopted(self, copy: ShadowCopy, image: Image, known: SambaCopy | None) -> None:
        """Judge an adopted copy: an administrator or Samba may have it deleted, and no timer.

        What Samba says of one that is not sealed is that its set is still to be recovered: then it
        ends as any such set does, or it would block all others.
        """
        mine = "it was adopted, and lives until it is deleted"
        if copy.phase is Phase.SEALED:
            lost = bool(known) and self._share_is_gone(copy)
            reason = f"its exposed share was removed; {mine}" if lost else mine
            self._draft.leave(copy.id, reason, wrong=lost)
        elif copy.phase is Phase.SEALING and (not self._of_before(copy) or is_recovered(copy)):
            self._seal(copy, "its sealing was cut off")
        elif known is None:
            reason = "it was adopted and is not sealed, and no set of Samba's has it"
            self._draft.leave(copy.id, f"{reason}: it stays closed; {_HELP}", wrong=True)
        elif known.state is SetState.RECOVERED and not self._of_before(copy):
            self._seal(copy, "its recovery is complete")
        elif known.state is not SetState.RECOVERED and not image.read_only:
            self._judge_unrecovered(copy, known)
        else:
            reason = f"its set {known.set_id} is {known.state.name.lower()}; {mine}; {_HELP}"
            self._draft.leave(copy.id, reason, wrong=True)

    # copies of a set in srv_fss.tdb

    def _judge_unrecovered(self, copy: ShadowCopy, known: SambaCopy) -> None:
        """Judge a copy whose set in srv_fss.tdb is not recovered yet."""
        exposed = known.state is SetState.EXPOSED
        timer = self._options.recovery_timeout
        if not exposed:
            # MS-FSRVP gives a client 180 s after Commit to expose what it has.
            timer = min(timer, self._options.grace)
        # Its time counts from when the ledger got that state; if it has not yet, from now.
        left = timer - (self._elapsed(copy) if copy.state is known.state else 0.0)
        state = f"its set {known.set_id} is {known.state.name.lower()}"
        if self._of_before(copy):
            self._expire(copy, "the machine was started before its recovery was", state)
        elif not exposed and known.set_id in self._seen.abandoned:
            self._expire(copy, "its client has gone, and others are refused", state)
        elif left <= 0:
            reason = f"its client has been silent for {timer:g} s before RecoveryComplete"
            self._expire(copy, reason, state)
        elif exposed and self._share_is_gone(copy):
            self._lose_share(copy, left)
        else:
            self._draft.leave(copy.id, f"{state}; its timer has {left:.0f} s left", left)

    def _judge_recovered(self, copy: ShadowCopy, known: SambaCopy) -> None:
        if self._of_before(copy) and not is_recovered(copy):
            # Only sealing brings what recovery wrote to the disk for certain.
            self._expire(copy, "the machine was started before it was sealed")
        elif copy.phase is Phase.SEALING:
            self._seal(copy, "its sealing was cut off")
        elif copy.phase is not Phase.SEALED:
            self._seal(copy, "its recovery is complete")
        elif self._share_is_gone(copy):
            self._lose_share(copy)
        else:
            self._judge_age(copy, known.context, f"its set {known.set_id} is recovered")

    # copies of no set in srv_fss.tdb

    def _judge_unknown(self, copy: ShadowCopy) -> None:
        """Judge a copy that srv_fss.tdb does not have, be it after a reboot or a fault."""
        registered = copy.path in self._registered
        if copy.phase is Phase.SEALED and (registered or self._seen.shares is None):
            self._judge_served(copy)
        elif self._of_before(copy) and not is_recovered(copy):
            self._expire(copy, "the machine was started before its recovery was complete")
        elif copy.phase is Phase.SEALED:
            self._expire_in_time(copy, "neither srv_fss.tdb nor a share has it")
        elif copy.phase is Phase.SEALING and self._is_released(copy) and not keep.is_wanted(copy):
            self._release(copy)
        elif copy.phase is Phase.SEALING:
            self._seal(copy, "its sealing was cut off")
        else:
            self._judge_silent(copy)

    def _judge_silent(self, copy: ShadowCopy) -> None:
        """Judge a copy that is taken or open, but in no set."""
        if copy.copy_id and self._seen.workers != ():
            # A worker may have its set in memory, although another worker erased it from the file.
            timer, reason = self._options.recovery_timeout, "srv_fss.tdb has lost its set"
        else:
            timer, reason = self._options.grace, "its Commit failed or was cut off"
        elapsed = self._elapsed(copy)
        # In the Commit of a large set the first copy waits for the last. So time counts only while
        # no client does anything, and not at all if that is not known; but no Commit takes longer
        # than a client may be silent.
        waited = min(elapsed, self._seen.quiet or 0.0)
        longest = max(timer, self._options.recovery_timeout)
        left = min(timer - waited, longest - elapsed)
        if left <= 0:
            self._expire(copy, reason, f"for {timer:g} s")
        else:
            self._draft.leave(copy.id, f"{reason}, perhaps; it has {left:.0f} s left", left)

    def _judge_served(self, copy: ShadowCopy) -> None:
        """Judge a sealed copy that is in no set any more, but whose exposed share still works."""
        if not self._of_before(copy):
            self._judge_age(copy, copy.context, "its share still works")
        elif self._seen.shares is None:
            self._draft.leave(copy.id, "whether its share works cannot be told", wrong=True)
        elif not copy.set_id:
            self._draft.leave(copy.id, "its context is not known any more", wrong=True)
        elif copy.state in (SetState.COMMITTED, SetState.EXPOSED):
            # Without AUTO_RECOVERY it was sealed at once; but RecoveryComplete never came.
            self._expire(copy, "the machine was started before its recovery was complete")
        elif self._is_released(copy):
            self._release(copy)
        else:
            self._judge_age(copy, copy.context, "its context is persistent")

    def _release(self, copy: ShadowCopy) -> None:
        reason = "the machine was started anew, and its context is not persistent"
        self._expire(copy, reason, f"context {copy.context:#x}")

    # copies whose recovery is complete

    def _judge_age(self, copy: ShadowCopy, context: int, why: str) -> None:
        if context & Context.NO_AUTO_RELEASE or not copy.set_id:
            self._draft.leave(copy.id, f"{why}, and lives until it is deleted")
            return
        age = (self._seen.wall - copy.created).total_seconds()
        if not self._of_before(copy):
            age = min(age, self._elapsed(copy))  # the clock may have been set
        left = self._options.maximum_age - age
        connected = self._seen.connected
        if left > 0:
            self._draft.leave(copy.id, f"{why}; it has {left:.0f} s left", left)
        elif connected is None:
            reason = f"{why}; it is too old, but who is connected cannot be told"
            self._draft.leave(copy.id, reason, self._options.grace, wrong=True)
        elif exposed_copy(copy.exposed_share) in map(exposed_copy, connected):
            reason = f"{why}; it is too old, but somebody is connected"
            self._draft.leave(copy.id, reason, self._options.grace)
        else:
            reason = f"it is older than {self._options.maximum_age:g} s"
            self._expire(copy, reason, why, "nobody is connected to its share")

    # what is decided

    def _delete(self, copy: ShadowCopy, reason: str) -> None:
        """Delete a copy, because of what its record or its image says."""
        self._draft.act(Delete(copy=copy, reason=reason))

    def _seal(self, copy: ShadowCopy, reason: str) -> None:
        self._draft.act(Seal(copy=copy, reason=reason, known=self._known.get(copy.path)))

    def _expire(self, copy: ShadowCopy, reason: str, *evidence: str) -> None:
        """Delete a copy whose image is whole, because of what srv_fss.tdb says or does not say."""
        self._draft.act(self._expiry(copy, reason, *evidence))

    def _expire_in_time(self, copy: ShadowCopy, reason: str, due: float = math.inf) -> None:
        """Delete a copy whose image is whole, unless what it lacks comes back in time."""
        self._draft.give_time(f"copy {copy.id}", self._expiry(copy, reason), due)

    def _expiry(self, copy: ShadowCopy, reason: str, *evidence: str) -> Delete:
        known = self._known.get(copy.path)
        believed = known.state if known else None
        kind = Keep if keep.is_due(copy) else Delete
        return kind(copy=copy, reason=reason, evidence=evidence, believes=(believed,))

    def _lose_share(self, copy: ShadowCopy, due: float = math.inf) -> None:
        self._expire_in_time(copy, "its exposed share was removed", due)

    # facts that decisions rest on

    def _share_is_gone(self, copy: ShadowCopy) -> bool:
        return self._seen.shares is not None and copy.path not in self._registered

    def _is_released(self, copy: ShadowCopy) -> bool:
        """Return whether a copy has outlived its boot, though its context is not persistent."""
        persistent = bool(copy.context & Context.PERSISTENT)
        return self._of_before(copy) and bool(copy.set_id) and not persistent

    def _elapsed(self, copy: ShadowCopy) -> float:
        """Return for how long a copy has had its phase and state, in seconds of this boot."""
        present = self._seen.present
        start = copy.since.seconds if copy.since.boot == present.boot else 0.0
        return present.seconds - start

    def _of_before(self, copy: ShadowCopy) -> bool:
        """Return whether a copy got its phase and state before this boot."""
        return copy.since.boot not in ("", self._seen.present.boot)
