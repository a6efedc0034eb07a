"""Sections of smb.conf: whether each is a share of ours, and if not, why."""

import difflib
import os
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from samba_rvss.model import Advice, Share, Writers
from samba_rvss.samba import callout, exposable, modules, values
from samba_rvss.samba.options import (
    BACKUP_WARN_AGE,
    INSTANT,
    KEEP,
    MANIFEST,
    MAXIMUM_COPIES,
    MINIMUM_FREE,
    MINIMUM_FREE_PERCENT,
    NESTED,
    OPTIONS,
    PREVIOUS_VERSIONS,
    PREVIOUS_VERSIONS_LIMIT,
    PRUNE_REQUIRES,
    RECOVERY_LINK,
    RETENTION,
    RETENTION_MINIMUM,
    option_of,
)
from samba_rvss.samba.values import is_true, listed, string

COMMANDS = {"check": "check path command", "create": "create command", "delete": "delete command"}
"""The callouts of vfs_shell_snap, and the parameter of each (source3/modules/vfs_shell_snap.c)."""
_HOOKS = {("samba-rvss", "hook"), ("samba_rvss", "hook.py")}
_SOCKET = "/run/samba-rvss/hook.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of smb.conf.

    Attributes:
        path: the directory that clients see; empty if it has none.
        share: the share, if it is ours; if not, None, and ``reason`` says why.
        inherits: whether nothing in it has to do with shadow copies: it calls the hook, if it does,
            because [global] says so for all shares.
        written: the path as Samba has it in srv_fss.tdb and tells the hook: with quotes taken
            off, and nothing else; empty if that is ``path``.
        unfit: whether it would be ours, and stands where Samba cannot expose a copy of it.
        callouts: the commands of shell_snap that it has, from wherever.
        obstacles: what has to be mended before it can have shadow copies, as smb.conf tells it.
    """

    name: str
    path: str
    registry: bool
    share: Share | None
    reason: str
    written: str = ""
    inherits: bool = False
    unfit: bool = False
    callouts: tuple[str, ...] = ()
    obstacles: tuple[Advice, ...] = ()

    @property
    def volume(self) -> str:
        """What Samba calls the share's volume."""
        return self.written or self.path

    @property
    def told(self) -> frozenset[str]:
        """What a callout that means this share is told, blanks folded."""
        passed = callout.passed(self.volume)
        return frozenset(
            {callout.folded(self.volume)} | ({passed} if passed is not None else set())
        )


