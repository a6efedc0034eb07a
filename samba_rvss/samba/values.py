"""Parameters of smb.conf as Samba's loadparm reads them: names, strings, lists, paths, macros.

Contract: values and nothing that acts. The text of a value is what stands in Samba's registry, or
what `samba_rvss.samba.parser` has from Samba's own parser.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping

_SEPARATOR = re.compile(r"[ \t,;\n\r]")
_BLANK = re.compile(r"[ \t\n\v\f\r]+")

# source3/lib/substitute.c, talloc_sub_advanced() and talloc_sub_basic(), but for %S
_MACRO = re.compile(r"%(?:[DGHIJMNPRTUVadghijmtuvw]|L(?!(?i:OGONSERVER%))|\$\([^)]*\))")
_NAME = "%S"
# lib/util/substitute.h, STRING_SUB_UNSAFE_CHARACTERS; mask_unsafe_character(). Some of them came
# after 4.17.
_UNSAFE = re.compile(r"[$`\"';%|&<>\x00-\x1f\x7f]")
_UNSAFE_EVERYWHERE = re.compile(r"[$`\"';%\r\n]")


class Parameters(Mapping[str, str]):
    """The parameters of a section: names, as they are written, and the text of values.

    Neither blanks in a name count nor its case, and the last of several spellings is what Samba
    takes. Source: lib/util/util_str_common.c, strwicmp(); lib/param/loadparm.c, set_param_opt().
    """

    def __init__(self, *sections: Mapping[str, str]) -> None:
        """Take the parameters of sections, a later one's instead of an earlier one's."""
        self._found = {
            plain(name): (name, text) for section in sections for name, text in section.items()
        }

    def __getitem__(self, name: str) -> str:
        return self._found[plain(name)][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._found.values())

    def __len__(self) -> int:
        return len(self._found)


def plain(name: str) -> str:
    """Return a parameter's name in the one form that all its spellings have."""
    return _BLANK.sub("", name).lower()


def boolean(text: str) -> bool:
    """Read a truth value; ValueError if it is neither yes nor no."""
    # lib/util/util_str.c, set_boolean()
    word = plain(text)
    if word in ("yes", "true", "on", "1"):
        return True
    if word in ("no", "false", "off", "0"):
        return False
    raise ValueError("yes or no is wanted")


def is_true(text: str) -> bool:
    """Return whether a value means yes to Samba; False also if it means neither yes nor no."""
    try:
        return boolean(text)
    except ValueError:
        return False


def string(text: str) -> str:
    """Return what a string is without the quotes around it; quotes inside make them part of it.

    Source: source3/param/loadparm.c, loadparm_s3_global_substitution_fn(); util_str.c, trim_char().
    Strings with a colon in their name are not read so, but as they stand (lp_parm_const_string()).
    """
    inner = text.strip('"')
    return text if '"' in inner else inner


def listed(text: str) -> tuple[str, ...]:
    """Return the entries of a list.

    Source: lib/util/util_strlist_v3.c, str_list_make_v3(); util_str.c, next_token_talloc().
    """
    words = re.findall(rf'(?:"[^"]*"?|(?!{_SEPARATOR.pattern})[^"])+', text)
    return tuple(word.replace('"', "") for word in words)


def joined(entries: Iterable[str]) -> str:
    """Return the text of a list, for entries without quotes: the inverse of `listed`."""
    return " ".join(
        f'"{entry}"' if not entry or _SEPARATOR.search(entry) else entry for entry in entries
    )


def directory(path: str) -> str:
    """Return the directory that smbd serves for a path; one with a '..' is left as it is.

    Source: source3/lib/util_path.c, canonicalize_absolute_path().
    """
    return path if ".." in path.split("/") else os.path.normpath(f"/{path.lstrip('/')}")


def macro(text: str) -> str:
    """Return the first macro that is not the same for all clients of a share, or empty."""
    found = _MACRO.search(text)
    return found[0] if found else ""


def has_name(text: str) -> bool:
    """Return whether a value has the macro of the share's name."""
    return _NAME in text


def with_name(text: str, share: str) -> str:
    """Return a value with a share's name in the place of its macro, as Samba puts it."""
    return text.replace(_NAME, _UNSAFE.sub("_", share))


def is_certain(share: str) -> bool:
    """Return whether every Samba puts the same text for the macro of a share's name."""
    return _UNSAFE.sub("_", share) == _UNSAFE_EVERYWHERE.sub("_", share)
