"""Judging what belongs to no shadow copy: images, mounts, exposed shares and their descriptors.

A whole image that the ledger does not have is adopted, and what is named after it stays. All else
is removed after the grace period; images and mounts at once if no request can be under way that is
about to account for them.
"""

from samba_rvss.model import Image
from samba_rvss.mounts import image_of
from samba_rvss.reconcile.decision import Adopt, DeleteDescriptor, DeleteShare, Destroy, Unmount
from samba_rvss.reconcile.draft import Draft
from samba_rvss.reconcile.observation import Observation


def judge(seen: Observation, draft: Draft) -> None:
    """Judge everything that bears our mark or lies where only we put something.

    Images come first: the rest depends on which of them are adopted.
    """
    _judge_images(seen, draft)
    _judge_mounts(seen, draft)
    _judge_shares(seen, draft)
    _judge_descriptors(seen, draft)


def _judge_images(seen: Observation, draft: Draft) -> None:
    accounted = {copy.id for copy in seen.copies} | seen.changing
    images = seen.inventory.images if seen.inventory else ()
    for image in {image.id: image for image in images if image.id not in accounted}.values():
        _judge_image(seen, draft, image)


def _judge_image(seen: Observation, draft: Draft, image: Image) -> None:
    cut_off = Destroy(image=image, reason="its creation was cut off")
    if image.id in seen.gone:
        reason = "it was deleted and came back with a crash of the machine"
        draft.act(Destroy(image=image, reason=reason))
    elif image.complete:
        draft.act(Adopt(image=image, reason="the ledger does not know it"))
    elif seen.starting:
        draft.act(cut_off)
    else:
        draft.give_time(f"image {image.id}", cut_off)


def _judge_mounts(seen: Observation, draft: Draft) -> None:
    """Judge mounts and directories; those named after an adopted image stay."""
    accounted = {path for copy in seen.copies for path in (copy.path, copy.previous_path)}
    for path in sorted((seen.mounts or frozenset()) | (seen.directories or frozenset())):
        if path in accounted or image_of(path) in draft.adopted:
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
        if not ours or path in paths or image_of(path) in draft.adopted:
            continue
        reason = "its shadow copy does not exist"
        if seen.may_have_image(path):
            draft.leave_unlisted(share, reason)
        else:
            action = DeleteShare(share=share, reason=reason, evidence=(path,))
            draft.give_time(f"share {share}", action)


def _judge_descriptors(seen: Observation, draft: Draft) -> None:
    """Judge security descriptors; they are ours only if the ledger has a record of the share."""
    if seen.shares is None:
        return
    present = {share.lower() for share in seen.shares}
    present |= {copy.exposed_share.lower() for copy in seen.copies}
    for share in sorted((seen.descriptors or frozenset()) - present):
        if share in seen.history:
            action = DeleteDescriptor(share=share, reason="its share does not exist")
            draft.give_time(f"security {share}", action)
