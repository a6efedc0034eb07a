"""Exposed shares: the shares in Samba's registry by which clients reach shadow copies.

Contract: python-samba makes each change, maybe in another process, and smbd is told of it.
"""

import logging
from collections.abc import Iterable

from samba_rvss.copies.instance import Instance
from samba_rvss.model import ShadowCopy, Writers
from samba_rvss.samba import control, registry
from samba_rvss.samba.conf import Config, base_share
from samba_rvss.samba.parser import EXPOSED, lower_case

_logger = logging.getLogger(__name__)


def amend(instance: Instance, copies: Iterable[tuple[ShadowCopy, bool]]) -> None:
    """Set what the exposed shares of copies are to be, and tell smbd of a change.

    Args:
        instance: theirs.
        copies: each, and whether smbd must refuse all writes to it.

    Raises:
        RvssError: SAMBA.
    """
    config = instance.config
    shares = {
        copy.exposed_share: _amendment(config, copy, closed=closed) for copy, closed in copies
    }
    if instance.samba.call(registry.amend, config.file, shares):
        control.reload_config(config.file)


def _amendment(config: Config, copy: ShadowCopy, *, closed: bool) -> registry.Amendment:
    name = base_share(copy.exposed_share)
    base = config.share(name)
    writers = base.writers if base else Writers.UNKNOWN
    if writers is Writers.CLIENT and copy.uid < 0:
        writers = Writers.UNKNOWN
    if writers is Writers.UNKNOWN and not closed:
        _logger.warning(
            "%s stays as its share is: nobody knows which client may recover it",
            copy.title,
        )
    return registry.Amendment(
        closed=closed,
        modules=config.modules(name),
        writers=writers,
        write_list=base.write_list if base else "",
        base=base.name if base else name,
        named=base.named if base else (),
        uid=copy.uid,
    )


def share_name(config: Config, copy: ShadowCopy) -> str:
    """Return the share that a copy is of: of several of one directory, the one that Samba names.

    Args:
        config: the instance's.
        copy: with what Samba says of it, as far as that is known. Samba spells the share as the
            client did (source3/param/service.c, find_service()).
    """
    if not copy.exposed_share:
        return copy.share
    name = base_share(copy.exposed_share)
    found = config.share(name)
    if found is not None:
        return found.name
    return copy.share if lower_case(name) == lower_case(copy.share) else name


def drop_connections(instance: Instance, share: str) -> None:
    """Have smbd drop every connection to a share, with the files that are open through it.

    Raises:
        RvssError: SAMBA.
    """
    control.close_share(instance.config.file, share)


def delete_share(instance: Instance, share: str) -> None:
    """Remove an exposed share and its security descriptor; a share of another kind is left alone.

    The name may come from the mark of an image that was moved here from anywhere.

    Raises:
        RvssError: SAMBA.
    """
    if not EXPOSED.fullmatch(share):
        _logger.warning("[%s] is no exposed share, and is left alone", share)
        return
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
