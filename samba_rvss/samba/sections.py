"""Sections of smb.conf: whether each is a share of ours, and if not, why."""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Share, Writers
from samba_rvss.samba import modules
from samba_rvss.samba.options import NESTED, OPTIONS, PREVIOUS_VERSIONS, boolean

_VERBS = {"check": "check path command", "create": "create command", "delete": "delete command"}
_HOOKS = {("samba-rvss", "hook"), ("samba_rvss", "hook.py")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of smb.conf: ``share`` if it is ours; if not, None, and ``reason`` says why."""

    name: str
    path: str
    registry: bool
    share: Share | None
    reason: str


def _is_our_command(command: str, verb: str, socket: str) -> bool:
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
    given = "/run/samba-rvss/hook.sock"
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
        registry: whether it is in Samba's registry.
        included: whether it stands in an included file.
        run_directory: this instance's.
    """

    def effective(key: str, otherwise: str = "") -> str:
        return own.get(key, default.get(key, otherwise))

    path = own.get("path", "")
    objects = modules.listed(effective("vfs objects"))
    share: Share | None = None
    commands = {verb: effective(f"shell_snap:{key}") for verb, key in _VERBS.items()}
    socket = f"{run_directory}/hook.sock"
    wrong = [v for v, command in commands.items() if not _is_our_command(command, v, socket)]
    if modules.OURS not in map(modules.name, objects):
        reason = "vfs objects has no shell_snap"
    elif wrong:
        names = " and ".join(f"'shell_snap:{_VERBS[verb]}'" for verb in wrong)
        reason = f"{names} does not call the hook of this instance ({socket})"
    elif included:
        reason = (
            "it stands in an included file, where Samba cannot find it when it exposes a copy;"
            " move it into smb.conf itself or into the registry"
        )
    elif not path:
        reason = "it has no path"
    elif "%" in path:
        reason = "its path has a macro, so it is another directory for each client"
    else:
        reason = ""
        share = Share(
            name=name,
            path=path,
            nested=NESTED.read(own, default),
            previous_versions=PREVIOUS_VERSIONS.read(own, default),
            vfs_objects=objects,
            writers=_writers(effective),
            write_list=effective("write list"),
            obstacle=modules.obstacle(objects, lambda key: _is_on(key, own, default)),
            forced=_forced(effective),
            shadow=_with_prefix("shadow:", default, own),
        )
    return Section(name=name, path=path, registry=registry, share=share, reason=reason)


def _writers(effective: Callable[..., str]) -> Writers:
    """Tell whom a share's shadow copies let write during recovery.

    Who is in ``write list`` may write whatever else is set; with ``force user`` and ``guest only``
    the hook's user is not the client's (source3/smbd/share_access.c,
    is_share_read_only_for_token(); smb2_service.c, set_conn_force_user_group()).
    """
    if not is_true(effective("read only", "yes")):
        return Writers.ANYBODY
    if modules.listed(effective("write list")):
        return Writers.LISTED
    return Writers.UNKNOWN if _forced(effective) else Writers.CLIENT


def _forced(effective: Callable[..., str]) -> str:
    """Return the setting that gives the hook another user than the client's; "" if none does."""
    user = effective("force user")
    if user:
        return f"'force user = {user}'"
    return "'guest only = yes'" if is_true(effective("guest only")) else ""


def _with_prefix(prefix: str, *sections: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return parameters with a colon, without what comes before it; the last section's count."""
    found = {"".join(name.split()): text for own in sections for name, text in own.items()}
    return tuple(
        (name.removeprefix(prefix), text)
        for name, text in sorted(found.items())
        if name.startswith(prefix)
    )


def _is_on(key: str, *sections: Mapping[str, str]) -> bool:
    """Return whether a parameter with a colon means yes, from the first section that has it."""
    # lib/param/loadparm.c, get_parametric_helper(): blanks in its name do not count
    wanted = "".join(key.split())
    texts = (
        text for own in sections for name, text in own.items() if "".join(name.split()) == wanted
    )
    return is_true(next(texts, "no"))


def check_options(sections: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse unknown ``rvss:`` options, bad values, and options outside the section they belong in.

    Raises:
        RvssError: CONFIG naming section and option.
    """
    for name, parameters in sections.items():
        for key, text in parameters.items():
            if not key.startswith("rvss:"):
                continue
            option = OPTIONS.get(key[5:])
            if option is None:
                raise RvssError(
                    Problem.CONFIG,
                    f"[{name}] has the unknown option '{key}'",
                    f"known are {', '.join(f'rvss:{known}' for known in OPTIONS)}",
                )
            if name != "global" and not option.per_share:
                raise RvssError(Problem.CONFIG, f"[{name}] has '{key}', which belongs in [global]")
            try:
                option.parse(text)
            except ValueError as exc:
                raise RvssError(Problem.CONFIG, f"[{name}] has '{key} = {text}'", str(exc)) from exc


def warnings(globals_: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence on each setting of [global] that breaks Remote VSS."""
    if not is_true(globals_.get("registry shares", "no")):
        yield (
            "'registry shares' is off in [global]: Samba cannot expose shadow copies;"
            " set 'registry shares = yes' and 'include = registry'"
        )
    if globals_.get("rpcd_fsrvp:num_workers", "").strip() != "1":
        yield (
            "'rpcd_fsrvp:num_workers = 1' is missing in [global]: with more workers, clients"
            " erase each other's shadow copy sets"
        )
    if is_true(globals_.get("fss:prune stale", "no")):
        yield "'fss:prune stale' is on in [global]: it crashes rpcd_fsrvp; remove it"


def notes(shares: Iterable[Share]) -> Iterator[str]:
    """Yield a sentence on each share whose settings limit what clients can do with a copy."""
    for share in shares:
        if share.writers is Writers.UNKNOWN:
            yield (
                f"[{share.name}] has 'read only = yes' and 'force user' or 'guest only', so that"
                " nobody knows which client may recover its shadow copies: they stay read-only;"
                " name those who may in 'write list'"
            )


def is_true(text: str) -> bool:
    """Return whether a value means yes to Samba; False also if it means neither yes nor no."""
    try:
        return boolean(text)
    except ValueError:
        return False
