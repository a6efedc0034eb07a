"""Exposed shares: the shares in Samba's registry by which clients reach shadow copies.

Contract: python-samba makes each change, maybe in another process, and smbd is told of it.
"""

from collections.abc import Mapping

from samba_rvss.copies.instance import Instance
from samba_rvss.samba import control, registry
from samba_rvss.samba.conf import base_share


def amend(instance: Instance, shares: Mapping[str, bool]) -> None:
    """Set ``vfs objects`` and ``read only`` of exposed shares, and tell smbd of a change.

    Args:
        instance: theirs.
        shares: for each, whether smbd must refuse writes.

    Raises:
        RvssError: SAMBA.
    """
    config = instance.config
    objects = {share: config.modules(base_share(share)) for share in shares}
    if instance.samba.call(registry.amend, config.file, dict(shares), objects):
        control.reload_config(config.file)


def drop_connections(instance: Instance, share: str) -> None:
    """Have smbd drop every connection to a share, with the files that are open through it.

    Raises:
        RvssError: SAMBA.
    """
    control.close_share(instance.config.file, share)


def delete_share(instance: Instance, share: str) -> None:
    """Remove an exposed share and its security descriptor.

    Raises:
        RvssError: SAMBA.
    """
    config = instance.config
    if instance.samba.call(registry.remove_shares, config.file, (share,)):
        control.reload_config(config.file)
    # Samba wants to drop the share's connections itself, but as the client's user it may not
    # send messages (lib/messages_dgm.c, the sockets are root's).
    drop_connections(instance, share)
    delete_descriptor(instance, share)


def delete_descriptor(instance: Instance, share: str) -> None:
    """Remove a share's security descriptor.

    Raises:
        RvssError: SAMBA.
    """
    directory = instance.config.samba_state_directory
    instance.samba.call(registry.remove_security, directory, (share,))