def is_our_command(command: str, verb: str, socket: str) -> bool:
    """Return whether a command of vfs_shell_snap is our hook, for an instance's socket.

    Args:
        command: as smb.conf has it.
        verb: which callout it is.
        socket: the instance's.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    if words and os.path.basename(words[0]).startswith("python3"):
        words = words[1:]
        while words and words[0].startswith("-"):
            words = words[1:]
    if not words or tuple(words[0].split("/")[-2:]) not in _HOOKS:
        return False
    given = _SOCKET
    rest = words[1:]
    if rest[:1] == ["-S"] and len(rest) > 1:
        given, rest = rest[1], rest[2:]
    if given != socket:
        # smb.conf may reach the run directory through a link: /var/run is one.
        directory, name = os.path.split(given)
        given = os.path.join(os.path.realpath(directory), name)
    return given == socket and rest == [verb]


def section(
    name: str,
    own: Mapping[str, str],
    default: Mapping[str, str],
    inherited: Mapping[str, str],
    *,
    registry: bool,
    included: bool,
    run_directory: str,
) -> Section:
    """Tell whether a section is a share of ours.

    Args:
        name: its name.
        own: its options.
        default: the options of [global].
        inherited: those of them that hold for shares.
        registry: whether it is in Samba's registry.
        included: whether it stands in an included file.
        run_directory: this instance's.
    """

    def effective(key: str, otherwise: str = "") -> str:
        return own.get(key, default.get(key, otherwise))

    written = string(effective("path"))
    path = values.with_name(written, name)
    macro = values.macro(written) or values.macro(path)
    objects = listed(effective("vfs objects"))
    share: Share | None = None
    commands = {verb: effective(f"shell_snap:{key}") for verb, key in COMMANDS.items()}
    socket = f"{run_directory}/hook.sock"
    wrong = [v for v, command in commands.items() if not is_our_command(command, v, socket)]
    obstacles = list[Advice]()
    if modules.OURS not in map(modules.name, objects):
        reason = "vfs objects has no shell_snap"
        if any(values.plain(key).startswith(("shell_snap:", "rvss:")) for key in own):
            whole = values.joined((*objects, modules.OURS))
            obstacles.append(
                Advice(check="callouts", what=reason, write=f"write 'vfs objects = {whole}'")
            )
    elif wrong:
        names = " and ".join(f"'shell_snap:{COMMANDS[verb]}'" for verb in wrong)
        reason = f"{names} does not call the hook of this instance ({socket})"
        lines = " and ".join(f"'{_line(verb, socket)}'" for verb in wrong)
        obstacles.append(Advice(check="callouts", what=reason, write=f"write {lines}"))
    elif included:
        where = "it stands in an included file, where Samba cannot find it when it exposes a copy"
        move = "move it into smb.conf itself or into the registry"
        reason = f"{where}; {move}"
        obstacles.append(Advice(check="expose", what=where, write=move))
    elif name.lower() == "homes":
        reason = "it stands for a share of each user, and Samba exposes no copy of those"
        obstacles.append(
            Advice(check="names", what=reason, write="take shell_snap out of it, or name a share")
        )
    elif not path:
        reason = "it has no path"
        obstacles.append(Advice(check="path", what=reason, write="write 'path = /…' into it"))
    elif macro:
        where = f"its path has the macro {macro}, so it may be another directory for each client"
        reason = f"{where}; write the directory itself"
        obstacles.append(Advice(check="names", what=where, write="write the directory itself"))
    else:
        reason = ""
        shadowed = modules.obstacle(objects, lambda key: is_true(effective(key, "no")))
        obstacles += filter(None, [shadowed or _obstacle(name, written)])
        share = Share(
            name=name,
            path=values.directory(path),
            nested=NESTED.read(own, default),
            instant=INSTANT.read(own, default),
            previous_versions=PREVIOUS_VERSIONS.read(own, default),
            previous_versions_limit=PREVIOUS_VERSIONS_LIMIT.read(own, default),
            maximum_copies=MAXIMUM_COPIES.read(own, default),
            minimum_free=MINIMUM_FREE.read(own, default),
            minimum_free_percent=MINIMUM_FREE_PERCENT.read(own, default),
            keep=KEEP.read(own, default),
            recovery_link=RECOVERY_LINK.read(own, default),
            manifest=MANIFEST.read(own, default),
            retention=replace(
                RETENTION.read(own, default),
                minimum=RETENTION_MINIMUM.read(own, default),
                requires=PRUNE_REQUIRES.read(own, default),
            ),
            backup_warn_age=BACKUP_WARN_AGE.read(own, default),
            vfs_objects=objects,
            writers=_writers(effective),
            write_list=values.with_name(effective("write list"), name),
            named=_named(name, inherited, own),
            obstacle=_said(obstacles),
            valid_users=listed(values.with_name(effective("valid users"), name)),
            guest_only=is_true(effective("guest only")),
            forced=_forced(effective),
            shadow=_with_prefix("shadow:", default, own),
        )
    return Section(
        name=name,
        path=values.directory(path) if path else "",
        registry=registry,
        share=share,
        reason=reason,
        written=written,
        inherits=not any(map(_is_about_copies, own)),
        unfit=included and not wrong and modules.OURS in map(modules.name, objects),
        callouts=tuple(filter(None, commands.values())),
        obstacles=tuple(obstacles),
    )


def _said(obstacles: Iterable[Advice]) -> str:
    return "; ".join(advice.line() for advice in obstacles)


def _line(verb: str, socket: str) -> str:
    """Return the line of smb.conf that has a verb of the hook called."""
    given = "" if socket == _SOCKET else f" -S {socket}"
    return f"shell_snap:{COMMANDS[verb]} = /usr/libexec/samba-rvss/hook{given} {verb}"


def _is_about_copies(key: str) -> bool:
    """Return whether a share that has a parameter of its own is meant to have shadow copies."""
    key = values.plain(key)
    return key == "vfsobjects" or key.startswith(("shell_snap:", "rvss:"))


def _named(share: str, *sections: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the parameters in which Samba puts the share's name, with the name in them."""
    return tuple(
        (key, values.with_name(text, share))
        for key, text in values.Parameters(*sections).items()
        if values.has_name(text) and values.plain(key) != "path"
    )


def _obstacle(name: str, written: str) -> Advice | None:
    """Return why Samba cannot tell the hook a path, and what to do; None if it can."""
    if callout.passed(written) != callout.folded(written):
        return Advice(
            check="names",
            what=f"Samba cannot pass its path {written} on to the hook, because it has a quote, a"
            " backslash, a line's end or what is not UTF-8 in it",
            write="rename the directory",
        )
    if values.has_name(written) and not values.is_certain(name):
        return Advice(
            check="names",
            what=f"what Samba puts for %S in its path {written} depends on Samba's version, because"
            " of the share's name",
            write="write the directory itself",
        )
    return None


