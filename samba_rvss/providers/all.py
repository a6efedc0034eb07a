"""The tuple of providers that the daemon and its commands offer."""

from samba_rvss.providers import Provider
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.providers.zfs.provider import Zfs


def providers(run_directory: str) -> tuple[Provider, ...]:
    """Return every provider.

    Args:
        run_directory: the instance's; it tells its images from another's.
    """
    return (Btrfs(run_directory), Zfs(run_directory))
