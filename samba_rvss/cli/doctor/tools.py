"""Other snapshot tools on this machine: whether what they are configured to do touches our images.

Contract: configuration is read, and judged purely; nothing is run. What is not understood touches
nothing of ours as far as can be told.
Sources: snapper-configs(5); btrbk.conf(5); sanoid's wiki, sanoid.conf; zrepl's documentation,
"Filter Syntax"; zfs-auto-snapshot(8).
"""

import configparser
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from samba_rvss.kernel import files
from samba_rvss.model import Advice

_PATTERNS = {
    "snapper": ("etc/snapper/configs/*",),
    "btrbk": ("etc/btrbk/*.conf", "etc/btrbk.conf"),
    "sanoid": ("etc/sanoid/sanoid.conf",),
    "zrepl": ("etc/zrepl/zrepl.yml", "etc/zrepl/zrepl.yaml"),
    "zfs-auto-snapshot": ("etc/cron.*/zfs-auto-snapshot*",),
}
_LARGEST = 1 << 20  # bytes of a file
_HOME = ".samba-rvss"
_YES = ("yes", "true", "on", "1", "zfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A snapshot tool's configuration file, and its text."""

    name: str
    file: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a share is: its name, its path, and the pool of its dataset, empty if it has none."""

    share: str
    path: str
    pool: str = ""


def look(root: str = "/") -> tuple[Tool, ...]:
    """Return the configurations that there are below a root directory."""
    found = []
    for name, patterns in _PATTERNS.items():
        for pattern in patterns:
            for file in sorted(glob.glob(os.path.join(glob.escape(root), pattern))):
                text = _text(file)
                if text:
                    found.append(Tool(name=name, file=file, text=text))
    return tuple(found)


def judge(tools: Sequence[Tool], places: Sequence[Place]) -> Iterator[Advice]:
    """Yield what tools do to our images.

    Args:
        tools: what is configured.
        places: where the shares are that are ours.
    """
    for tool in tools:
        yield from _JUDGES[tool.name](tool, places)


def _text(file: str) -> str:
    try:
        # Not a device or a pipe that would be waited for.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        with files.opened(os.open(file, flags)) as fd:
            return os.read(fd, _LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""


def _advice(what: str, why: str, write: str, share: str = "") -> Advice:
    return Advice(check="tools", what=what, why=why, write=write, share=share)


def _snapper(tool: Tool, places: Sequence[Place]) -> Iterator[Advice]:
    match = re.search(r'^\s*SUBVOLUME\s*=\s*"?([^"\n]*)', tool.text, re.MULTILINE)
    subvolume = os.path.normpath(match[1].strip()) if match and match[1].strip() else ""
    for place in places:
        if subvolume and f"{subvolume}/".startswith(f"{place.path.rstrip('/')}/"):
            yield _advice(
                f"snapper keeps its snapshots in {os.path.join(subvolume, '.snapshots')}, inside"
                f" the share ({tool.file})",
                "they are nested subvolumes: without 'rvss:nested = include' the share is refused,"
                " and with it each shadow copy has all of them",
                "share a subvolume that snapper does not know, or take this configuration out of"
                f" snapper: snapper -c {os.path.basename(tool.file)} delete-config",
                place.share,
            )


def _btrbk(tool: Tool, places: Sequence[Place]) -> Iterator[Advice]:
    levels: dict[int, dict[str, str]] = {0: {}, 1: {}, 2: {}}
    sections: list[Mapping[str, str]] = []
    level = 0

    def whole() -> dict[str, str]:
        return {**levels[0], **levels[1], **levels[2]}

    for line in [*tool.text.splitlines(), "volume"]:
        key, value = (*line.partition("#")[0].split(None, 1), "", "")[:2]
        if key in ("volume", "subvolume"):
            if level == 2:
                sections.append(whole())
            level = 1 if key == "volume" else 2
            for below in range(level, 3):
                levels[below] = {}
        if key:
            levels[level][key] = value.strip()
    for section in sections:
        if _HOME in section.get("subvolume", ""):
            yield _advice(
                f"btrbk takes snapshots of {section['subvolume']} ({tool.file})",
                "that is an image of ours, or all of them",
                "name the subvolume of the share instead, and 'snapshot_dir .samba-rvss'",
            )
        elif _HOME in section.get("snapshot_dir", ""):
            if section.get("snapshot_preserve_min", "all") != "all":
                yield _advice(
                    f"btrbk prunes the snapshots of {section['subvolume']} in"
                    f" {section['snapshot_dir']} ({tool.file})",
                    "it deletes our images, which are backups and shadow copies",
                    "write 'snapshot_preserve_min all'",
                )
            elif section.get("snapshot_create", "always") != "no":
                yield _advice(
                    f"btrbk makes snapshots of its own in {section['snapshot_dir']} ({tool.file})",
                    "nobody removes them from there",
                    "write 'snapshot_create no'",
                )


def _sanoid(tool: Tool, places: Sequence[Place]) -> Iterator[Advice]:
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        parser.read_string(tool.text)
    except configparser.Error:
        return
    for home in _homes(places):
        left_out = parser.has_section(home) and (
            not _sanoid_is_on(parser, home, "autosnap")
            and {_own(parser, home, "recursive"), _own(parser, home, "skip_children")} & {*_YES}
        )
        for section in parser.sections():
            recursive = _own(parser, section, "recursive")
            covers = section == home or (recursive and home.startswith(f"{section}/"))
            counts = covers and (recursive == "zfs" or not left_out)
            if counts and recursive in _YES and _sanoid_is_on(parser, section, "autosnap"):
                yield _advice(
                    f"sanoid takes snapshots of what is in {home}, by [{section}] ({tool.file})",
                    "a snapshot of one of our clones keeps it from being deleted",
                    f"add '[{home}]' with 'autosnap = no', 'autoprune = no' and 'recursive = yes',"
                    f" and let [{section}] have 'recursive = yes' and not 'zfs'",
                )
                break


def _own(parser: configparser.ConfigParser, section: str, option: str) -> str:
    """Return an option of a section itself: of templates, sanoid does not take these."""
    return (parser.get(section, option, fallback="") or "").split("#")[0].strip().lower()


def _sanoid_option(parser: configparser.ConfigParser, section: str, option: str) -> str:
    """Return an option of a section, or of the templates that it uses, the last one's first."""
    names = (parser.get(section, "use_template", fallback="") or "").split(",")
    for name in (section, *(f"template_{name.strip()}" for name in reversed(names))):
        if value := parser.get(name, option, fallback=None):
            return value.split("#")[0].strip()
    return ""


def _sanoid_is_on(parser: configparser.ConfigParser, section: str, option: str) -> bool:
    return _sanoid_option(parser, section, option).lower() in ("", *_YES)


def _zrepl(tool: Tool, places: Sequence[Place]) -> Iterator[Advice]:
    lines = [line.partition("#")[0] for line in tool.text.splitlines()]
    filters = [
        match.groups()
        for line in lines
        if (match := re.search(r'["\']?([\w/.:-]*)(<?)["\']?\s*:\s*(true|false)\s*[,}]?\s*$', line))
    ]
    for home in _homes(places):
        # Of what is in it: of those that have it, the longest name counts.
        said = {
            f"{name}<": on
            for name, below, on in filters
            if below and (not name or f"{home}/".startswith(f"{name}/"))
        }
        longest = max(said, key=len, default="")
        if said.get(longest) == "true":
            yield _advice(
                f"zrepl takes snapshots of what is in {home}, by '{longest}: true' ({tool.file})",
                "it can neither replicate clones nor leave snapshots alone that it did not make",
                f"add '\"{home}<\": false' below its 'filesystems:', and to 'keep:' a rule of type"
                " regex with '^rvss-'",
            )


def _homes(places: Sequence[Place]) -> list[str]:
    return list(dict.fromkeys(f"{place.pool}/samba-rvss" for place in places if place.pool))


_JUDGES: Mapping[str, Callable[[Tool, Sequence[Place]], Iterator[Advice]]] = {
    "snapper": _snapper,
    "btrbk": _btrbk,
    "sanoid": _sanoid,
    "zrepl": _zrepl,
    # It leaves out what has com.sun:auto-snapshot=false, as our clones have.
    "zfs-auto-snapshot": lambda tool, places: iter(()),
}
