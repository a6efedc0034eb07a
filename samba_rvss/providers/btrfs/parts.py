"""The parts of an image: the volume's and one for each nested subvolume; and what they are called.

Names follow from the mark, and are what btrbk takes for snapshots of the subvolume (btrbk(1),
"timestamp_format"); a read-only subvolume can be renamed, but never moved. What must not be taken
for one is writable, or begins with a dot.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samba_rvss.errors import Problem, RvssError

TOP = "top"
PLACE = ".marks"
"""The directory in the home that holds a directory for each mark."""
_IMAGE = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{1,8})")
_NAME = re.compile(r"\.?.+-\d+\.(\d{8}T\d{6}Z)_(\d+)(\.rw\d*)?")
_UUID = re.compile(r"(?:[0-9a-f]{32})?")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_LONGEST = 180  # with a dot, an id of 20 digits, the time, 10 digits and .rw: below 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of an image, as its mark has it.

    Attributes:
        place: where it belongs, below the volume's root; empty for the volume's part.
        base: the first word of its name.
        tree: the id of the subvolume that it is an image of.
        recovery: the uuid of the writable part; empty until it is known.
        sealed: that of the sealed one; empty until it is sealed.
    """

    place: str
    base: str
    tree: int
    recovery: str = ""
    sealed: str = ""


def base(name: str) -> str:
    """Return a subvolume's name as it can begin a part's: without blanks and a leading dot."""
    raw = os.fsencode(name)[:_LONGEST]
    text = "".join(chr(byte) if byte in _PLAIN else "_" for byte in raw)
    return f"_{text[1:]}" if text[:1] in ("", ".", "-") else text


def check(image: str) -> None:
    """See that parts can be named after an image.

    Raises:
        RvssError: BAD_PATH.
    """
    _numbers(image)


def final(image: str, part: Part) -> str:
    """Return what a sealed part is called."""
    moment, digits = _numbers(image)
    return f"{part.base}-{part.tree}.{moment}_{digits}"


def staged(image: str, part: Part) -> str:
    """Return what a part is called while it is being sealed."""
    return f".{final(image, part)}"


def writable(image: str, parts: Sequence[Part], index: int) -> str:
    """Return what a writable part is called: all are named after the volume's."""
    return f"{final(image, parts[0])}.rw{index or ''}"


def begun(image: str, parts: Sequence[Part], index: int) -> str:
    """Return where a writable part is made, below the home, before it gets its place and name.

    Each in a directory that no other is made in; see `together`.
    """
    name = writable(image, parts, index)
    return f"{PLACE}/{image}/{index}/{name}" if index else f"{PLACE}/{image}/{name}"


def starters(image: str) -> str:
    """Return the directory, below the home, of what is made to have an image's parts meet."""
    return f"{PLACE}/{image}/starters"


def image_of(name: str) -> str:
    """Return the id of the image that a part belongs to by its name; empty if it is none."""
    found = _NAME.fullmatch(name)
    return f"{found[1]}-{int(found[2]):08x}" if found else ""


def to_more(parts: Sequence[Part]) -> list[list[Any]]:
    """Return parts as a mark has them."""
    return [[part.place, part.base, part.tree, part.recovery, part.sealed] for part in parts]


def of_more(more: Mapping[str, Any]) -> tuple[Part, ...]:
    """Return the parts in a mark; none if it is not in the form that has them.

    Raises:
        ValueError: if what it says of them is damaged.
    """
    found = []
    for row in more.get("parts", ()):
        place, word, tree, recovery, sealed = row
        texts = (place, word, recovery, sealed)
        if not all(isinstance(text, str) for text in texts) or base(word) != word:
            raise ValueError(row)
        if not (_UUID.fullmatch(recovery) and _UUID.fullmatch(sealed)):
            raise ValueError(row)
        found.append(Part(place=place, base=word, tree=int(tree), recovery=recovery, sealed=sealed))
    if found and found[0].place:
        raise ValueError(found[0])
    return tuple(found)


def _numbers(image: str) -> tuple[str, int]:
    found = _IMAGE.fullmatch(image)
    if found is None:
        raise RvssError(Problem.BAD_PATH, f"{image} is no image's id")
    return found[1], int(found[2], 16)
