"""smb.conf as it is written, file by file: what libsmbconf has of it when a copy is exposed.

Samba's own parser (`samba_rvss.samba.parser`) tells what holds for a share, from whatever file.
ExposeShadowCopySet takes only what stands in the share's section of smb.conf itself, as it stands
there (lib/smbconf/smbconf_txt.c). Samba's library for that ends the process over bytes that are not
UTF-8 or a file of 1970, so its grammar is repeated here (lib/util/tini.c). Nothing is changed.
"""

import glob
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from samba_rvss.samba.parser import lower_case
from samba_rvss.samba.values import plain

_BLANKS = " \t\n\v\f\r"
_RUN = re.compile(f"([{_BLANKS}])[{_BLANKS}]+")
_CONTINUED = re.compile(rf"\\[{_BLANKS}]?\Z")
_MACRO = re.compile(r"%(?:\$\([^)]*\)|.)")
_DEEPEST = 10

Parameter = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A part of a file: a section's name, None before the first one, and parameters as written."""

    section: str | None
    parameters: tuple[Parameter, ...]


def read(path: str) -> tuple[Written, ...]:
    """Return the parts of a file, in order; none if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return tuple(parse(file.read()))
    except OSError:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something stands in a text: a parameter, or the head of a section.

    Attributes:
        section: the section's name, None before the first one.
        parameter: as written; None for a head.
        lines: the number of its first line, from 0, and of the line after its last one.
    """

    section: str | None
    parameter: Parameter | None
    lines: tuple[int, int]


def parse(text: str) -> Iterator[Written]:
    """Yield the parts of a text."""
    section: str | None = None
    found: list[Parameter] = []
    for place in places(text):
        if place.parameter is not None:
            found.append(place.parameter)
            continue
        yield Written(section=section, parameters=tuple(found))
        section, found = place.section, []
    yield Written(section=section, parameters=tuple(found))


def places(text: str) -> Iterator[Place]:
    """Yield the places of a text."""
    section: str | None = None
    for first, end, whole in _lines(text):
        line = whole.partition("\0")[0]
        if line.startswith("["):
            section = line[1:].partition("]")[0]
            yield Place(section=section, parameter=None, lines=(first, end))
            continue
        name, equals, value = line.partition("=")
        if equals:
            parameter = _trimmed(name), _trimmed(value)
            yield Place(section=section, parameter=parameter, lines=(first, end))


def passed_over(text: str) -> Iterator[tuple[str | None, str]]:
    """Yield the lines of which Samba takes nothing, or not all, each with the section it is in.

    Such a line is neither a parameter nor the head of a section, or has more in it than that.
    """
    section: str | None = None
    for _, _, whole in _lines(text):
        rest = "=" if "=" in whole else ""
        if whole.startswith("["):
            section, rest, more = whole[1:].partition("]")
            rest = "" if more.strip(_BLANKS) else rest
        if whole.strip(_BLANKS) and (not rest or "\0" in whole):
            yield section, whole


def sections(parts: Iterable[Written]) -> Mapping[str, tuple[Parameter, ...]]:
    """Return the parameters of sections, each in one or several parts, by names in lower case."""
    found: dict[str, tuple[Parameter, ...]] = {}
    for part in parts:
        if part.section is not None:
            name = lower_case(part.section)
            found[name] = found.get(name, ()) + part.parameters
    return found


def includes(parameters: tuple[Parameter, ...]) -> Iterator[str]:
    """Yield the files that parameters include; with a macro in a name, those that it may mean."""
    for name, value in parameters:
        if plain(name) != "include" or value.lower() == "registry":
            continue
        if "%" not in value:
            yield value
        else:
            pattern = "*".join(map(glob.escape, _MACRO.split(value)))
            yield from sorted(glob.glob(pattern, include_hidden=True))


def files(path: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a file and those that it includes, but none whose name has a macro."""
    if path in above or len(above) > _DEEPEST:
        return
    yield path
    for part in read(path):
        for name, value in part.parameters:
            if plain(name) == "include" and value != "registry" and "%" not in value:
                yield from files(value, (*above, path))


def is_global(section: str | None) -> bool:
    """Return whether a section is [global], or what stands before the first one, which is too.

    Source: lib/param/loadparm.c, lpcfg_do_section(), with GLOBAL_NAME and GLOBAL_NAME2.
    """
    return section is None or plain(section) in ("global", "globals")


def in_global(path: str) -> Iterator[Parameter]:
    """Yield the parameters of [global] in their order, each file's where it is included."""
    for part in read(path):
        if not is_global(part.section):
            continue
        for each in part.parameters:
            yield each
            for file in includes((each,)):
                for parameter in leading(file, (path,)):
                    yield parameter[1]


def leading(path: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Parameter]]:
    """Yield each parameter that a file adds to the section that includes it, and its own file."""
    if path in above or len(above) > _DEEPEST:
        return
    parts = read(path)
    for each in parts[0].parameters if parts else ():
        yield path, each
        for file in includes((each,)):
            yield from leading(file, (*above, path))


def _lines(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the lines that are not empty, joined where one goes on in the next.

    Each comes with the number of its first line, and that of the line after its last one.
    """
    whole: str | None = None
    first = 0
    *ended, last = text.split("\n")
    for number, line in enumerate(ended):
        if whole is None:
            if line.lstrip(_BLANKS).startswith(("#", ";")):
                continue
            first = number
        whole = _RUN.sub(r"\1", line.lstrip(_BLANKS) if whole is None else whole + line)
        if _CONTINUED.search(whole):
            whole = _CONTINUED.sub("", whole)
            continue
        yield first, number + 1, whole
        whole = None
    if whole is None:
        if last.lstrip(_BLANKS).startswith(("#", ";")):
            return
        first, whole = len(ended), last.lstrip(_BLANKS)
    else:
        whole += last
    yield first, len(ended) + 1, _RUN.sub(r"\1", whole)


def _trimmed(text: str) -> str:
    """Return a text without the one blank that may be at each of its ends."""
    text = text[1:] if text[:1] and text[0] in _BLANKS else text
    return text[:-1] if text and text[-1] in _BLANKS else text
