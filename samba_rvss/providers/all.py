"""The tuple of providers that the daemon and its commands offer."""

from collections.abc import Callable

from samba_rvss.model import Identity
from samba_rvss.providers import Provider
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.providers.homes import Homes
from samba_rvss.providers.zfs.provider import Zfs


def providers(
    identity: Identity,
    homes: str = "",
    reached: Callable[[str], None] = lambda point: None,
) -> tuple[Provider, ...]:
    """Return every provider.

    Args:
        identity: whose images are ours.
        homes: the file in which the places of our images are remembered; empty if nothing is.
        reached: for tests of crashes: called with the name of each step of a sealing.
    """
    remembered = Homes(homes)
    return (Btrfs(identity, remembered, reached), Zfs(identity, homes=remembered, reached=reached))
