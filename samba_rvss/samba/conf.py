"""smb.conf: which shares are ours, and the ``rvss:`` options.

Samba's own parser reads the file (includes, ``copy =``, defaults), and its registry interface the
shares kept there. Nothing here changes anything. python-samba keeps global state and can block, so
the daemon calls `load` through `samba_rvss.samba.process`, a command directly.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Share
from samba_rvss.samba.options import (
    COMMIT_DEADLINE,
    GRACE,
    MAXIMUM_AGE,
    NESTED,
    OPTIONS,
    PREVIOUS_VERSIONS,
    RECOVERY_TIMEOUT,
    RUN_DIRECTORY,
    SEAL_DEADLINE,
    STATE_DIRECTORY,
    boolean,
)

# A registry share that ExposeShadowCopySet made: source3/rpc_server/fss/srv_fss_agent.c,
# map_share_name().
EXPOSED = re.compile(r"(?P<share>.+)@\{(?P<copy>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}\$?")

_INCLUDE = re.compile(r"\s*include\s*=\s*(\S.*?)\s*$", re.IGNORECASE)
_SECTION = re.compile(r"\s*\[([^\]]*)\]")
_SEQUENCE_NUMBER = 48

_VERBS = {"check": "check path command", "create": "create command", "delete": "delete command"}
_HOOKS = {("samba-rvss", "hook"), ("samba_rvss", "hook.py")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A share of smb.conf: ours, or the reason why it is not."""

    name: str
    path: str
    registry: bool
    share: Share | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One reading of smb.conf. Times are in seconds."""

    file: str
    run_directory: str
    state_directory: str
    commit_deadline: float
    seal_deadline: float
    recovery_timeout: float
    maximum_age: float
    grace: float
    samba_lock_directory: str
    samba_state_directory: str
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = field(default=())
    files: tuple[str, ...] = field(default=())
    global_modules: tuple[str, ...] = field(default=())

    @property
    def shares(self) -> tuple[Share, ...]:
        """The shares that are ours."""
        return tuple(section.share for section in self.sections if section.share)

    def modules(self, share: str) -> tuple[str, ...]:
        """Return the ``vfs objects`` that a share of ours has in effect, [global]'s for others."""
        objects = {one.name.lower(): one.vfs_objects for one in self.shares}
        return objects.get(share.lower(), self.global_modules)

    @property
    def hook_socket(self) -> str:
        """Where the hook finds the daemon."""
        return f"{self.run_directory}/hook.sock"

    @property
    def admin_socket(self) -> str:
        """Where the administrator's commands find the daemon."""
        return f"{self.run_directory}/admin.sock"

    @property
    def ledger(self) -> str:
        """The ledger's file."""
        return f"{self.state_directory}/ledger.db"

    @property
    def fss_state(self) -> str:
        """Samba's record of shadow copy sets (srv_fss_agent.c, srv_fssa_start())."""
        return f"{self.samba_lock_directory}/srv_fss.tdb"


@contextmanager
def samba_speaks() -> Iterator[list[str]]:
    """Catch what Samba's libraries write to standard error; the list is filled at the end."""
    said: list[str] = []
    saved = os.dup(2)
    sink = os.memfd_create("samba-stderr")
    try:
        os.dup2(sink, 2)
        yield said
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        size = os.fstat(sink).st_size
        text = os.pread(sink, min(size, 4096), 0).decode("utf-8", "replace")
        os.close(sink)
        said.extend(line for line in text.splitlines() if "talloc stackframe" not in line)


def open_context(configfile: str) -> Any:
    """Let Samba's parser read a configuration file.

    Raises:
        RvssError: CONFIG if it cannot.
    """
    from samba.samba3 import param

    context = param.get_context()
    path = configfile or context.configfile or "/etc/samba/smb.conf"
    if not os.access(path, os.R_OK):
        raise RvssError(Problem.CONFIG, f"cannot read {path}", "name another file with -s")
    with samba_speaks() as said:
        try:
            context.load(path)
            failed = False
        except RuntimeError:
            failed = True
    if failed:
        raise RvssError(
            Problem.CONFIG,
            f"Samba does not accept {path}: {'; '.join(said) or 'no reason given'}",
            "run testparm on it",
        )
    return context


