"""A mark as text: what every image bears, of whichever file system.

A mark of a later form, or of another instance, is somebody else's and is left alone.
"""

import json
import logging
from datetime import datetime

from samba_rvss.model import Mark, Nested, Volume

_logger = logging.getLogger(__name__)


def encode(mark: Mark, instance: str) -> str:
    """Return a mark as ASCII text without line breaks and tabs.

    Args:
        mark: its volume's key must be ``provider:file system:identity``.
        instance: what tells this instance's images from another's.
    """
    volume = mark.volume
    return json.dumps(
        {
            "version": 1,
            "instance": instance,
            "id": mark.id,
            "share": mark.share,
            "share_path": mark.share_path,
            "key": volume.key,
            "name": volume.name,
            "directory": volume.directory,
            "inode": volume.inode,
            "created": mark.created.isoformat(),
            "nested": mark.nested.value,
        }
    )


def decode(raw: str | bytes, instance: str, provider: str) -> Mark | None:
    """Return a mark, or None if it is another instance's or of a form we do not know."""
    try:
        data = json.loads(raw)
        if data["version"] != 1 or data["instance"] != instance:
            return None
        name = data["name"]
        # The first marks on ZFS had no key: their dataset is known by its name alone.
        key = data.get("key") or f"{provider}:{name.partition('/')[0]}:"
        kind, _, rest = key.partition(":")
        if kind != provider:
            raise ValueError(key)
        return Mark(
            id=data["id"],
            share=data["share"],
            share_path=data["share_path"],
            volume=Volume(
                provider=provider,
                file_system=rest.rpartition(":")[0],
                key=key,
                name=name,
                directory=data["directory"],
                inode=data["inode"],
            ),
            created=datetime.fromisoformat(data["created"]),
            nested=Nested(data["nested"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        _logger.warning("an image's mark cannot be read and is left alone: %r", raw[:200])
        return None
