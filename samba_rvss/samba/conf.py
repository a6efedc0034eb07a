"""smb.conf: which shares are ours, and the ``rvss:`` options.

Samba's own parser reads the file (includes, ``copy =``, defaults), and its registry interface the
shares in the registry. Nothing here changes anything. python-samba has global state and can block:
the daemon calls `load` through `samba_rvss.samba.process`, a command calls it directly.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import paths
from samba_rvss.model import Advice, Share
from samba_rvss.samba import callout, exposable, needs, notification, twins, written
from samba_rvss.samba.clocks import Clocks, clocks
from samba_rvss.samba.options import (
    COMMIT_DEADLINE,
    GRACE,
    INSTANCE,
    MAXIMUM_AGE,
    NOTIFY_COMMAND,
    RECOVERY_TIMEOUT,
    RUN_DIRECTORY,
    SEAL_DEADLINE,
    STATE_DIRECTORY,
    Option,
)
from samba_rvss.samba.parser import (
    EXPOSED,
    defaults_of_shares,
    inherited,
    lower_case,
    open_context,
    registry_sections,
    sections_of,
)
from samba_rvss.samba.sections import (
    Section,
    confusion,
    faults,
    section,
    taken_out,
    told_apart,
)
from samba_rvss.samba.values import Parameters, is_true, listed, plain

_SEQUENCE_NUMBER = 48
_TICK = 0.1  # seconds by which a file's times may be behind the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What smb.conf said when it was read. Times are in seconds.

    ``warnings`` are sentences on what breaks Remote VSS, ``notes`` on what limits it; ``advice`` is
    what both have of Samba's own settings;
    ``helpers_on_demand`` is whether Samba starts samba-dcerpcd by itself, ``notify_command`` the
    words of what is told of troubles.
    Our directories have no symbolic link in their paths, and no part that others can replace.
    """

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
    notes: tuple[str, ...] = field(default=())
    files: tuple[str, ...] = field(default=())
    global_modules: tuple[str, ...] = field(default=())
    instance: str = ""
    clocks: Clocks = field(default=Clocks())
    notify_command: tuple[str, ...] = ()
    helpers_on_demand: bool = True
    advice: tuple[Advice, ...] = ()
    # Each callout looks here, in a client's freeze window, however many shares there are.
    _meant: Mapping[str, tuple[Section, ...]] = field(init=False, repr=False, compare=False)
    _unions: Mapping[str, Share] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Note which sections a callout's words may mean, and what protects each share's copies."""
        meant: dict[str, list[Section]] = {}
        for each in self.sections:
            for told in each.told:
                meant.setdefault(told, []).append(each)
        object.__setattr__(self, "_meant", {told: tuple(them) for told, them in meant.items()})
        object.__setattr__(self, "_unions", twins.unions(self.shares))

    @property
    def shares(self) -> tuple[Share, ...]:
        """The shares that are ours."""
        return tuple(section.share for section in self.sections if section.share)

    def meant(self, told: str) -> tuple[Section, ...]:
        """Return the sections that a callout may mean that is told a path, blanks folded."""
        return self._meant.get(told, ())

    def union(self, share: Share) -> Share:
        """Return a share of ours with what protects the copies of its directory; see `twins`."""
        return self._unions[share.name]

    def share(self, name: str) -> Share | None:
        """Return a share of ours by its name, whatever the case; None if there is none."""
        found = {lower_case(ours.name): ours for ours in self.shares}
        found |= {ours.name: ours for ours in self.shares}
        return found.get(name) or found.get(lower_case(name))

    def modules(self, share: str) -> tuple[str, ...]:
        """Return the ``vfs objects`` in effect for a share of ours; for others, [global]'s."""
        ours = self.share(share)
        return ours.vfs_objects if ours else self.global_modules

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
    def homes(self) -> str:
        """The file that remembers where images of ours may be."""
        return f"{self.state_directory}/homes.json"

    @property
    def notified(self) -> str:
        """The file that remembers what the notify command has been told."""
        return f"{self.state_directory}/notified.json"

    @property
    def fss_state(self) -> str:
        """The file of Samba's shadow copy sets (srv_fss_agent.c, srv_fssa_start())."""
        return f"{self.samba_lock_directory}/srv_fss.tdb"


