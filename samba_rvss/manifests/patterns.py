"""Patterns of names and paths, as commands take them. Pure.

One is as the shell has them (fnmatch(3)), but that ``*`` goes over slashes too; letters mean both
cases, as Samba has it. As names on Windows have brackets in them, such as ``notes[1].txt``, a
pattern also matches the text that it is.
"""

import fnmatch
import os
import re


def compiled(pattern: str) -> "re.Pattern[str]":
    """Return what matches, by `re.Pattern.match`, texts from `folded` that a pattern means."""
    text = pattern.strip("/").casefold()
    return re.compile(rf"{re.escape(text)}\Z|{fnmatch.translate(text)}")


def folded(path: bytes) -> str:
    """Return a path as patterns are compared with it."""
    return os.fsdecode(path).casefold()