def _dump(context: Any) -> dict[str, dict[str, str]]:
    """Return every section as Samba resolved it."""
    sink = os.memfd_create("smb.conf")
    try:
        with samba_speaks():
            defaults = False
            context.dump(defaults, f"/proc/self/fd/{sink}")
        size = os.fstat(sink).st_size
        text = os.fsdecode(os.pread(sink, size, 0))
    finally:
        os.close(sink)
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.split("\n"):
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], {})
        elif line.startswith("\t"):
            key, _, value = line[1:].partition(" =")
            current[key.strip().lower()] = value.strip()
    return sections


def _registry() -> dict[str, dict[str, str]]:
    from samba.samba3 import smbconf

    with samba_speaks():
        try:
            registry = smbconf.init_reg(None)
            # Exposed shadow copies are Samba's and ours, not the administrator's; there can
            # be thousands.
            names = [name for name in registry.share_names() if not EXPOSED.fullmatch(name)]
            found = {name: dict(registry.get_share(name)[1]) for name in names}
        except smbconf_error() as exc:
            raise RvssError(
                Problem.SAMBA, f"cannot read Samba's registry: {exc}", "try 'net conf list'"
            ) from exc
    return {name: {key.lower(): value for key, value in found[name].items()} for name in found}


def smbconf_error() -> type[Exception]:
    """Return the exception of Samba's smbconf binding, which lives in another module of it."""
    from samba import smbconf as general

    error: type[Exception] = general.SMBConfError
    return error


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
    return given == socket and rest == [verb]


def _section(
    name: str,
    own: Mapping[str, str],
    default: Mapping[str, str],
    *,
    registry: bool,
    included: bool,
    run_directory: str,
) -> Section:
    def effective(key: str) -> str:
        return own.get(key, default.get(key, ""))

    path = own.get("path", "")
    objects = tuple(effective("vfs objects").split())
    share: Share | None = None
    commands = {verb: effective(f"shell_snap:{key}") for verb, key in _VERBS.items()}
    socket = f"{run_directory}/hook.sock"
    wrong = [v for v, command in commands.items() if not _is_our_command(command, v, socket)]
    if not {entry.partition(":")[0] for entry in objects} >= {"shell_snap"}:
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
        )
    return Section(name=name, path=path, registry=registry, share=share, reason=reason)


def _check_options(sections: Mapping[str, Mapping[str, str]]) -> None:
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


def _warnings(globals_: Mapping[str, str]) -> Iterator[str]:
    if not _truth(globals_.get("registry shares", "no")):
        yield (
            "'registry shares' is off in [global]: Samba cannot expose shadow copies;"
            " set 'registry shares = yes' and 'include = registry'"
        )
    if globals_.get("rpcd_fsrvp:num_workers", "").strip() != "1":
        yield (
            "'rpcd_fsrvp:num_workers = 1' is missing in [global]: with more workers, clients"
            " erase each other's shadow copy sets"
        )
    if _truth(globals_.get("fss:prune stale", "no")):
        yield "'fss:prune stale' is on in [global]: it crashes rpcd_fsrvp; remove it"


def _truth(text: str) -> bool:
    try:
        return boolean(text)
    except ValueError:
        return False


