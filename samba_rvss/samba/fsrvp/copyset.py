"""One client's way through a shadow copy set.

Place: above `methods`, with a client in this process or in another. Contract: a CopySet knows its
stage and refuses a step that does not come next; a step that the server refuses does not change
the stage. To do a wrong step on purpose, call the method. It owns nothing: its maker closes the
connection, and the shadow copies are the server's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TypeVar
from uuid import UUID

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Context
from samba_rvss.samba.fsrvp.methods import BACKUP, VERSION, Methods, ShareMapping
from samba_rvss.samba.fsrvp.results import FsrvpError

T = TypeVar("T")


class Stage(Enum):
    """How far a set has come: the last step that the server granted."""

    NEW = "not started"
    STARTED = "started"
    ADDED = "given its shares"
    PREPARED = "prepared"
    COMMITTED = "committed"
    EXPOSED = "exposed"
    RECOVERED = "recovered"
    DELETED = "deleted"
    ABORTED = "aborted"


_ON_THE_WAY = (Stage.STARTED, Stage.ADDED, Stage.PREPARED, Stage.COMMITTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a method.

    Attributes:
        method: its name in MS-FSRVP.
        share: the share that it was about; empty if it was about none.
        seconds: how long it took.
        answer: what the server answered, in words; empty where success says it all.
        failure: why it failed, or None.
    """

    method: str
    share: str
    seconds: float
    answer: str
    failure: RvssError | None

    def __str__(self) -> str:
        return f"{self.method} {self.share}".rstrip()