def load(configfile: str = "") -> Config:
    """Read smb.conf and the registry.

    Args:
        configfile: the file, or an empty string for the one that Samba was built with.

    Raises:
        RvssError: CONFIG if the file cannot be read, or naming the option of [global] that is
            wrong; SAMBA if the registry cannot be read.
    """
    context = open_context(configfile)
    sections = sections_of(context)
    globals_ = sections.pop("global", Parameters())
    if is_true(globals_.get("clustering", "no")):
        raise RvssError(
            Problem.CONFIG,
            "'clustering = yes' in [global] is not supported: shadow copies of a share that CTDB"
            " serves on several machines",
            "take samba-rvss out of such a configuration",
        )
    for fault in faults("global", globals_).values():
        raise RvssError(Problem.CONFIG, f"[global] {fault}")
    run_directory = _own_directory(RUN_DIRECTORY, globals_)
    registry: dict[str, Parameters] = {}
    registered: Mapping[str, tuple[written.Parameter, ...]] = {}
    registry_shares = is_true(globals_.get("registry shares", "no"))
    if registry_shares:
        lower = {name.lower() for name in sections}
        registered = registry_sections(f"{run_directory}/")
        for name, parameters in registered.items():
            own = Parameters(dict(parameters))
            if name.lower() not in lower and name.lower() != "global":
                registry[name] = with_copied(own, sections)
    wrong = {name: faults(name, own) for name, own in (*sections.items(), *registry.items())}

    state_directory = _own_directory(STATE_DIRECTORY, globals_)
    if run_directory == state_directory:
        raise RvssError(
            Problem.CONFIG,
            f"'rvss:run directory' and 'rvss:state directory' are both {run_directory}",
            "clients reach the one, and none may reach the other: make them two",
        )
    file = configfile or context.configfile or "/etc/samba/smb.conf"
    files = tuple(dict.fromkeys(written.files(file)))
    parts = {path: written.read(path) for path in files}
    sources = exposable.Sources(
        file=written.sections(parts[file]),
        included={path: written.sections(parts[path]) for path in files[1:]},
        registry={lower_case(name): parameters for name, parameters in registered.items()},
        default=defaults_of_shares(),
        utf8=plain(str(context.get("unix charset"))) in ("utf-8", "utf8"),
        registry_shares=registry_shares,
    )
    notify = notification.command(
        file,
        sources.file.get("global", ()),
        {path: parts[path] for path in files[1:]},
        next((found for name, found in registered.items() if name.lower() == "global"), ()),
        NOTIFY_COMMAND.read(globals_),
    )
    shared = inherited(context, globals_)
    modules = listed(globals_.get("vfs objects", ""))
    found = [
        taken_out(
            section(
                name,
                Parameters({key: text for key, text in own.items() if key not in wrong[name]}),
                globals_,
                shared,
                registry=source is registry,
                included=source is sections and lower_case(name) not in sources.file,
                run_directory=run_directory,
            ),
            wrong[name].values(),
            sources,
        )
        for source in (sections, registry)
        for name, own in source.items()
    ]
    in_order = tuple(written.in_global(file))
    breaking = (*needs.breaking(globals_, context.server_role()), *needs.order(in_order))
    limiting = (
        *needs.limiting(globals_, in_order),
        *needs.of_shares((entry.share for entry in found if entry.share), modules),
    )
    return Config(
        file=file,
        run_directory=run_directory,
        state_directory=state_directory,
        commit_deadline=COMMIT_DEADLINE.read(globals_),
        seal_deadline=SEAL_DEADLINE.read(globals_),
        recovery_timeout=RECOVERY_TIMEOUT.read(globals_),
        maximum_age=MAXIMUM_AGE.read(globals_),
        grace=GRACE.read(globals_),
        samba_lock_directory=str(context.get("lock directory")),
        samba_state_directory=str(context.get("state directory")),
        sections=told_apart(found),
        warnings=(*(advice.line() for advice in breaking), *notify.problems),
        notes=(
            *(f"[{name}] {fault}" for name, own in wrong.items() for fault in own.values()),
            *(advice.line() for advice in limiting),
        ),
        advice=(*breaking, *limiting),
        global_modules=modules,
        files=files,
        instance=INSTANCE.read(globals_),
        clocks=clocks(globals_),
        notify_command=notify.words,
        helpers_on_demand=bool(context.get("rpc start on demand helpers")),
    )


