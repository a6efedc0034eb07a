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

    A parameter that is there is changed where Samba takes it from: of several it takes the last. A
    new one comes after the last one of its section. [global] is made where it is missing.

    Args:
        text: the file's, with lines that end in a line feed.
        changes: what is to be changed.

    Raises:
        KeyError: there is no such section.
    """
    for change in changes:
        text = _with(text, change)
    return text


def _with(text: str, change: Change) -> str:
    lines = text.split("\n")
    name = lower_case(change.section)
    found = [place for place in written.places(text) if lower_case(place.section or "") == name]
    same = [
        place
        for place in found
        if place.parameter and plain(place.parameter[0]) == plain(change.key)
    ]
    if change.value is None:
        for place in reversed(same):
            del lines[slice(*place.lines)]
        return "\n".join(lines)
    if same:
        first, end = same[-1].lines
        lines[first:end] = [f"{_indentation(lines[first])}{change.line}"]
        return "\n".join(lines)
    if found:
        first, end = found[-1].lines
        before = _indentation(lines[first]) if found[-1].parameter else _INDENTATION
        lines.insert(end, f"{before}{change.line}")
    elif name == "global":
        lines[:0] = ["[global]", f"{_INDENTATION}{change.line}", ""]
    else:
        raise KeyError(change.section)
    return "\n".join(lines)


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
