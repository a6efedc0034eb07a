"""The virtual disks of an image: what was found of them when it was sealed.

    <state>/manifests/<image>.disks        in JSON

Place: beside `manifests`, in whose directory it is, and with which it goes. Contract: it is written
down once for an image, which does not change any more; an image without disks has none. The names
are those of users' files, and stand in no event.
"""

import json
import os
from contextlib import ExitStack

from samba_rvss.copies import manifests, reading
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.hyperv import report
from samba_rvss.hyperv.report import Report
from samba_rvss.kernel import files
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.samba.conf import Config

EVENT = "disks"
"""The event of a copy whose virtual disks were looked at."""


def opened(instance: Instance, copy: ShadowCopy, undo: ExitStack) -> int | None:
    """Open a sealed image's directory; None if it is not sealed, or gone, or was looked at.

    Args:
        instance: the copy's.
        copy: which one.
        undo: closes it, and lets the backup be deleted again.

    Raises:
        RvssError: as `reading.leased` and `reading.opened`.
    """
    if os.path.lexists(manifests.disks_path(instance.config, copy.id)):
        return None
    current = instance.ledger.get(copy.id)
    if current is not None and current.phase is Phase.KEPT:
        undo.enter_context(reading.leased(instance, (current,)))
        return reading.opened(instance, current, undo)
    if current is None or current.phase is not Phase.SEALED:
        return None
    try:
        fd = os.open(current.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot open {current.path}: {exc.strerror}") from exc
    undo.callback(os.close, fd)
    return fd


def record(instance: Instance, copy: ShadowCopy, found: Report) -> None:
    """Write down what was found of a copy's disks, if there is anything to say.

    Raises:
        RvssError: SYSTEM, STATE.
    """
    if not found.disks and not found.left_out:
        return
    manifests.make_directory(instance.config)
    where = manifests.disks_path(instance.config, copy.id)
    try:
        files.replace(where, json.dumps(found.as_data()).encode())
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot write {where}: {exc.strerror}") from exc
    instance.ledger.note(copy, EVENT, detail=found.words())


def known(config: Config, image: str) -> Report | None:
    """Return what was found of an image's disks; None if it was not looked at, or has none."""
    try:
        with open(manifests.disks_path(config, image), "rb") as file:
            return report.parse(json.loads(file.read()))
    except (OSError, ValueError):
        return None