def load(configfile: str = "") -> Config:
    """Read smb.conf and the registry.

    Args:
        configfile: the file, or an empty string for the one that Samba was built with.

    Raises:
        RvssError: CONFIG naming section and option, or SAMBA if the registry cannot be read.
    """
    context = open_context(configfile)
    sections = _dump(context)
    globals_ = sections.pop("global", {})
    registry: dict[str, dict[str, str]] = {}
    if _truth(globals_.get("registry shares", "no")):
        lower = {name.lower() for name in sections}
        for name, parameters in _registry().items():
            if name.lower() not in lower and name.lower() != "global":
                # `copy =` takes what the section itself does not set (loadparm.c, copy_service)
                source = parameters.get("copy", "").lower()
                base = next((sections[s] for s in sections if s.lower() == source), {})
                registry[name] = {**base, **parameters}
    _check_options({"global": globals_, **sections, **registry})

    run_directory = RUN_DIRECTORY.read(globals_)
    file = configfile or context.configfile or "/etc/samba/smb.conf"
    direct = _sections_in(file)
    found = [
        _section(
            name,
            own,
            globals_,
            registry=source is registry,
            included=source is sections and name.lower() not in direct,
            run_directory=run_directory,
        )
        for source in (sections, registry)
        for name, own in source.items()
    ]
    return Config(
        file=file,
        run_directory=run_directory,
        state_directory=STATE_DIRECTORY.read(globals_),
        commit_deadline=COMMIT_DEADLINE.read(globals_),
        seal_deadline=SEAL_DEADLINE.read(globals_),
        recovery_timeout=RECOVERY_TIMEOUT.read(globals_),
        maximum_age=MAXIMUM_AGE.read(globals_),
        grace=GRACE.read(globals_),
        samba_lock_directory=str(context.get("lock directory")),
        samba_state_directory=str(context.get("state directory")),
        sections=tuple(found),
        warnings=tuple(_warnings(globals_)),
        global_modules=tuple(globals_.get("vfs objects", "").split()),
        files=tuple(_included(file)),
    )


def _sections_in(path: str) -> frozenset[str]:
    """Return the names, in lower case, of the sections that stand in a file itself.

    ExposeShadowCopySet looks for the base share there and in the registry; included files it
    does not read (lib/smbconf/smbconf_txt.c, smbconf_txt_load_file()).
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as lines:
            found = [match[1] for match in map(_SECTION.match, lines) if match]
    except OSError:
        return frozenset()
    return frozenset(" ".join(name.split()).lower() for name in found)


def _included(path: str, seen: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a file and those that it includes, as far as their names are fixed."""
    if path in seen or "%" in path or len(seen) > 10:
        return
    yield path
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as lines:
            names = [match[1] for match in map(_INCLUDE.match, lines) if match]
    except OSError:
        return
    for name in names:
        if name != "registry":
            yield from _included(name, (*seen, path))


def signature(config: Config) -> tuple[object, ...]:
    """Return a value that changes when the configuration's files or Samba's registry change.

    The registry is a tdb that counts its changes (source3/registry/reg_backend_db.c opens it with
    TDB_SEQNUM; lib/tdb/common/tdb_private.h, struct tdb_header, sequence_number).
    """
    found: list[object] = []
    for path in config.files:
        try:
            status = os.stat(path)
        except OSError as exc:
            found.append((path, exc.errno))
        else:
            found.append((path, status.st_ino, status.st_size, status.st_mtime_ns))
    try:
        with open(f"{config.samba_state_directory}/registry.tdb", "rb", buffering=0) as registry:
            registry.seek(_SEQUENCE_NUMBER)
            found.append(registry.read(4))
    except OSError as exc:
        found.append(exc.errno)
    return tuple(found)


def base_share(exposed: str) -> str:
    """Return the share that an exposed one is a shadow copy of."""
    match = EXPOSED.fullmatch(exposed)
    return match["share"] if match else exposed


def find_share(config: Config, words: tuple[str, ...]) -> Share:
    """Find the share that a callout's words mean.

    ``/bin/sh`` has split the path at its blanks (source3/modules/vfs_shell_snap.c quotes
    nothing), so the words are compared with the configured paths, blanks folded.

    Raises:
        RvssError: NOT_OURS if no share of ours has that path, or paths differ only in blanks.
    """
    given = " ".join(words)
    folded = " ".join(given.split())
    matches = [share for share in config.shares if " ".join(share.path.split()) == folded]
    if not matches:
        for section in config.sections:
            if section.path and " ".join(section.path.split()) == folded:
                raise RvssError(
                    Problem.NOT_OURS,
                    f"[{section.name}] at {given} cannot have shadow copies: {section.reason}",
                )
        raise RvssError(
            Problem.NOT_OURS,
            f"no share in {config.file} has the path {given} and calls this hook",
            "see 'samba-rvss shares'",
        )
    if len({share.path for share in matches}) > 1:
        names = ", ".join(sorted(share.name for share in matches))
        raise RvssError(
            Problem.NOT_OURS,
            f"the paths of the shares {names} differ only in blanks, which Samba does not pass on",
            "rename one of the directories",
        )
    return matches[0]
