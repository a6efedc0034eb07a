"""Exposed shares: what Samba's registry shows of shadow copies to clients.

Contract: each change is made by python-samba, which may be in another process, and told to smbd.
"""

from collections.abc import Mapping

from samba_rvss.copies.instance import Instance
from samba_rvss.samba import control, registry
from samba_rvss.samba.conf import base_share


def amend(instance: Instance, shares: Mapping[str, bool]) -> None:
    """Make exposed shares fit for what they are, and tell smbd.

    Args:
        instance: whose they are.
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
