"""The text of smb.conf with some parameters changed, and all else as it was.

Contract: pure. Lines that are not concerned stay byte for byte, comments and order included.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from samba_rvss.samba import written
from samba_rvss.samba.parser import lower_case
from samba_rvss.samba.values import plain

_INDENTATION = "    "


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A parameter that is to have another value.

    Attributes:
        section: the section's name; "global" for [global].
        key: the parameter.
        value: its text; None if it is to be taken out.
        why: half a sentence.
    """

    section: str
    key: str
    value: str | None
    why: str

    @property
    def line(self) -> str:
        """The parameter as smb.conf has it, or would not have it."""
        return f"{self.key} = {self.value}" if self.value is not None else f"no '{self.key}'"


def edited(text: str, changes: Iterable[Change]) -> str:
    """Return a text of smb.conf with changes.

    Of several parts of a section only the last one is changed: at its head Samba forgets the
    parameters with a colon of the parts before (lib/param/loadparm.c, lp_do_section()). A new
    parameter comes after the last one, but before a file is included, which may end the section for
    Samba. [global] is made where it is missing.

    Args:
        text: the file's, with lines that end in a line feed.
        changes: what is to be changed.

    Raises:
        KeyError: there is no such section.
    """
    for change in changes:
        # A last line that goes on would take what comes after it.
        text = _with(text if text.endswith("\n") else f"{text}\n", change)
    return text


def _is(section: str | None, name: str) -> bool:
    if written.is_global(name):
        return written.is_global(section)
    return section is not None and lower_case(section) == lower_case(name)


def _with(text: str, change: Change) -> str:
    lines = text.split("\n")
    found = [place for place in written.places(text) if _is(place.section, change.section)]
    key = plain(change.key)
    # `include` may be there several times, each with a file of its own.
    several = key == "include"
    same = [
        place
        for place in found
        if place.parameter and plain(place.parameter[0]) == key and not several
    ]
    if change.value is None:
        for place in reversed(same):
            del lines[slice(*place.lines)]
        return "\n".join(lines)
    heads = [number for number, place in enumerate(found) if place.parameter is None]
    last = found[heads[-1] :] if heads else found
    present = [place for place in last if place in same]
    if present:
        first, end = present[-1].lines
        lines[first:end] = [f"{_indentation(lines[first])}{change.line}"]
        return "\n".join(lines)
    if last:
        including = next((place for place in last if _includes(place)), None)
        if including is not None:
            at, beside = including.lines[0], including
        else:
            at, beside = last[-1].lines[1], last[-1]
        before = _INDENTATION
        if beside.parameter is not None:
            before = _indentation(lines[beside.lines[0]])
        lines.insert(at, f"{before}{change.line}")
    elif written.is_global(change.section):
        lines[:0] = ["[global]", f"{_INDENTATION}{change.line}", ""]
    else:
        raise KeyError(change.section)
    return "\n".join(lines)


def _includes(place: written.Place) -> bool:
    """Return whether a file is included at a place."""
    if place.parameter is None or plain(place.parameter[0]) != "include":
        return False
    return place.parameter[1].lower() != "registry"


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
