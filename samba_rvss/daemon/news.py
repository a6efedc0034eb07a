"""What ``rvss:notify command`` is told: one thing that happened, or is wrong, as a value.

Contract: pure. Each text in it becomes one line of the program's environment, whatever it held.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from samba_rvss.model import ShadowCopy
from samba_rvss.text import printable

NOT_TAKEN, NO_ROOM, NOT_DELETED = "not taken", "no room", "not deleted"
"""The ledger's words for what a callout did not get; the second is the first, and why."""

ABORT = "abort"  # a shadow copy set ended before its recovery was complete
FAILURE = "failure"  # a shadow copy could not be taken, or not deleted
STALE = "stale"  # the newest backup of a share is too old
WRONG = "wrong"  # what `status` calls wrong besides
OVER = "over"  # one of the last three is over
TEST = "test"

_LONGEST = 2000
# A share's name in brackets stays as it is; ids have letters or hyphens beside their digits.
_NUMBER = re.compile(r"\[[^\]]*\]|(?<!\w)\d{4}-\d\d-\d\d(?!\w)|(?<![\w./-])\d+(?:\.\d+)?(?![\w-])")


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a notification is about; what does not apply, or is not known, is empty.

    Attributes:
        event: one of `ABORT` to `TEST`.
        reason: a sentence.
        share: its name.
        path: the share's directory.
        copy: our id of the shadow copy, or of the backup's part.
        set_id: Samba's id of its set.
        copy_id: Samba's id of the copy.
    """

    event: str
    reason: str
    share: str = ""
    path: str = ""
    copy: str = ""
    set_id: str = ""
    copy_id: str = ""

    @property
    def key(self) -> str:
        """What is the same as long as it is the same trouble, however long that has lasted."""
        what = self.share if self.event == STALE else _NUMBER.sub(_blank, self.reason)
        return f"{self.event}: {what}"

    def environment(self, config: str, dropped: int) -> dict[str, str]:
        """Return what the program finds in its environment.

        Args:
            config: the instance's smb.conf.
            dropped: how many notifications could not be made before this one.
        """
        named = {
            "RVSS_EVENT": self.event,
            "RVSS_REASON": self.reason,
            "RVSS_SHARE": self.share,
            "RVSS_PATH": self.path,
            "RVSS_COPY": self.copy,
            "RVSS_SET": self.set_id,
            "RVSS_SAMBA_COPY": self.copy_id,
            "RVSS_CONFIG": config,
            "RVSS_DROPPED": str(dropped),
        }
        return {name: printable(text)[:_LONGEST] for name, text in named.items()}

    def describe(self) -> str:
        """Return it as a line for the log."""
        ids = (self.copy, self.copy_id, self.set_id)
        about = " ".join([*([f"[{self.share}]"] if self.share else []), *filter(None, ids)])
        return ": ".join(filter(None, (self.event, about, self.reason)))


def of_copy(event: str, reason: str, copy: ShadowCopy) -> News:
    """Return news of a shadow copy."""
    return News(
        event=event,
        reason=reason,
        share=copy.share,
        path=copy.share_path,
        copy=copy.id,
        set_id=copy.set_id,
        copy_id=copy.copy_id,
    )


def _blank(found: "re.Match[str]") -> str:
    return found[0] if found[0].startswith("[") else "#"


Judge = Callable[[str], tuple[tuple[News, ...], bool]]
"""Tells what is wrong with the instance of an smb.conf by now, and whether all of it was seen.

A function of a module: it runs in a process of its own.
"""


def nothing_wrong(configfile: str) -> tuple[tuple[News, ...], bool]:
    """Judge that nothing is wrong, without a look: for a daemon whose troubles nobody is told."""
    return (), True
