"""Looking at everything that a plan depends on.

Each source can fail without the others: what could not be seen is None, and ``problems`` says why.
Nothing here changes anything or takes the ledger's write lock.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from samba_rvss.clock import moment, now
from samba_rvss.copies import base, concern
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import RvssError
from samba_rvss.model import (
    ENDED,
    Context,
    Inventory,
    Moment,
    Phase,
    SambaState,
    SetState,
    ShadowCopy,
    Volume,
    Worker,
)
from samba_rvss.mounts import image_of
from samba_rvss.samba import control, fss_state, memory, registry
from samba_rvss.samba.conf import Config

_logger = logging.getLogger(__name__)

T = TypeVar("T")

TWICE_SECONDS = 2.0
"""Time between the two readings of srv_fss.tdb that prove something absent, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The ``rvss:`` options that a plan obeys, in seconds."""

    recovery_timeout: float
    maximum_age: float
    grace: float
    commit_deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that a plan depends on; what could not be seen is None.

    Attributes:
        wall: the time by the clock, for ages across reboots.
        present: the time since this boot, for all other durations.
        options: those of smb.conf.
        exposed_directory: the paths of our exposed shares begin with it.
        shared_directory: the same of backups that are exposed.
        share_paths: the directories of the shares that are ours, as Samba has them.
        copies: the copies in the ledger, but not the gone ones.
        backups: those that have ended and are kept.
        instances: what marks that are ours bear as the instance.
        gone: ids of the gone ones, and the volume of each; None if it was lost, and not deleted.
        history: exposed shares that the ledger has a record of.
        changing: ids of copies that changed while we looked, or that are being sealed.
        inventory: the images.
        mounts: paths of recovery mounts.
        opened: paths of those of them that are open for writing.
        on_demand: the directories of Previous Versions in which backups are mounted on demand.
        directories: paths of everything at a place where a recovery mount could be.
        samba: srv_fss.tdb; a copy that is absent here has been seen absent twice.
        unproven: ids of copies that have been seen absent once only.
        shares: exposed shares in Samba's registry, with their paths.
        shared: the shares in Samba's registry by which clients reach backups, with their paths.
        outdated: ids of the images whose shares keep out others than their base shares do by now.
        unfit: ids of the images that are shares by their marks, and why they cannot be any more.
        descriptors: exposed shares, in Samba's lower case, that have a security descriptor.
        workers: the living rpcd_fsrvp.
        connected: shares that somebody is connected to.
        quiet: for how long no client has been heard of, in seconds.
        abandoned: ids of the sets that were committed and whose client has gone, as is known,
            while others are refused because of them.
        findings: what was unaccounted for at the last reconciling, by name, and since when.
        starting: whether no request can be under way, because none is served yet.
        problems: why something could not be seen.
    """

    wall: datetime
    present: Moment
    options: Options
    exposed_directory: str
    copies: tuple[ShadowCopy, ...]
    inventory: Inventory | None
    backups: tuple[ShadowCopy, ...] = ()
    instances: frozenset[str] = frozenset()
    gone: Mapping[str, Volume | None] = field(default_factory=dict)
    history: frozenset[str] = frozenset()
    changing: frozenset[str] = frozenset()
    mounts: frozenset[str] | None = frozenset()
    opened: frozenset[str] | None = None
    on_demand: frozenset[str] = frozenset()
    directories: frozenset[str] | None = frozenset()
    samba: SambaState | None = None
    unproven: frozenset[str] = frozenset()
    shares: Mapping[str, str] | None = None
    shared: Mapping[str, str] | None = None
    shared_directory: str = "/run/samba-rvss/shared/"
    outdated: frozenset[str] = frozenset()
    unfit: Mapping[str, str] = field(default_factory=dict)
    descriptors: frozenset[str] | None = None
    workers: tuple[Worker, ...] | None = None
    connected: frozenset[str] | None = None
    quiet: float | None = None
    abandoned: frozenset[str] = frozenset()
    share_paths: frozenset[str] = frozenset()
    findings: Mapping[str, Moment] = field(default_factory=dict)
    starting: bool = False
    problems: tuple[str, ...] = ()

    def is_on_demand(self, copy: ShadowCopy) -> bool:
        """Return whether a backup is mounted in Previous Versions when somebody looks into it."""
        return os.path.dirname(copy.previous_path) in self.on_demand

    def may_have_image(self, path: str) -> bool:
        """Return whether a path may be that of an image that cannot be listed now."""
        if self.inventory is not None and not self.inventory.unlisted:
            return False
        known = any(path == copy.path for copy in (*self.copies, *self.backups))
        return not known and image_of(path) not in self.gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where to look, and how.

    Attributes:
        instance: what to look at.
        quiet: returns for how long no client has been heard of, in seconds; None if not known.
        busy: returns the ids of the copies that are being sealed.
        abandoned: returns the ids of the sets whose client is known to have gone.
        starting: whether no request can be under way.
        patient: whether there is time to read srv_fss.tdb twice even when starting.
        twice_seconds: time between the two readings, in seconds.
        looking: called with what is looked at next.
    """

    instance: Instance
    quiet: Callable[[], float | None] = lambda: None
    busy: Callable[[], frozenset[str]] = frozenset
    abandoned: Callable[[], frozenset[str]] = frozenset
    starting: bool = False
    patient: bool = False
    twice_seconds: float = TWICE_SECONDS
    looking: Callable[[str], object] = lambda what: None


class _Looker:
    """Looks at one source after another, and collects the problems."""

    def __init__(self, looking: Callable[[str], object]) -> None:
        self.problems: list[str] = []
        self._looking = looking

    def look(self, what: str, function: Callable[[], T]) -> T | None:
        self._looking(what)
        try:
            return function()
        except (RvssError, OSError) as exc:
            reason = exc.line() if isinstance(exc, RvssError) else str(exc)
            _logger.warning("reconcile: cannot see %s: %s", what, reason)
            self.problems.append(f"cannot see {what}: {reason}")
            return None


def options(config: Config) -> Options:
    """Return the options of smb.conf that a plan obeys."""
    return Options(
        recovery_timeout=config.recovery_timeout,
        maximum_age=config.maximum_age,
        grace=config.grace,
        commit_deadline=config.commit_deadline,
    )


def observe(sources: Sources) -> Observation:
    """Look at everything; slow, but it waits for nothing that a client waits for.

    Raises:
        RvssError: STATE if the ledger cannot be read: nothing at all can be told then.
    """
    instance, looker = sources.instance, _Looker(sources.looking)
    config, ledger, samba_library = instance.config, instance.ledger, instance.samba
    sources.looking("the ledger")
    before = {copy.id: copy for copy in (*ledger.copies(), *ledger.backups())}
    busy = sources.busy()
    inventory = looker.look(
        "the images", lambda: instance.inventory(concern.file_systems(instance))
    )
    mounts = looker.look("the mounts", lambda: frozenset(instance.mounts.listing()))
    opened = looker.look("which mounts are open", lambda: frozenset(instance.mounts.opened()))
    on_demand = looker.look(
        "what is mounted on demand", lambda: frozenset(instance.mounts.on_demand())
    )
    directories = looker.look(
        "the mounts' directories", lambda: frozenset(instance.mounts.directories())
    )
    place = base.shared_directory(config)
    listed = looker.look(
        "Samba's registry",
        lambda: samba_library.call(
            registry.our_shares, config.file, config.samba_state_directory, place
        ),
    )
    shares, shared = listed if listed is not None else (None, None)
    marks = [image.mark for image in (inventory.images if inventory else ()) if image.mark.exposed]
    outdated = None
    if shared and marks:
        outdated = looker.look(
            "whom exposed backups keep out",
            lambda: base.outdated(instance, marks, shared or {}),
        )
    descriptors = looker.look(
        "the shares' security descriptors",
        lambda: frozenset(
            samba_library.call(registry.exposed_descriptors, config.samba_state_directory)
        ),
    )
    ours = f"{config.run_directory}/exposed/"
    paths = {copy.path for copy in before.values() if _needs_samba(copy)}
    paths |= {path for path in (shares or {}).values() if path.startswith(ours)}
    # When the daemon starts, a Commit may wait for it: a second reading has to wait then, unless
    # a copy is from before this boot.
    patient = (
        sources.patient
        or not sources.starting
        or any(_is_of_before(copy) for copy in before.values())
    )
    samba = looker.look(
        "srv_fss.tdb",
        lambda: _samba_state(config.fss_state, paths, sources.twice_seconds if patient else None),
    )
    workers = None
    if (
        samba is None
        or samba.sets
        or any(copy.state is not None and copy.phase is not Phase.KEPT for copy in before.values())
    ):
        workers = looker.look(
            "the rpcd_fsrvp workers",
            lambda: control.workers(config.file, config.samba_lock_directory),
        )
    if samba is not None and any(each.state < SetState.EXPOSED for each in samba.sets):
        workers = workers and tuple(_with_sets(config, worker) for worker in workers)
    wall, present = now(), moment()
    connected = None
    if any(_may_expire(copy, config.maximum_age, wall) for copy in before.values()):
        connected = looker.look("who is connected", lambda: control.connected_shares(config.file))
    # The ledger is read last, as well as first: what has changed in between is being worked on.
    sources.looking("the ledger")
    copies, backups, gone = tuple(ledger.copies()), tuple(ledger.backups()), ledger.gone()
    living = {copy.id: copy for copy in (*copies, *backups)}
    changing = {name for name, copy in living.items() if before.get(name) != copy}
    changing |= before.keys() - living.keys()
    unproven: frozenset[str] = frozenset()
    if samba is not None and not patient:
        known = {copy.path for copy in samba.copies}
        unproven = frozenset(copy.id for copy in copies if copy.path not in known)
    return Observation(
        wall=wall,
        present=present,
        options=options(config),
        exposed_directory=ours,
        share_paths=frozenset(entry.volume for entry in config.sections if entry.share),
        copies=copies,
        backups=backups,
        instances=frozenset({instance.identity.id, instance.identity.signature[0]} - {""}),
        gone={copy: volume for copy, (_, volume) in gone.items()},
        history=frozenset(
            share
            for share in (
                *(copy.exposed_share for copy in living.values()),
                *(share for share, _ in gone.values()),
            )
            if share
        ),
        changing=frozenset(changing) | busy | sources.busy(),
        inventory=inventory,
        mounts=mounts,
        opened=opened,
        on_demand=on_demand or frozenset(),
        directories=directories,
        samba=samba,
        unproven=unproven,
        shares=shares,
        shared=shared,
        shared_directory=f"{place}/",
        unfit={mark.id: reason for mark in marks if (reason := base.unfit(instance, mark))},
        outdated=outdated or frozenset(),
        descriptors=descriptors,
        workers=workers,
        connected=connected,
        quiet=sources.quiet(),
        abandoned=sources.abandoned(),
        findings=ledger.findings(),
        starting=sources.starting,
        problems=tuple(looker.problems),
    )


def _needs_samba(copy: ShadowCopy) -> bool:
    return copy.phase not in (Phase.CREATING, *ENDED)


def _may_expire(copy: ShadowCopy, maximum_age: float, wall: datetime) -> bool:
    """Return whether a copy may be too old, so that it matters whether somebody is connected."""
    old = (wall - copy.created).total_seconds() >= maximum_age
    return copy.phase not in ENDED and old and not copy.context & Context.NO_AUTO_RELEASE


def _is_of_before(copy: ShadowCopy) -> bool:
    return copy.phase not in ENDED and copy.since.boot != moment().boot


def _with_sets(config: Config, worker: Worker) -> Worker:
    """Return a worker with the sets that it has in memory, if it tells."""
    try:
        told = memory.look(config.file, worker.pid)
    except RvssError as exc:
        _logger.debug("%s", exc)
        return worker
    return replace(worker, holds=frozenset(held.id for held in told.sets))


def _samba_state(path: str, expected: set[str], twice_seconds: float | None) -> SambaState:
    """Read srv_fss.tdb; once more, seconds later, if an expected copy is absent.

    A copy or set that is in either reading counts as present, in its newest state: Samba wipes
    the file before each write, and two workers erase each other's sets.

    Args:
        path: the file.
        expected: paths of the copies whose absence would mean something.
        twice_seconds: after how many seconds to read again; None for not at all, and then absence
            proves nothing.

    Raises:
        RvssError: SAMBA if it cannot be read.
    """
    first = fss_state.settled(path)
    if twice_seconds is None or expected <= {copy.path for copy in first.copies}:
        return first
    time.sleep(twice_seconds)
    second = fss_state.settled(path)
    sets = {found.id: found for found in (*first.sets, *second.sets)}
    copies = {(found.set_id, found.copy_id): found for found in (*first.copies, *second.copies)}
    return SambaState(sets=tuple(sets.values()), copies=tuple(copies.values()))
