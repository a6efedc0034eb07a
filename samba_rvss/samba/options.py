"""The ``rvss:`` options: their names, forms and defaults. samba-rvss.conf(5) explains each."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from samba_rvss.backups import policy
from samba_rvss.model import Instant, Keep, Nested
from samba_rvss.samba.values import boolean, plain, string

T = TypeVar("T")

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """Return a time in seconds; ValueError if it is none, or no time at all."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|)", text.strip().lower())
    if match is None or float(match[1]) == 0:
        raise ValueError("a time such as 50, 50 s, 30 m or 72 h is wanted")
    return float(match[1]) * _UNITS[match[2]]


def age(text: str) -> float | None:
    """Return a time in seconds, None for 0; ValueError if it is none."""
    return None if text.strip() == "0" else seconds(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise ValueError("a number is wanted, 0 for any")
    return int(text)


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise ValueError("a number is wanted, 0 for none")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise ValueError("a size such as 500 M or 2 G is wanted")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def _percent(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]{1,3})?)\s*%?", text.strip())
    if match is None:
        raise ValueError("a number below 100 is wanted")
    return float(match[1])


def _directory(text: str) -> str:
    # normpath() leaves two slashes at the beginning, mountinfo has one.
    plain = text.startswith("/") and not text.startswith("//") and os.path.normpath(text) == text
    if not plain or re.search(r"\s", text):
        raise ValueError("an absolute path without blanks, '..' or a closing slash is wanted")
    return text


def _run_directory(text: str) -> str:
    # Samba gets paths below it: macros and quotes in them mean something to it (loadparm.c,
    # lpcfg_substituted_string(); util_str.c, escape_shell_string()), and its registry has UTF-8.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a path in UTF-8 is wanted") from None
    if re.search(r"[%'\"`\\\x00-\x1f\x7f]", text):
        raise ValueError("an absolute path without '%', quotes and backslashes is wanted")
    return _directory(text)


def _instance(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", text):
        raise ValueError("at most 64 letters, digits, dots, underscores and hyphens are wanted")
    return text


def _nested(text: str) -> Nested:
    try:
        return Nested(text.strip().lower())
    except ValueError:
        raise ValueError("refuse or include is wanted") from None


def _instant(text: str) -> Instant:
    try:
        return Instant(text.strip().lower())
    except ValueError:
        raise ValueError("set or volume is wanted") from None


def _keep(text: str) -> Keep:
    word = text.strip().lower()
    if word == Keep.RECOVERED.value:
        return Keep.RECOVERED
    try:
        return Keep.YES if boolean(word) else Keep.NO
    except ValueError:
        raise ValueError("no, recovered or yes is wanted") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Option(Generic[T]):
    """One ``rvss:`` option: how it is read, its default, and whether a share may have it.

    ``parse`` raises ValueError, which says what is wanted instead.
    """

    name: str
    parse: Callable[[str], T]
    default: str
    per_share: bool = False

    def take(self, text: str) -> T:
        """Return the value that a text in smb.conf means, quotes around it or not."""
        return self.parse(string(text))

    def read(self, *sections: Mapping[str, str]) -> T:
        """Return the value from the first section that has the option, or the default."""
        key = f"rvss:{self.name}"
        return self.take(next((found[key] for found in sections if key in found), self.default))


RUN_DIRECTORY = Option(name="run directory", parse=_run_directory, default="/run/samba-rvss")
STATE_DIRECTORY = Option(name="state directory", parse=_directory, default="/var/lib/samba-rvss")
INSTANCE = Option(name="instance", parse=_instance, default="")
COMMIT_DEADLINE = Option(name="commit deadline", parse=seconds, default="50 s")
SEAL_DEADLINE = Option(name="seal deadline", parse=seconds, default="30 s")
RECOVERY_TIMEOUT = Option(name="recovery timeout", parse=seconds, default="1800 s")
MAXIMUM_AGE = Option(name="maximum age", parse=seconds, default="72 h")
GRACE = Option(name="grace", parse=seconds, default="300 s")
# What it says is judged where it stands (`samba_rvss.samba.notification`): nobody is kept from
# shadow copies by it.
NOTIFY_COMMAND = Option(name="notify command", parse=str, default="")
NESTED = Option(name="nested", parse=_nested, default="refuse", per_share=True)
INSTANT = Option(name="instant", parse=_instant, default="set", per_share=True)
MAXIMUM_COPIES = Option(name="maximum copies", parse=_count, default="100", per_share=True)
MINIMUM_FREE = Option(name="minimum free", parse=_size, default="32 M", per_share=True)
MINIMUM_FREE_PERCENT = Option(
    name="minimum free percent", parse=_percent, default="0", per_share=True
)
PREVIOUS_VERSIONS = Option(name="previous versions", parse=boolean, default="no", per_share=True)
PREVIOUS_VERSIONS_LIMIT = Option(
    name="previous versions limit", parse=_limit, default="64", per_share=True
)
KEEP = Option(name="keep", parse=_keep, default="no", per_share=True)
RECOVERY_LINK = Option(name="recovery link", parse=boolean, default="yes", per_share=True)
MANIFEST = Option(name="manifest", parse=boolean, default="no", per_share=True)
RETENTION = Option(name="retention", parse=policy.parse, default="*", per_share=True)
RETENTION_MINIMUM = Option(
    name="retention minimum", parse=policy.parse_minimum, default="0", per_share=True
)
BACKUP_WARN_AGE = Option(name="backup warn age", parse=age, default="0", per_share=True)
PRUNE_REQUIRES = Option(
    name="prune requires", parse=policy.parse_requires, default="", per_share=True
)

OPTIONS: Mapping[str, Option[Any]] = {
    option.name: option
    for option in (
        RUN_DIRECTORY,
        STATE_DIRECTORY,
        INSTANCE,
        COMMIT_DEADLINE,
        SEAL_DEADLINE,
        RECOVERY_TIMEOUT,
        MAXIMUM_AGE,
        GRACE,
        NOTIFY_COMMAND,
        NESTED,
        INSTANT,
        MAXIMUM_COPIES,
        MINIMUM_FREE,
        MINIMUM_FREE_PERCENT,
        PREVIOUS_VERSIONS,
        PREVIOUS_VERSIONS_LIMIT,
        KEEP,
        RECOVERY_LINK,
        MANIFEST,
        RETENTION,
        RETENTION_MINIMUM,
        PRUNE_REQUIRES,
        BACKUP_WARN_AGE,
    )
}


def option_of(name: str) -> Option[Any] | None:
    """Return the option that a parameter's name after ``rvss:`` means; None if there is none."""
    wanted = plain(name)
    return next((option for known, option in OPTIONS.items() if plain(known) == wanted), None)
