"""Shares, and the volumes that they sit in."""

from dataclasses import dataclass
from enum import Enum

from samba_rvss.backups.policy import EVERYTHING, Policy
from samba_rvss.model.keeping import Keep


class Nested(Enum):
    """What to do with volumes nested below a share (``rvss:nested``)."""

    REFUSE = "refuse"
    INCLUDE = "include"


class Instant(Enum):
    """What is to be of one instant (``rvss:instant``)."""

    SET = "set"  # all that a client puts into a shadow copy set
    VOLUME = "volume"  # each volume for itself


class Writers(Enum):
    """Whom an exposed share lets write during recovery, as its base share's settings call for."""

    ANYBODY = "anybody"  # 'read only = no'
    LISTED = "listed"  # 'read only = yes' and a 'write list': those in it
    CLIENT = "client"  # 'read only = yes' alone: the user who asked for the shadow copy
    UNKNOWN = "unknown"  # the same, where Samba does not say who that is: nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of smb.conf that is ours: its shell_snap commands call this instance's hook.

    Attributes:
        writers: who may recover a shadow copy.
        write_list: its ``write list``, as smb.conf has it.
        named: the parameters in which Samba puts the share's name, with the name in them.
        obstacle: why Samba never calls the hook, or cannot expose a copy; empty if it does both.
        valid_users: its ``valid users``; empty if all may connect.
        guest_only: whether whoever connects is a guest.
        forced: the setting that makes the hook's user another than the client's; empty if none.
        shadow: the options of vfs_shadow_copy2 that are in effect, without ``shadow:``, and their
            values.
        instant: whether its copies are taken together with those of other shares.
        previous_versions_limit, maximum_copies, minimum_free, minimum_free_percent, keep,
            recovery_link, manifest, retention, backup_warn_age: see samba-rvss.conf(5); bytes,
            per cent, seconds.
    """

    name: str
    path: str
    nested: Nested = Nested.REFUSE
    previous_versions: bool = False
    previous_versions_limit: int = 64
    vfs_objects: tuple[str, ...] = ()
    writers: Writers = Writers.CLIENT
    write_list: str = ""
    named: tuple[tuple[str, str], ...] = ()
    obstacle: str = ""
    valid_users: tuple[str, ...] = ()
    guest_only: bool = False
    forced: str = ""
    shadow: tuple[tuple[str, str], ...] = ()
    maximum_copies: int = 0
    minimum_free: int = 0
    minimum_free_percent: float = 0.0
    keep: Keep = Keep.NO
    recovery_link: bool = True
    manifest: bool = False
    retention: Policy = EVERYTHING
    backup_warn_age: float | None = None
    instant: Instant = Instant.SET


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A btrfs subvolume or a ZFS dataset, and where in it a share sits.

    Attributes:
        provider: name of the provider that knows it.
        file_system: identity of the btrfs file system (its UUID) or of the pool.
        id: the volume's own identity in it, as text: a subvolume's id, a dataset's guid; empty
            if it comes from one of the first marks on ZFS, which had none.
        name: the volume as an administrator knows it (subvolume path, dataset).
        directory: the share's directory inside the volume, relative; empty for its root.
        inode: inode number of that directory, the same in every image of the volume.
    """

    provider: str
    file_system: str
    id: str
    name: str
    directory: str
    inode: int

    @property
    def key(self) -> str:
        """The whole identity as one word, for locks and for what is shown: nobody parses it."""
        return f"{self.provider}:{self.file_system}:{self.id}"

    @property
    def group(self) -> str:
        """What the backups of a share's directory have in common, whatever it is called."""
        return f"{self.key}/{self.inode}"
