"""An image's mark as text, the same on every file system.

An image whose mark is of another version or another instance is not ours and is left alone. The
version changes only where an older daemon must not touch the image. A new fact in a mark is a field
that may be missing; the fields that an older daemon reads stay.
"""

import json
import logging
from datetime import datetime
from typing import Any

from samba_rvss.model import Mark, Nested, Volume

_logger = logging.getLogger(__name__)


def encode(mark: Mark, instance: str) -> str:
    """Return a mark as ASCII text without line breaks and tabs.

    Args:
        mark: what is to be known of the image.
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
            "key": volume.key,  # all that older daemons read of the volume's identity
            "provider": volume.provider,
            "file_system": volume.file_system,
            "volume_id": volume.id,
            "name": volume.name,
            "directory": volume.directory,
            "inode": volume.inode,
            "created": mark.created.isoformat(),
            "nested": mark.nested.value,
        }
    )


def decode(raw: str | bytes, instance: str, provider: str) -> Mark | None:
    """Return a mark, or None if it is another instance's or in a form that we do not know."""
    try:
        data = json.loads(raw)
        if data["version"] != 1 or data["instance"] != instance:
            return None
        kind, file_system, own = _identity(data, provider)
        if kind != provider:
            raise ValueError(kind)
        return Mark(
            id=data["id"],
            share=data["share"],
            share_path=data["share_path"],
            volume=Volume(
                provider=provider,
                file_system=file_system,
                id=own,
                name=data["name"],
                directory=data["directory"],
                inode=data["inode"],
            ),
            created=datetime.fromisoformat(data["created"]),
            nested=Nested(data["nested"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        _logger.warning("an image's mark cannot be read and is left alone: %r", raw[:200])
        return None


def _identity(data: dict[str, Any], provider: str) -> tuple[str, str, str]:
    """Return the provider, the file system and the own id of the volume that a mark names."""
    if "volume_id" not in data:
        return _identity_of_old_form(data, provider)
    found = (data["provider"], data["file_system"], data["volume_id"])
    if not all(isinstance(word, str) for word in found):
        raise TypeError(found)
    return found


def _identity_of_old_form(data: dict[str, Any], provider: str) -> tuple[str, str, str]:
    """Return the same for a mark of the older form: one key, ``provider:file system:id``.

    A pool's name may have colons in it; the provider and the id have none. The first marks on ZFS
    have no key either: their dataset is known by its name alone.
    """
    name = data["name"]
    key = data.get("key") or f"{provider}:{name.partition('/')[0]}:"
    kind, _, rest = key.partition(":")
    file_system, _, own = rest.rpartition(":")
    return kind, file_system, own
