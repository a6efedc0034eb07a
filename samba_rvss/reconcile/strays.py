"""Judging what belongs to no shadow copy: mounts, exposed shares and their descriptors.

What is named after an image that stays, stays. All else is removed after the grace period; mounts
at once if no request can be under way that is about to account for them.
"""

from samba_rvss.mounts import image_of
from samba_rvss.reconcile.decision import DeleteDescriptor, DeleteShare, Unmount
from samba_rvss.reconcile.draft import Draft
from samba_rvss.reconcile.observation import Observation
from samba_rvss.samba.parser import exposed_copy


def judge(seen: Observation, draft: Draft) -> None:
    """Judge everything that lies where only we put something.

    The draft already has which images stay.
    """
    _judge_mounts(seen, draft)
    _judge_shares(seen, draft)
    _judge_shared(seen, draft)
    _judge_descriptors(seen, draft)


def _judge_mounts(seen: Observation, draft: Draft) -> None:
    """Judge mounts and directories; those named after an image that stays, stay."""
    accounted = {path for copy in seen.copies for path in (copy.path, copy.previous_path)}
    accounted |= {copy.previous_path for copy in seen.backups if seen.is_on_demand(copy)}
    for path in sorted((seen.mounts or frozenset()) | (seen.directories or frozenset())):
        if path in accounted or image_of(path) in draft.staying:
            continue
        if path.startswith(seen.shared_directory) and image_of(path) in draft.shown:
            continue
        reason = "no shadow copy belongs to it"
        action = Unmount(path=path, reason=reason)
        if seen.may_have_image(path):
            draft.leave_unlisted(path, reason)
        elif seen.starting:
            draft.act(action)
        else:
            draft.give_time(f"mount {path}", action)


def _judge_shares(seen: Observation, draft: Draft) -> None:
    paths = {copy.path for copy in seen.copies}
    for share, path in sorted((seen.shares or {}).items()):
        ours = path.startswith(seen.exposed_directory)
        if not ours or path in paths or image_of(path) in draft.staying:
            continue
        reason = "its shadow copy does not exist"
        if seen.may_have_image(path):
            draft.leave_unlisted(share, reason)
        else:
            action = DeleteShare(share=share, reason=reason, evidence=(path,))
            draft.give_time(f"share {share}", action)


def _judge_shared(seen: Observation, draft: Draft) -> None:
    """Judge the shares of what is exposed: those of images that are not there lead nowhere."""
    for share, path in sorted((seen.shared or {}).items()):
        if image_of(path) in draft.shown:
            continue
        reason = "nothing that is exposed belongs to it"
        action = DeleteShare(share=share, reason=reason, evidence=(path,), of_backup=True)
        if seen.inventory is None or seen.inventory.unlisted:
            draft.leave_unlisted(share, reason)
        elif seen.starting:
            draft.act(action)
        else:
            draft.give_time(f"share {share}", action)


def _judge_descriptors(seen: Observation, draft: Draft) -> None:
    """Judge security descriptors; they are ours only if the ledger has a record of the share.

    Their names are in Samba's lower case: the copies' ids tell which share each is of.
    """
    if seen.shares is None:
        return
    present = {exposed_copy(share) for share in seen.shares}
    present |= {exposed_copy(copy.exposed_share) for copy in seen.copies}
    ours = {exposed_copy(share) for share in seen.history} - present
    for share in sorted(seen.descriptors or frozenset()):
        if exposed_copy(share) in ours:
            action = DeleteDescriptor(share=share, reason="its share does not exist")
            draft.give_time(f"security {share}", action)
