"""Which files a managed backup is about, by patterns as Samba's ``veto files`` has them.

Contract: pure. Names are bytes, as the kernel has them; they are compared as UTF-8, whatever the
case, as Samba compares them by default (smb.conf(5), veto files, case sensitive).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

MOST = 600
"""How many characters all patterns of a backup may have in JSON: its image's mark has a limit."""


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_name(text: str) -> bool:
    """Return whether a text can be the name of a managed backup."""
    return _NAME.fullmatch(text) is not None


def fits(*patterns: Iterable[str]) -> bool:
    """Return whether there is room for patterns in the mark of an image."""
    return sum(len(json.dumps(list(each))) for each in patterns) <= MOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Patterns of names; each is of a file, or of a directory with all that is in it.

    Attributes:
        files: what is meant; all if it is empty.
        veto: what is left out of that.
    """

    files: tuple[str, ...] = ()
    veto: tuple[str, ...] = ()
    _files: "re.Pattern[str] | None" = field(init=False, repr=False, compare=False)
    _veto: "re.Pattern[str] | None" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare for comparing."""
        object.__setattr__(self, "_files", _compiled(self.files))
        object.__setattr__(self, "_veto", _compiled(self.veto))

    def has(self, path: bytes) -> bool:
        """Return whether a file is meant, by its path in the share."""
        names = path.decode("utf-8", "surrogateescape").split("/")
        if self._veto is not None and any(map(self._veto.fullmatch, names)):
            return False
        return self._files is None or any(map(self._files.fullmatch, names))

    def leaves_out(self, name: bytes) -> bool:
        """Return whether a directory of that name is left out with all that is in it."""
        text = name.decode("utf-8", "surrogateescape")
        return self._veto is not None and self._veto.fullmatch(text) is not None


def parse(text: str) -> tuple[str, ...]:
    """Return the patterns in a text such as ``/*.vhdx/*.vmcx/``.

    Raises:
        ValueError: there is none; its text says what is wanted.
    """
    found = tuple(dict.fromkeys(each for each in text.split("/") if each))
    if not found:
        raise ValueError("patterns of names between slashes, such as /*.vhdx/*.vmcx/, are wanted")
    return found


def _compiled(patterns: Iterable[str]) -> "re.Pattern[str] | None":
    parts = [
        "".join({"*": ".*", "?": "."}.get(letter) or re.escape(letter) for letter in each)
        for each in (re.sub(r"\*+", "*", pattern) for pattern in patterns)
    ]
    return re.compile("|".join(parts), re.IGNORECASE | re.DOTALL) if parts else None