def with_copied(own: Parameters, sections: Mapping[str, Parameters]) -> Parameters:
    """Return the parameters of a section of the registry with those that it copies.

    ``copy =`` takes what the section itself does not set (loadparm.c, copy_service()).

    Args:
        own: as they stand there.
        sections: those of the file.
    """
    source = own.get("copy", "").lower()
    return Parameters(*(sections[s] for s in sections if s.lower() == source), own)


def _own_directory(option: Option[str], globals_: Mapping[str, str]) -> str:
    """Return one of our directories by the path that it has in the mount table."""
    given = option.read(globals_)
    try:
        return option.parse(paths.resolve(given))
    except paths.Replaceable as exc:
        reason, hint = str(exc), "take a path that only root can change"
    except ValueError:
        reason = f"it leads to {os.path.realpath(given)!r}"
        hint = "take a path without blanks, '%', quotes and backslashes"
    except OSError as exc:
        reason, hint = f"{exc.filename}: {exc.strerror}", "take another path"
    raise RvssError(Problem.CONFIG, f"'rvss:{option.name} = {given}' is refused: {reason}", hint)


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
        with open(_registry(config), "rb", buffering=0) as registry:
            registry.seek(_SEQUENCE_NUMBER)
            found.append(registry.read(4))
    except OSError as exc:
        found.append(exc.errno)
    return tuple(found)


def signature_of_read(config: Config, began: float) -> tuple[object, ...]:
    """Return the signature of what a configuration was read from; no value that may have changed.

    Args:
        config: what was read.
        began: the time (`time.time`) before its files were read.

    Returns:
        Empty if a file was changed since then, and None at the end if the registry was: whether
        that was read cannot be told.
    """
    current, present = signature(config), time.time()

    def is_new(path: str) -> bool:
        with suppress(OSError):
            return began - _TICK <= os.stat(path).st_ctime <= present + _TICK
        return False

    if any(map(is_new, config.files)):
        return ()
    return (*current[:-1], None) if is_new(_registry(config)) else current


def _registry(config: Config) -> str:
    return f"{config.samba_state_directory}/registry.tdb"


def base_share(exposed: str) -> str:
    """Return the share that an exposed one is a shadow copy of."""
    match = EXPOSED.fullmatch(exposed)
    return match["share"] if match else exposed


def find_share(config: Config, words: tuple[str, ...]) -> Share:
    """Find the share that a callout's words mean.

    Of several shares of that directory it is one, with what all of them ask for (`twins.union`).
    ``/bin/sh`` has split the path at its blanks (source3/modules/vfs_shell_snap.c quotes
    nothing), so the words are compared with the configured paths, blanks folded.

    Raises:
        RvssError: NOT_OURS if no share of ours has that path, or paths differ only in blanks.
    """
    given = " ".join(words)
    meant = config.meant(callout.folded(given))
    matches = [section.share for section in meant if section.share]
    if not matches:
        for section in meant:
            if section.path:
                raise RvssError(
                    Problem.NOT_OURS,
                    f"[{section.name}] at {given} cannot have shadow copies: {section.reason}",
                )
        raise RvssError(
            Problem.NOT_OURS,
            f"no share in {config.file} has the path {given} and calls this hook",
            "see 'samba-rvss shares'",
        )
    if reason := confusion(matches):
        raise RvssError(Problem.NOT_OURS, reason.what, reason.write)
    return config.union(matches[0])