def told_apart(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Return sections, with an obstacle for shares that a callout cannot tell from others."""
    meant: dict[str, list[Share]] = defaultdict(list)
    for found in sections:
        if found.share and (told := callout.passed(found.volume)) is not None:
            meant[told].append(found.share)

    def apart(found: Section) -> Section:
        share = found.share
        told = callout.passed(found.volume)
        if share is None or share.obstacle or told is None:
            return found
        if obstacle := confusion(meant[told]):
            return replace(
                found, share=replace(share, obstacle=obstacle.line()), obstacles=(obstacle,)
            )
        return found

    return tuple(map(apart, sections))


def confusion(shares: Sequence[Share]) -> Advice | None:
    """Return why nobody can tell which of several shares a callout means; None if it is clear."""
    if len({share.path for share in shares}) < 2:
        return None
    names = ", ".join(sorted(share.name for share in shares))
    return Advice(
        check="names",
        what=f"the paths of the shares {names} differ only in blanks, quotes, backslashes or %S,"
        " which Samba does not pass on",
        write="write the directories themselves, or rename one",
    )


def _writers(effective: Callable[..., str]) -> Writers:
    """Tell whom a share's shadow copies let write during recovery.

    Who is in ``write list`` may write whatever else is set; with ``force user`` and ``guest only``
    the hook's user is not the client's (source3/smbd/share_access.c,
    is_share_read_only_for_token(); smb2_service.c, set_conn_force_user_group()).
    """
    if not is_true(effective("read only", "yes")):
        return Writers.ANYBODY
    if listed(effective("write list")):
        return Writers.LISTED
    return Writers.UNKNOWN if _forced(effective) else Writers.CLIENT


def _forced(effective: Callable[..., str]) -> str:
    """Return the setting that gives the hook another user than the client's; "" if none does."""
    user = string(effective("force user"))
    if user:
        return f"'force user = {user}'"
    return "'guest only = yes'" if is_true(effective("guest only")) else ""


def _with_prefix(prefix: str, *sections: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return parameters with a colon, without what comes before it; the last section's count."""
    found = {values.plain(name): text for own in sections for name, text in own.items()}
    return tuple(
        (name.removeprefix(prefix), text)
        for name, text in sorted(found.items())
        if name.startswith(prefix)
    )


def faults(name: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong with the ``rvss:`` options of a section, by the parameter.

    An option is wrong if it is unknown, has a bad value, or belongs in another section. In [global]
    that concerns everybody; in a share, that share alone.

    Args:
        name: the section's.
        parameters: its own.

    Returns:
        A sentence each, that goes on after the section's name.
    """
    found: dict[str, str] = {}
    for key, text in parameters.items():
        kind, _, word = key.partition(":")
        if values.plain(kind) != "rvss":
            continue
        option = option_of(word)
        if option is None:
            found[key] = f"has the unknown option '{key}': {_meant(word)}"
        elif name != "global" and not option.per_share:
            found[key] = f"has '{key}', which belongs in [global]"
        else:
            try:
                option.take(text)
            except ValueError as exc:
                found[key] = f"has '{key} = {text}': {exc}"
    return found


def _meant(word: str) -> str:
    """Return what may be meant by an option that there is not."""
    close = difflib.get_close_matches(word.lower(), OPTIONS, n=1)
    meant = f"'rvss:{close[0]}' may be meant; " if close else ""
    return f"{meant}see samba-rvss.conf(5)"


def taken_out(section: Section, wrong: Iterable[str], sources: exposable.Sources) -> Section:
    """Return a section that can have no shadow copies if Samba could not expose them.

    Nor can it if something is wrong with its options. It stays ours: the copies that it has are
    served and cleared away.
    """
    faulty = tuple(
        Advice(check="options", what=f"it {what}", write="correct it, or take it out")
        for what in wrong
    )
    if section.share is None:
        reason = "; ".join((section.reason, *(advice.what for advice in faulty)))
        return replace(section, reason=reason, obstacles=(*section.obstacles, *faulty))
    exposing = tuple(exposable.obstacles(section.name, sources))
    said = [advice.what for advice in faulty] or [advice.line() for advice in section.obstacles]
    said += [advice.line() for advice in exposing]
    return replace(
        section,
        share=replace(section.share, obstacle="; ".join(said)),
        obstacles=(*section.obstacles, *faulty, *exposing),
    )