class CopySet:
    """A shadow copy set, from its start to its end, as its client drives it.

    Args:
        client: the connection; when it is lost, assign another to the attribute.
        context: what the set is for, see MS-FSRVP 2.2.2.2; add AUTO_RECOVERY for copies that can
            be written to until `complete`.
        report: called with each call as soon as it is over; an exception from it ends the step.
        abort_on_failure: whether a step that fails aborts it, until all its copies are mapped.

    Attributes:
        stage: how far it has come.
        copies: the id of each share's shadow copy, in the order in which the shares were added.
        calls: all calls, in order.
    """

    def __init__(
        self,
        client: Methods,
        context: Context = BACKUP,
        *,
        report: Callable[[Call], None] | None = None,
        abort_on_failure: bool = True,
    ) -> None:
        self.client = client
        self.context = context
        self.stage = Stage.NEW
        self.copies: dict[str, UUID] = {}
        self.calls: list[Call] = []
        self._id: UUID | None = None
        self._mappings: dict[str, ShareMapping] = {}
        self._deleted: set[str] = set()
        self._report = report
        self._abort_on_failure = abort_on_failure

    @property
    def id(self) -> UUID:
        """Its id, which the server chose.

        Raises:
            RvssError: USAGE if it was not started.
        """
        if self._id is None:
            raise RvssError(Problem.USAGE, "the shadow copy set was not started")
        return self._id

    @property
    def mappings(self) -> tuple[ShareMapping, ...]:
        """Where the copies are exposed, in the order of the copies; without what is not mapped."""
        return tuple(self._mappings[share] for share in self.copies if share in self._mappings)

    @property
    def exposed_shares(self) -> tuple[str, ...]:
        """The names of the exposed shares, in the same order."""
        return tuple(mapping.exposed_share for mapping in self.mappings)

    # the steps; each raises
    #     FsrvpError: the server refused; a failed abort is added as a note.
    #     RvssError: USAGE if the step does not come next; SAMBA if the connection failed.

    def check(self, *shares: str) -> None:
        """See that the server speaks our version, and that it supports each share."""
        self._expect("checked", Stage.NEW)
        client = self.client
        lowest, highest = self._call(
            "GetSupportedVersion",
            client.get_supported_version,
            said=lambda versions: "versions {} to {}".format(*versions),
        )
        if not lowest <= VERSION <= highest:
            raise RvssError(
                Problem.SAMBA,
                f"{client.host} speaks versions {lowest} to {highest} of FSRVP, not {VERSION}",
            )
        for share in shares:
            self._call(
                "IsPathSupported",
                partial(client.is_path_supported, share),
                share=share,
                said=lambda told: f"{'supported' if told[0] else 'not supported'} by {told[1]}",
            )

    def start(self) -> None:
        """Set the context and start the set."""
        self._expect("started", Stage.NEW)
        self._call("SetContext", partial(self.client.set_context, self.context))
        self._call("StartShadowCopySet", self._start, said=lambda found: f"set {found}")

    def _start(self) -> UUID:
        self._id = self.client.start_shadow_copy_set()
        self.stage = Stage.STARTED
        return self._id

    def add(self, *shares: str) -> None:
        """Add shares, by name or UNC path."""
        self._expect("given shares", Stage.STARTED, Stage.ADDED)
        for share in shares:
            self.copies[share] = self._call(
                "AddToShadowCopySet",
                partial(self.client.add_to_shadow_copy_set, self.id, share),
                share=share,
                said=lambda found: f"copy {found}",
            )
            self.stage = Stage.ADDED

    def prepare(self, *shares: str) -> None:
        """Prepare the set for its commit; first start it, if it is new, and add the shares."""
        if self.stage is Stage.NEW:
            self.start()
        if shares:
            self.add(*shares)
        self._expect("prepared", Stage.ADDED)
        self._call("PrepareShadowCopySet", partial(self.client.prepare_shadow_copy_set, self.id))
        self.stage = Stage.PREPARED

    def commit(self) -> None:
        """Take the shadow copies. Samba does not ask that the set was prepared."""
        self._expect("committed", Stage.ADDED, Stage.PREPARED)
        self._call("CommitShadowCopySet", partial(self.client.commit_shadow_copy_set, self.id))
        self.stage = Stage.COMMITTED

    def expose(self, *, mapped: bool = True) -> tuple[str, ...]:
        """Expose the copies as shares; return these shares' names, in the order of the copies.

        Args:
            mapped: whether `map` follows at once; without it there are no names yet.
        """
        self._expect("exposed", Stage.COMMITTED)
        self._call("ExposeShadowCopySet", partial(self.client.expose_shadow_copy_set, self.id))
        self.stage = Stage.EXPOSED
        if mapped:
            self.map()
        return self.exposed_shares

    def map(self, *shares: str) -> None:
        """Ask where the copies of some shares are exposed, or all copies not mapped yet."""
        self._expect("mapped", Stage.EXPOSED)
        for share in shares or [name for name in self.copies if name not in self._mappings]:
            self._mappings[share] = self._call(
                "GetShareMapping",
                partial(self.client.get_share_mapping, self.id, self.copies[share], share),
                share=share,
                said=lambda mapping: mapping.exposed_share,
            )

    def complete(self) -> None:
        """Complete the recovery: the copies are consistent, and must not change any more."""
        self._expect("recovered", Stage.EXPOSED)
        self._call(
            "RecoveryCompleteShadowCopySet",
            partial(self.client.recovery_complete_shadow_copy_set, self.id),
        )
        self.stage = Stage.RECOVERED

    def delete(self, *shares: str) -> None:
        """Delete the shadow copies of some shares, or all copies left, and their exposed shares."""
        self._expect("deleted", Stage.EXPOSED, Stage.RECOVERED)
        for share in shares or [name for name in self.copies if name not in self._deleted]:
            self._call(
                "DeleteShareMapping",
                partial(self.client.delete_share_mapping, self.id, self.copies[share], share),
                share=share,
            )
            self._deleted.add(share)
        if self._deleted == self.copies.keys():
            self.stage = Stage.DELETED

    def abort(self) -> None:
        """Abort the set."""
        self._expect("aborted", *_ON_THE_WAY)
        self._abort()

    def _abort(self) -> None:
        self._call("AbortShadowCopySet", partial(self.client.abort_shadow_copy_set, self.id))
        self.stage = Stage.ABORTED

    def _expect(self, what: str, *stages: Stage) -> None:
        if self.stage not in stages:
            raise RvssError(
                Problem.USAGE,
                f"a shadow copy set that is {self.stage.value} cannot be {what}:"
                f" it has to be {' or '.join(stage.value for stage in stages)}",
            )

    def _call(
        self,
        method: str,
        function: Callable[[], T],
        *,
        share: str = "",
        said: Callable[[T], str] = lambda _: "",
    ) -> T:
        """Call a method and report it; if it fails, abort the set unless that is not wanted."""
        started = time.monotonic()

        def tell(answer: str, failure: RvssError | None) -> None:
            spent = time.monotonic() - started
            call = Call(method=method, share=share, seconds=spent, answer=answer, failure=failure)
            self.calls.append(call)
            if self._report is not None:
                self._report(call)

        try:
            try:
                value = function()
            except RvssError as exc:
                if share and isinstance(exc, FsrvpError):
                    exc.message += f" for the share {share}"
                tell("", exc)
                raise
            tell(said(value), None)
        except BaseException as exc:
            self._give_up(exc)
            raise
        return value

    def _give_up(self, because: BaseException) -> None:
        unmapped = self.stage is Stage.EXPOSED and self._mappings.keys() != self.copies.keys()
        if not self._abort_on_failure or not (unmapped or self.stage in _ON_THE_WAY):
            return
        self._abort_on_failure = False  # this may fail as well
        try:
            self._abort()
        except RvssError as exc:
            because.add_note(f"and the set could not be aborted: {exc}")


def take(
    client: Methods,
    shares: Sequence[str],
    context: Context = BACKUP,
    *,
    report: Callable[[Call], None] | None = None,
) -> CopySet:
    """Take a shadow copy set and expose it, with all the calls that Windows makes.

    The arguments and errors are CopySet's; a set that fails on the way is aborted.
    """
    copies = CopySet(client, context, report=report)
    copies.check(*shares)
    copies.prepare(*shares)
    copies.commit()
    copies.expose()
    return copies
