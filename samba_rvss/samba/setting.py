"""What has to stand in smb.conf so that Samba serves Remote VSS for a share.

Contract: pure: from the parameters that are there, which are to be changed, each with its reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from samba_rvss.samba import modules, needs
from samba_rvss.samba.clocks import IDLE, SHORT_IDLE
from samba_rvss.samba.edited import Change
from samba_rvss.samba.options import RUN_DIRECTORY
from samba_rvss.samba.sections import COMMANDS, is_our_command
from samba_rvss.samba.values import Parameters, is_true, joined, listed, plain

HOOK = "/usr/libexec/samba-rvss/hook"
"""Where the hook is installed."""

_SHOWS = "shadow_copy2"
_OBJECTS = "vfs objects"
# Of vfs_shadow_copy2: how the names of other snapshots are read, and where they are.
_OTHERS = frozenset(
    {"format", "localtime", "basedir", "snapdirseverywhere", "snapprefix", "sscanf"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What an administrator wants for a share.

    Attributes:
        keep: the value of ``rvss:keep``; empty to leave it as it is.
        previous: the directory of its Previous Versions; empty if there are to be none.
        path: the share's.
    """

    keep: str = ""
    previous: str = ""
    path: str = ""


def for_all(globals_: Parameters, includes: Sequence[str]) -> Iterator[Change]:
    """Yield what is to be changed in [global].

    Args:
        globals_: its parameters, as Samba has them.
        includes: what it includes.
    """

    def change(key: str, value: str | None, why: str) -> Change:
        return Change(section="global", key=key, value=value, why=why)

    if not needs.serves_registry(globals_):
        why = "exposed shadow copies are shares that Samba keeps in its registry"
        yield change("registry shares", "yes", why)
    if "registry" not in map(str.lower, includes):
        yield change("include", "registry", "so that Samba finds them there")
    if not needs.has_one_worker(globals_):
        why = "several workers erase each other's shadow copy sets"
        yield change(needs.WORKERS, "1", why)
    if not needs.forgets_soon(globals_):
        why = "the set of a client that has vanished is in the way of all others until then"
        yield change(IDLE, str(SHORT_IDLE), why)
    if needs.prunes_stale(globals_):
        yield change(needs.PRUNE_STALE, None, "rpcd_fsrvp crashes with it when it starts")


def for_share(
    name: str, own: Parameters, default: Parameters, run_directory: str, wishes: Wishes
) -> Iterator[Change]:
    """Yield what is to be changed in a share's section.

    Args:
        name: the share's.
        own: its own parameters.
        default: those of [global].
        run_directory: the instance's.
        wishes: what is wanted besides shadow copies.
    """

    def change(key: str, value: str, why: str) -> Change:
        return Change(section=name, key=key, value=value, why=why)

    def effective(key: str) -> str:
        return own.get(key, default.get(key, ""))

    objects = list(listed(effective(_OBJECTS)))
    wanted = _with_ours(objects, lambda key: is_true(effective(key)), shows=bool(wishes.previous))
    if wanted != objects:
        repeats = default.get(_OBJECTS, "") and _OBJECTS not in own
        why = "shell_snap calls the hook" + ("; [global]'s are repeated" if repeats else "")
        yield change(_OBJECTS, joined(wanted), why)
    socket = f"{run_directory}/hook.sock"
    hook = HOOK if run_directory == RUN_DIRECTORY.read({}) else f"{HOOK} -S {socket}"
    for verb, parameter in COMMANDS.items():
        key = f"shell_snap:{parameter}"
        if not is_our_command(effective(key), verb, socket):
            yield change(key, f"{hook} {verb}", "what shell_snap runs")
    if wishes.keep and effective("rvss:keep") != wishes.keep:
        yield change("rvss:keep", wishes.keep, "which shadow copies stay as backups")
    if wishes.previous:
        if not is_true(effective("rvss:previous versions")):
            yield change("rvss:previous versions", "yes", "shadow copies are mounted for them too")
        for key, value in (("snapdir", wishes.previous), ("mountpoint", wishes.path)):
            if effective(f"shadow:{key}") != value:
                yield change(f"shadow:{key}", value, "where shadow_copy2 finds them")


def _with_ours(objects: list[str], is_on: modules.IsOn, *, shows: bool) -> list[str]:
    """Return the modules of a share with ours among them, and nobody in its place."""
    names = list(map(modules.name, objects))
    found = list(objects)
    if modules.OURS not in names:
        found.append(modules.OURS)
    if shows and _SHOWS not in names:
        found.insert(list(map(modules.name, found)).index(modules.OURS), _SHOWS)
    if modules.obstacle(found, is_on):
        ours = next(entry for entry in found if modules.name(entry) == modules.OURS)
        found.remove(ours)
        found.insert(0, ours)
    return found


def without(name: str, own: Parameters, default: Parameters, run_directory: str) -> list[Change]:
    """Return what takes away what `for_share` makes, and all ``rvss:`` options of a share.

    Args:
        name, own, default, run_directory: as there.
    """
    why = "it is for shadow copies alone"
    gone = [key for key in own if _is_ours(key, own[key], run_directory)]
    shown = any(plain(key) == "shadow:snapdir" for key in gone)
    if shown:
        gone += [key for key in own if plain(key) == "shadow:mountpoint"]
    changes = [Change(section=name, key=key, value=None, why=why) for key in gone]
    if _OBJECTS not in own:
        return changes
    objects = listed(own[_OBJECTS])
    dropped = {modules.OURS}
    others = [key for key in own if plain(key).startswith("shadow:") and key not in gone]
    if shown and not others:
        dropped.add(_SHOWS)
    left = [entry for entry in objects if modules.name(entry) not in dropped]
    if len(left) < len(objects):
        same = left == list(listed(default.get(_OBJECTS, "")))
        value, why = (None, "what is left is [global]'s") if same else (joined(left), why)
        changes.append(Change(section=name, key=_OBJECTS, value=value, why=why))
    return changes


def _is_ours(key: str, text: str, run_directory: str) -> bool:
    key = plain(key)
    if key.startswith("rvss:"):
        return True
    if key == "shadow:snapdir":
        return text.startswith(f"{run_directory}/previous/")
    verbs = {plain(f"shell_snap:{parameter}"): verb for verb, parameter in COMMANDS.items()}
    return key in verbs and is_our_command(text, verbs[key], f"{run_directory}/hook.sock")


def shown_elsewhere(effective: Parameters, run_directory: str) -> str:
    """Return the parameter by which a share's Previous Versions are somebody else's; or "".

    Args:
        effective: the share's parameters.
        run_directory: the instance's.
    """
    for key, text in effective.items():
        name = plain(key)
        if name in ("shadow:snapdir", "shadow:mountpoint"):
            ours = effective.get("shadow:snapdir", "").startswith(f"{run_directory}/previous/")
            if not ours:
                return f"{key} = {text}"
        elif name.startswith("shadow:") and name.removeprefix("shadow:") in _OTHERS:
            return f"{key} = {text}"
    return ""


def as_lines(changes: Sequence[Change]) -> Mapping[str, list[Change]]:
    """Return changes by their sections, in their order."""
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.section, []).append(change)
    return found
