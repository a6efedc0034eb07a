"""Runs random steps: of two users, on one Samba and one samba-rvss, beside what is foreign.

What must hold is in `tests.samba.invariants`; the steps are chosen in `tests.samba.test_stateful`.
A step that Samba or samba-rvss refuses is a step like any other; here it is only seen that a
refusal names itself.
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID, uuid4

from samba_rvss import wire
from samba_rvss.cli.common import ask
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Context, Identity, Image, Mark, Nested, Phase, ShadowCopy
from samba_rvss.providers.all import providers
from samba_rvss.samba import conf
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from tests.imaging import make_image
from tests.samba.fault_cases import PACE
from tests.samba.filesystems import identity_of

if TYPE_CHECKING:
    from samba_rvss.providers import Provider
    from samba_rvss.samba.fsrvp.client import Client
    from samba_rvss.testing.smbclient import File, Session
    from samba_rvss.testing.users import BackupOperator
    from tests.samba.conftest import Rig

T = TypeVar("T")

PLAIN, PREVIOUS = "vms", "docs"
SHARES = (PLAIN, PREVIOUS)
RECOVERY_TIMEOUT = 4.0 * PACE
GRACE = 2.0 * PACE
SEQUENCE_TIMEOUT = 2 * RECOVERY_TIMEOUT
IN_PROGRESS = "FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS"
FOREIGN_SHARE = "other@{00000000-0000-4000-8000-000000000001}"
_NEVER_GIVEN = uuid4()
_MOST = 300
# Samba refuses this to everybody, and asks no hook (source3/rpc_server/fss/srv_fss_agent.c).
_NEVER_SUPPORTED = "IsPathShadowCopied"


@dataclass
class Told:
    """What a client was told of one shadow copy."""

    set_id: UUID
    copy_id: UUID
    share: str
    exposed: str = ""


@dataclass(kw_only=True)
class Actor:
    """A user with at most one connection for FSRVP, and the set that it works on."""

    name: str
    account: "BackupOperator"
    connection: "Client | None" = None
    sessions: "dict[str, Session]" = field(default_factory=dict)
    held: "list[tuple[str, File]]" = field(default_factory=list)
    stage: str = "start"
    set: CopySet | None = None
    wanted: tuple[str, ...] = ()
    context: Context = Context.AUTO_RECOVERY
    copies: list[Told] = field(default_factory=list)

    @property
    def set_id(self) -> UUID:
        """Samba's id of the set that it works on, or has last worked on."""
        return self.set.id if self.set is not None else _NEVER_GIVEN

    def begin(self, context: Context, shares: tuple[str, ...]) -> None:
        """Want a set of some shares next."""
        self.stage, self.context, self.wanted, self.copies = "start", context, shares, []

    def vanish(self) -> None:
        """Drop every connection, as when a machine loses its power."""
        self.held.clear()
        for session in self.sessions.values():
            session.close()
        self.sessions.clear()
        self.disconnect()

    def disconnect(self) -> None:
        """Drop the connection for FSRVP."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class StepRunner:
    """Does everything that a step may do, and keeps count of it.

    Args:
        rig: a rig in which nothing runs yet.
        accounts: the users.
    """

    def __init__(self, rig: "Rig", accounts: "tuple[BackupOperator, BackupOperator]") -> None:
        self.rig = rig
        self.actors = tuple(
            Actor(name=name, account=account) for name, account in zip("AB", accounts, strict=True)
        )
        self.told: list[Told] = []
        self.attempted: set[str] = set()
        """Ids of copies, Samba's, that a client or an administrator wanted to delete."""
        self.damaged: set[str] = set()
        """Ids of copies, ours, of which something was removed by hand."""
        self.tally: Counter[str] = Counter()
        """How often each method was called and granted, or refused, and why."""
        self.trace: list[str] = []
        self.steps = 0
        self.broken = ""
        self.armed = False
        """Whether samba-rvss will end itself somewhere."""
        self._begun = UUID(int=0)
        self._undo = ExitStack()
        # Another test may run beside this one.
        self._another = Identity(id=f"another {secrets.token_hex(8)}")
        self._foreign: Image | None = None

    # the frame

    def build(self) -> None:
        """Make the shares and what is foreign, and start everything."""
        rig = self.rig
        # samba-rvss's timers, and Samba's own one of a message sequence.
        rig.samba.set_options(
            {
                "rvss:recovery timeout": f"{RECOVERY_TIMEOUT:g} s",
                "rvss:grace": f"{GRACE:g} s",
                "fss:sequence timeout": f"{SEQUENCE_TIMEOUT:.0f}",
            }
        )
        volume = rig.volume()
        docs = volume / PREVIOUS
        docs.mkdir()
        docs.chmod(0o777)
        (docs / "data").write_bytes(b"a document")
        (docs / "data").chmod(0o666)
        rig.share(PLAIN, volume)
        rig.share(PREVIOUS, docs, rig.previous_options(PREVIOUS, docs))
        self._sources = {PLAIN: volume, PREVIOUS: docs}
        rig.samba.net("conf", "addshare", FOREIGN_SHARE, "/srv")
        self._config = conf.load(str(rig.samba.configuration))
        rig.samba.start()
        rig.daemon.start()
        self._make_foreign(volume)
        rig.note_others()
        assert self._foreign is not None
        foreign = {"images": [self._foreign.id], "registry shares": [FOREIGN_SHARE]}
        assert rig.others == foreign, rig.others

    def _make_foreign(self, volume: Path) -> None:
        """Take an image as another instance of samba-rvss would."""
        fd = os.open(volume, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for provider in self._others():
                found = provider.probe(fd, str(volume), Nested.REFUSE, thorough=False)
                if found is not None:
                    mark = Mark(
                        id="20200101T000000Z-00000000",
                        share=PLAIN,
                        share_path=str(volume),
                        volume=found,
                        created=datetime(2020, 1, 1, tzinfo=UTC),
                    )
                    make_image(provider, mark)
                    self._undo.callback(provider.destroy, found, mark.id)
                    (self._foreign,) = provider.inventory().images
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of everything that the rig does not know of."""
        for actor in self.actors:
            actor.vanish()
        self._undo.close()

    def forget(self) -> None:
        """Forget what clients were told."""
        self.told.clear()
        self.attempted.clear()
        self.damaged.clear()

    def tell(self, what: str) -> None:
        """Print what is wrong, and the steps that led to it."""
        print(f"BROKEN: {what}", *self.trace, sep="\n", flush=True)
        self.trace.clear()
        print("samba-rvss:", self.rig.daemon.log()[-8000:], sep="\n", flush=True)

    def reset(self) -> None:
        """Clear everything away by force, for steps that begin anew."""
        rig = self.rig
        for actor in self.actors:
            actor.vanish()
            actor.stage = "start"
        rig.daemon.kill()
        with suppress(RvssError):
            rig.samba.stop()
        rig.daemon.unmount()
        for provider in self.providers():
            for image in provider.inventory().images:
                provider.destroy(image.mark.volume, image.id)
        for share in rig.exposed_shares():
            if share != FOREIGN_SHARE:
                rig.samba.net("conf", "delshare", share)
        shutil.rmtree(rig.daemon.state_directory)
        shutil.rmtree(rig.daemon.run_directory)
        for path in (
            rig.samba.lock_directory / "srv_fss.tdb",
            rig.samba.state_directory / "share_info.tdb",
        ):
            path.unlink(missing_ok=True)
        self.forget()
        rig.samba.start()
        rig.daemon.start()

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Count a step and write it down, with how it went."""
        self.steps += 1
        said: list[str] = []
        started = time.monotonic()
        try:
            yield said
        finally:
            spent = (time.monotonic() - started) * 1000
            self.note(f"{self.steps} {what}: {' '.join(said) or 'done'} ({spent:.0f} ms)")

    def note(self, line: str) -> None:
        """Write something down for whoever wants to know why a promise was broken."""
        self.trace.append(f"{datetime.now():%H:%M:%S.%f} {line}")  # noqa: DTZ005 - as the logs
        del self.trace[:-_MOST]

    def providers(self) -> "tuple[Provider, ...]":
        """Return the providers as this instance has them."""
        return providers(identity_of(self.rig.daemon))

    def _others(self) -> "tuple[Provider, ...]":
        """Return the providers as another instance has them."""
        return providers(self._another)

    def inventory(self) -> dict[str, Image]:
        """Return this instance's images, by their ids."""
        found = [image for p in self.providers() for image in p.inventory().images]
        return {image.id: image for image in found}

    # clients

    def client(self, actor: Actor) -> "Client":
        """Return an actor's connection, made anew if there is none."""
        if actor.connection is None:
            actor.connection = self.rig.client(actor.account)
        return actor.connection

    def call(
        self, actor: Actor, said: list[str], function: "Callable[[Client], T]"
    ) -> "tuple[T | None, bool]":
        """Call a method of FSRVP; return what it returned, and whether it did.

        Raises:
            AssertionError: it was refused without a reason in Samba's log.
        """
        before = len(self.rig.samba.log())
        try:
            result = function(self.client(actor))
        except FsrvpError as exc:
            said.append(exc.name)
            self.tally[f"{exc.method} {exc.name}"] += 1
            # These two are what a refusal of the hook becomes. What says why is the hook's or
            # Samba's own; nothing at all would leave the administrator in the dark.
            hooked = exc.hresult in (HResult.FSRVP_E_NOT_SUPPORTED, HResult.E_FAIL)
            if hooked and exc.method != _NEVER_SUPPORTED:
                said.append(self._reason(before, exc.message))
        except RvssError as exc:
            said.append(exc.message)
            self.tally["no connection"] += 1
            actor.disconnect()
        else:
            self.tally["granted"] += 1
            return result, True
        return None, False

    def _reason(self, start: int, what: str) -> str:
        """Return the last line of Samba's log; without one the administrator is in the dark."""
        reason = self.rig.samba.log()[start:].strip()
        assert reason, f"{what}, and no log says why"
        if "failed with" in reason:
            assert "samba-rvss hook: " in reason, f"{what}, and the hook does not say why: {reason}"
            reason = reason.partition("samba-rvss hook: ")[2]
        return reason.splitlines()[0].strip()[:200]

    def forward(self, actor: Actor) -> None:
        """Go one step on in an actor's own sequence; give it up if it is refused."""
        stage = actor.stage
        with self.step(f"{actor.name} {stage}") as said:
            good = self._forward(actor, said)
            self.tally[f"{stage} done"] += good
            if not good:
                actor.stage = "start" if stage == "start" else "abort"

    def _forward(self, actor: Actor, said: list[str]) -> bool:
        match actor.stage:
            case "start":
                begun, good = self.call(actor, said, lambda client: _begin(client, actor.context))
                if begun is not None:
                    actor.set, actor.stage, actor.copies = begun, "add", []
                    self._begun = begun.id
                elif IN_PROGRESS in said:
                    actor.stage, good = "unblock", True
            case "unblock":
                # Somebody has begun a set and left it. Its client would end it like this; what
                # happens to one that nobody ever ends is seen in the end.
                for give_up in (False, True):
                    self.call(actor, said, partial(_end, set_id=self._begun, give_up=give_up))
                actor.stage, good = "start", True
            case "add":
                share = actor.wanted[len(actor.copies)]
                taken, good = self._go(actor, said, lambda taken: taken.add(share))
                if good:
                    copy_id = taken.copies[share]
                    actor.copies.append(Told(set_id=taken.id, copy_id=copy_id, share=share))
                    more = len(actor.copies) < len(actor.wanted)
                    actor.stage = "add" if more else "commit"
            case "commit":
                _, good = self._go(actor, said, CopySet.commit)
                actor.stage = "expose"
            case "expose":
                _, good = self._go(actor, said, lambda taken: taken.expose(mapped=False))
                actor.stage = "map"
            case "map":
                good = True
                for told in actor.copies:
                    good = self._map(actor, said, told) and good
                actor.stage = "recover"
            case "recover":
                good = True
                for told in actor.copies:
                    self.write(actor, told, said)
                actor.stage = "complete"
            case "complete":
                _, good = self._go(actor, said, CopySet.complete)
                actor.stage = "start"
            case _:
                # Also where it is too late, so that it is not for the set to refuse.
                self.call(actor, said, lambda client: client.abort_shadow_copy_set(actor.set_id))
                actor.stage, good = "start", True
        return good

    def _map(self, actor: Actor, said: list[str], told: Told) -> bool:
        """Ask where one copy of an actor's set is exposed."""
        taken, good = self._go(actor, said, lambda taken: taken.map(told.share))
        if good:
            (told.exposed,) = (
                mapping.exposed_share
                for mapping in taken.mappings
                if mapping.copy_id == told.copy_id
            )
            self.told.append(told)
        return good

    def _go(
        self, actor: Actor, said: list[str], step: Callable[[CopySet], object]
    ) -> tuple[CopySet, bool]:
        """Go a step on with an actor's set, over the connection that it has now."""
        taken = actor.set
        assert taken is not None

        def go(client: "Client") -> None:
            taken.client = client
            step(taken)

        return taken, self.call(actor, said, go)[1]

    def delete(self, actor: Actor, told: Told) -> None:
        """Delete a copy as a client."""
        with self.step(f"{actor.name} delete {told.copy_id}") as said:
            self.attempted.add(str(told.copy_id))
            path = next((c.path for c in self.rig.ledger() if c.copy_id == str(told.copy_id)), "")
            _, good = self.call(
                actor,
                said,
                lambda client: client.delete_share_mapping(told.set_id, told.copy_id, told.share),
            )
            if good:
                self.told.remove(told)
                assert path not in self.rig.mounts(), f"{path} was deleted, and is mounted"

    def anything(self, actor: Actor, other: Actor, number: int, method: int) -> None:
        """Call a method that may not fit, on a set that may be unknown or long gone."""
        told = self.told[number % len(self.told)] if self.told and number % 2 else None
        set_id = told.set_id if told else other.set_id
        copies = [told] if told else other.copies
        copy = copies[number % len(copies)] if copies else Told(set_id, uuid4(), PLAIN)
        share = SHARES[number // 2 % 2]
        calls: tuple[tuple[str, Callable[[Client], object]], ...] = (
            ("GetSupportedVersion", lambda client: client.get_supported_version()),
            ("SetContext", lambda client: client.set_context(Context.AUTO_RECOVERY)),
            ("AddToShadowCopySet", lambda client: client.add_to_shadow_copy_set(set_id, share)),
            ("CommitShadowCopySet", lambda client: client.commit_shadow_copy_set(set_id)),
            ("ExposeShadowCopySet", lambda client: client.expose_shadow_copy_set(set_id)),
            ("RecoveryComplete", lambda client: client.recovery_complete_shadow_copy_set(set_id)),
            ("AbortShadowCopySet", lambda client: client.abort_shadow_copy_set(set_id)),
            ("IsPathSupported", lambda client: client.is_path_supported(share)),
            ("IsPathShadowCopied", lambda client: client.is_path_shadow_copied(share)),
            ("PrepareShadowCopySet", lambda client: client.prepare_shadow_copy_set(set_id)),
            (
                "GetShareMapping",
                lambda client: client.get_share_mapping(set_id, copy.copy_id, share),
            ),
            (
                "DeleteShareMapping",
                lambda client: client.delete_share_mapping(set_id, copy.copy_id, share),
            ),
        )
        name, function = calls[method % len(calls)]
        if name == "DeleteShareMapping":
            self.attempted.add(str(copy.copy_id))
        with self.step(f"{actor.name} {name} {set_id}") as said:
            self.call(actor, said, function)

    # what is written

    def write(self, actor: Actor, told: Told, said: list[str]) -> None:
        """Write a file through an exposed share, with a connection of its own."""
        from samba_rvss.testing.smbclient import SmbError

        sealed = self._sealed(told)
        try:
            with self.rig.session(told.exposed, actor.account) as session:
                session.write(f"by-{actor.name}", os.urandom(32))
        except SmbError as exc:
            said.append(exc.name)
        else:
            said.append(f"written to {told.copy_id}")
            assert not sealed, f"{actor.name} wrote to {told.copy_id}, which was sealed"

    def hold(self, actor: Actor, told: Told) -> None:
        """Open a file of an exposed share for writing, and keep it open."""
        from samba_rvss.testing.smbclient import SmbError

        with self.step(f"{actor.name} opens a file of {told.copy_id}") as said:
            try:
                session = self.rig.session(told.exposed, actor.account)
                file = session.open("held", write=True, create=True)
            except SmbError as exc:
                said.append(exc.name)
                return
            actor.sessions[f"{told.exposed} {self.steps}"] = session
            actor.held.append((told.exposed, file))

    def write_held(self, actor: Actor) -> None:
        """Write through the files that are kept open, and close them."""
        from samba_rvss.testing.smbclient import SmbError

        with self.step(f"{actor.name} writes to what it holds") as said:
            for exposed, file in actor.held:
                sealed = self._exposed_sealed(exposed)
                try:
                    file.write(os.urandom(16))
                except SmbError as exc:
                    said.append(exc.name)
                else:
                    assert not sealed, f"{actor.name} wrote to {exposed}, which was sealed"
            actor.held.clear()
            for session in actor.sessions.values():
                session.close()
            actor.sessions.clear()

    def _sealed(self, told: Told) -> bool:
        return any(
            copy.copy_id == str(told.copy_id) and copy.phase is Phase.SEALED
            for copy in self.rig.ledger()
        )

    def _exposed_sealed(self, exposed: str) -> bool:
        return any(
            copy.exposed_share == exposed and copy.phase is Phase.SEALED
            for copy in self.rig.ledger()
        )

    def change_source(self, share: str) -> None:
        """Write to the share itself."""
        with self.step(f"somebody changes {share}"):
            (self._sources[share] / "data").write_bytes(os.urandom(64))

    # processes

    def start_daemon(self, crash_at: str = "") -> None:
        """Start samba-rvss, if it does not run; it may end itself while it starts."""
        if self.rig.daemon.running:
            return
        self.rig.daemon.kill()
        self.note(f"samba-rvss starts {crash_at}")
        self.armed = bool(crash_at)
        try:
            self.rig.daemon.start(crash_at=crash_at)
        except RvssError:
            if not crash_at:
                raise

    def stop_daemon(self, *, kindly: bool) -> None:
        """End samba-rvss with SIGTERM, or with SIGKILL."""
        if kindly and self.rig.daemon.running:
            self.rig.daemon.stop()
        else:
            self.rig.daemon.kill()

    def restart_daemon(self) -> None:
        """Start samba-rvss anew."""
        self.stop_daemon(kindly=True)
        self.start_daemon()

    def samba_pids(self, program: str) -> list[int]:
        """Return the living processes of one of Samba's programs, the oldest first."""
        found = []
        for pid in self.rig.samba.processes():
            with suppress(OSError):
                if Path(f"/proc/{pid}/exe").readlink().name == program:
                    found.append(pid)
        return sorted(found)

    def kill(self, victim: str) -> None:
        """SIGKILL a process: "daemon", "worker" or "smbd"."""
        for pid in self._pids(victim):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.bury(victim)

    @contextmanager
    def killing(self, victim: str, milliseconds: int) -> Iterator[None]:
        """SIGKILL a process so long after now, whatever happens meanwhile."""
        pids = " ".join(map(str, self._pids(victim)))
        script = f"sleep {milliseconds / 1000}; kill -KILL {pids} 2>/dev/null || :"
        with subprocess.Popen(["sh", "-c", script if pids else ":"]) as killer:
            try:
                yield
            finally:
                killer.wait()
        self.bury(victim)

    def _pids(self, victim: str) -> list[int]:
        if victim == "daemon":
            return [self.rig.daemon.pid] if self.rig.daemon.running else []
        return self.samba_pids("rpcd_fsrvp" if victim == "worker" else "smbd")[:1]

    def bury(self, victim: str) -> None:
        """Clear away what was killed, and start smbd again."""
        if victim == "daemon":
            self.rig.daemon.kill()
        if victim == "smbd":
            for actor in self.actors:
                actor.vanish()
            try:
                self.rig.samba.stop()
            except RvssError as exc:
                if exc.problem is not Problem.SAMBA or "ended by itself" not in exc.message:
                    raise
            self.rig.samba.start()

    # by hand

    def ask(self, said: list[str], verb: str, copy: ShadowCopy | None = None) -> None:
        """Ask the daemon as an administrator's command does; it may not run.

        Raises:
            AssertionError: it does not know itself why it failed.
        """
        if copy is not None:
            self.attempted |= {copy.copy_id or copy.id, copy.id}
        try:
            said.append(
                ask(self._config, wire.AdminRequest(verb=verb, copy=copy.id if copy else ""))
            )
        except RvssError as exc:
            said.append(exc.line())
            if exc.problem is Problem.INTERNAL:
                raise AssertionError(exc.line()) from exc

    def damage(self, copy: ShadowCopy, what: str) -> None:
        """Remove a part of a copy behind samba-rvss's back: "share", "image" or "mount"."""
        self.damaged.add(copy.id)
        if what == "share":
            if copy.exposed_share in self.rig.exposed_shares():
                self.rig.samba.net("conf", "delshare", copy.exposed_share)
        elif what == "mount":
            with suppress(OSError):
                self.rig.unmount(copy.path)
        else:
            for provider in self.providers():
                if provider.name == copy.volume.provider:
                    with suppress(RvssError):  # some file systems keep it while it is mounted
                        provider.destroy(copy.volume, copy.id)

    # what is there

    def foreign_is_there(self) -> list[str]:
        """Return what of the foreign things has gone or was changed."""
        wrong = []
        found = [image for p in self._others() for image in p.inventory().images]
        if found != [self._foreign]:
            wrong.append(f"the image of another instance: {found}")
        if self.rig.parameters(FOREIGN_SHARE).get("path") != "/srv":
            wrong.append("a foreign registry share")
        return wrong


def _begin(client: "Client", context: Context) -> CopySet:
    begun = CopySet(client, context, abort_on_failure=False)
    begun.start()
    return begun


def _end(client: "Client", *, set_id: UUID, give_up: bool) -> None:
    """Bring a set out of the way: to its end if it is committed, else away."""
    if give_up:
        client.abort_shadow_copy_set(set_id)
    else:
        client.expose_shadow_copy_set(set_id)
        client.recovery_complete_shadow_copy_set(set_id)
