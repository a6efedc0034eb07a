"""The tuple of providers that the daemon and its commands offer."""

from samba_rvss.providers import Provider
from samba_rvss.providers.btrfs import Btrfs


def providers(run_directory: str) -> tuple[Provider, ...]:
    """Return every provider.

    Args:
        run_directory: the instance's; it tells its images from another's.
    """
    # TODO: add Zfs when the tests against a real smbd have passed on it, not the contract alone.
    return (Btrfs(run_directory),)
