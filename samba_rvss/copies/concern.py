"""Which file systems concern an instance: where nobody asks for more, no other is looked at.

They are those on which a share of ours lies, those of the copies in the ledger, also of the gone
ones, those that a recovery mount holds, and those where images of ours are remembered to be
(`samba_rvss.providers.homes`): so what the ledger has lost is found where no share lies any more.
Contract: no file system is asked, because one that is none of ours may not answer.
"""

from samba_rvss.copies.instance import Instance
from samba_rvss.kernel import mounttable


def file_systems(instance: Instance) -> frozenset[str]:
    """Return which they are, as `Volume.file_system` of their volumes has it.

    Raises:
        RvssError: STATE if the ledger cannot be read.
    """
    table, run = tuple(mounttable.mountinfo()), f"{instance.config.run_directory}/"
    lies_on = mounttable.finder(table)
    of_shares = (lies_on(share.path) for share in instance.config.shares)
    mounts = [mount for mount in table if mount.target.startswith(run)]
    mounts += [mount for mount in of_shares if mount is not None]
    found = instance.ledger.file_systems()
    for provider in instance.providers:
        found |= provider.file_systems(mounts) | provider.remembered()
    return found


def of_path(instance: Instance, path: str) -> frozenset[str]:
    """Return the file system that a path lies on, by the names alone; empty if it is of no kind."""
    mount = mounttable.above(path)
    mounts = (mount,) if mount else ()
    return frozenset[str]().union(*(each.file_systems(mounts) for each in instance.providers))
