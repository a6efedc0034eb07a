"""What a callout is told of a share's path: Samba lets /bin/sh split it, and unquote it."""

import re

_BLANK = re.compile(r"[ \t\n]+")
_PART = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|[^'"\\]+""")
_ESCAPED = re.compile(r'\\([$`"\\])')


def folded(text: str) -> str:
    """Return a path as words that /bin/sh has split at blanks can tell it."""
    return _BLANK.sub(" ", text).strip(" ")


def passed(path: str) -> str | None:
    """Return what a callout is told of a path, blanks folded; None if it is never run.

    Samba escapes what means something to /bin/sh, but for blanks, and takes quotes and backslashes
    for quoting that was meant; what is not UTF-8 it refuses (source3/modules/vfs_shell_snap.c;
    source3/lib/util_str.c, escape_shell_string()).
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return None
    rest, told = path.replace("\n", ""), ""
    while rest:
        part = _PART.match(rest)
        if part is None:
            return None
        match part.groups():
            case (None, None, None):
                told += part[0]
            case (single, double, character):
                told += single or _ESCAPED.sub(r"\1", double or "") or character or ""
        rest = rest[part.end() :]
    return folded(told)
