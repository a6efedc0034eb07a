"""Values of one share on one btrfs volume, for tests that need no file system: builders of them.

Whoever needs another field says so with ``dataclasses.replace``.
"""

from datetime import UTC, datetime

from samba_rvss.model import (
    UNKNOWN,
    Foreign,
    Image,
    Mark,
    Moment,
    Phase,
    SambaCopy,
    Sealed,
    SetState,
    ShadowCopy,
    Volume,
    Whose,
)
from samba_rvss.reconcile.observation import Options
from samba_rvss.samba.conf import Config

NOW = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
EXPOSED = "/run/samba-rvss/exposed/"
SHARE_PATH = "/srv/vms"
SET = "3b4f7fa1-51e1-4f0e-9a0c-3b0f1a2b3c4d"
COPY_ID = "0f0e0d0c-0b0a-0908-0706-050403020100"
VOLUME = Volume(provider="btrfs", file_system="fs", id="256", name="vms", directory="", inode=256)
OPTIONS = Options(recovery_timeout=1800, maximum_age=72 * 3600, grace=300, commit_deadline=50)
# What an smb.conf without shares, and without any option of ours, says.
CONFIG = Config(
    file="/etc/samba/smb.conf",
    run_directory="/run/samba-rvss",
    state_directory="/var/lib/samba-rvss",
    commit_deadline=50.0,
    seal_deadline=30.0,
    recovery_timeout=1800.0,
    maximum_age=259200.0,
    grace=300.0,
    samba_lock_directory="/run/samba",
    samba_state_directory="/var/lib/samba",
    sections=(),
)


def path_of(name: str) -> str:
    """Return where a copy is mounted."""
    return f"{EXPOSED}vms/{name}"


def share_of(copy_id: str) -> str:
    """Return the exposed share of a copy, by Samba's id of it."""
    return f"VMs@{{{copy_id}}}"


def copy_of(
    name: str,
    phase: Phase = Phase.CREATING,
    *,
    created: datetime = NOW,
    since: Moment = UNKNOWN,
) -> ShadowCopy:
    """Return a copy of which Samba has said nothing yet."""
    return ShadowCopy(
        id=name,
        share="VMs",
        share_path=SHARE_PATH,
        volume=VOLUME,
        created=created,
        phase=phase,
        path=path_of(name),
        since=since,
    )


def mark_of(name: str, created: datetime = NOW, sealed: Sealed | None = None) -> Mark:
    """Return the mark of a copy's image."""
    return Mark(
        id=name,
        share="VMs",
        share_path=SHARE_PATH,
        volume=VOLUME,
        created=created,
        sealed=sealed,
    )


def image_of(
    name: str,
    created: datetime = NOW,
    *,
    complete: bool = True,
    read_only: bool = True,
    sealed: Sealed | None = None,
) -> Image:
    """Return a copy's image, with its mark."""
    return Image(
        id=name,
        provider="btrfs",
        mark=mark_of(name, created, sealed),
        complete=complete,
        read_only=read_only,
    )


def sealed_of(context: int = 0, state: SetState | None = SetState.RECOVERED) -> Sealed:
    """Return what the mark of a sealed copy of the one set says."""
    return Sealed(
        set_id=SET,
        copy_id=COPY_ID,
        context=context,
        exposed_share=share_of(COPY_ID),
        state=state,
    )


def foreign_of(name: str, whose: Whose, mark: Mark | None = None, instance: str = "") -> Foreign:
    """Return an image that is not ours."""
    return Foreign(
        id=name,
        provider="btrfs",
        file_system="fs",
        where=f"/.samba-rvss/{name}",
        whose=whose,
        instance=instance,
        mark=mark,
        read_only=True,
    )


def samba_copy_of(
    path: str,
    state: SetState,
    context: int = 0,
    *,
    set_id: str = SET,
    copy_id: str = COPY_ID,
    share_path: str = SHARE_PATH,
) -> SambaCopy:
    """Return what srv_fss.tdb says of a copy; ``path`` is empty as long as there is none."""
    return SambaCopy(
        set_id=set_id,
        copy_id=copy_id,
        share="VMs",
        share_path=share_path,
        path=path,
        exposed_share=share_of(copy_id),
        is_exposed=state >= SetState.EXPOSED,
        state=state,
        context=context,
        created=NOW,
    )
