"""What a line of the log has beside its text, for the journal: fields, and ids of messages.

Place: what the daemon gives ``logging`` as ``extra``. systemd's handler sends it as fields of the
entry; where the log is no journal, it is not seen. The fields are called as in the environment of
``rvss:notify command``. Each `Message` has an entry in ``packaging/samba-rvss.catalog``, which
``journalctl -x`` shows: what it means, and what to do.
"""

from enum import Enum

from samba_rvss.model import ShadowCopy
from samba_rvss.reconcile.decision import Action, DeleteSet, OnCopy, OnImage
from samba_rvss.text import printable


class Message(Enum):
    """What happened, by the 128 bits that journald knows it by; never used for anything else."""

    TAKEN = "047302c648b94248bd42d9db7ce29cac"
    NOT_TAKEN = "fae96d2c2d5141ceb3e1c3d4fde804aa"
    NOT_DELETED = "5c4f2793254c4342958c5715b184627c"
    WITHDRAWN = "a0e4371ff27c4bbd9324ecc81e0e746c"
    SEALED = "3e843dcd43394e599d34188fde6ae3d3"
    NOT_SEALED = "21c44334daa846a8b73c84cc3423f766"
    WORKER_ENDED = "9f385f5be7634cfc9f6fa7159553e58c"
    RECONCILED = "9088e6f13681464cb1d2892997eee864"
    NOT_RECONCILED = "97f2d83d7ceb4ef7bc0bbceee0974054"
    REFUSED = "1cfc29b9b11d4f24973775254db1ef87"
    NOT_TOLD = "2bdc4f052b014858b44e9fe56b796407"
    CONFIGURATION = "a0cf9c71dc8549fda4f233d9886fd86d"


def fields(
    message: Message | None = None,
    *,
    copy: ShadowCopy | None = None,
    share: str = "",
    set_id: str = "",
    client: int = -1,
) -> dict[str, str]:
    """Return what a line is about; what does not apply, or is not known, is left out.

    Args:
        message: what has happened.
        copy: the shadow copy, with its share and its set.
        share: a share's name.
        set_id: Samba's id of a set.
        client: the user id of who asked for it.
    """
    found = {
        "MESSAGE_ID": message.value if message else "",
        "RVSS_SHARE": copy.share if copy else share,
        "RVSS_COPY": copy.id if copy else "",
        "RVSS_SAMBA_COPY": copy.copy_id if copy else "",
        "RVSS_SET": copy.set_id if copy else set_id,
        "RVSS_CLIENT": str(client) if client >= 0 else "",
    }
    return {name: printable(value) for name, value in found.items() if value}


def of_action(message: Message, action: Action) -> dict[str, str]:
    """Return the same of a step of reconciling."""
    if isinstance(action, OnCopy):
        return fields(message, copy=action.copy)
    if isinstance(action, OnImage):
        about = fields(message, share=action.image.mark.share)
        return {**about, "RVSS_COPY": printable(action.image.id)}
    return fields(message, set_id=action.set_id if isinstance(action, DeleteSet) else "")
