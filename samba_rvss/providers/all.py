"""The tuple of providers that the daemon and its commands offer."""

from samba_rvss.model import Identity
from samba_rvss.providers import Provider
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.providers.zfs.provider import Zfs


def providers(identity: Identity) -> tuple[Provider, ...]:
    """Return every provider.

    Args:
        identity: whose images are ours.
    """
    return (Btrfs(identity), Zfs(identity))
