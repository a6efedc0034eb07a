"""One client's way through a shadow copy set.

Place: above `methods`, whoever carries them: a client here, or one in another process. Contract: a
CopySet knows where it stands and refuses a step that does not come next; a step that the server
refuses leaves it where it was. Whoever wants to do what is wrong calls the methods themselves.
It owns nothing: the connection is its maker's to close, and the shadow copies are the server's.
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

T = TypeVar("T")


class Stage(Enum):
    """Where a set stands, by what its client has been granted."""

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
        share: whom it was about, where it was about one.
        seconds: how long it took.
        answer: what was granted, in words; empty where success says it all.
        failure: why it was not granted, or None.
    """

    method: str
    share: str
    seconds: float
    answer: str
    failure: RvssError | None

    def __str__(self) -> str:
        return f"{self.method} {self.share}".rstrip()


class CopySet:
    """A shadow copy set on its way.

    Args:
        client: the connection; another may take its place when it is lost.
        context: what the set is for, see MS-FSRVP 2.2.2.2; add AUTO_RECOVERY for copies that can
            be written to until `complete`.
        report: called with each call as soon as it is over; what it raises ends the step.
        abort_on_failure: whether a step that fails before the set is exposed aborts it.

    Attributes:
        stage: where it stands.
        copies: the id of each share's shadow copy, in the order in which they were added.
        mappings: where they are exposed, in the same order.
        calls: what was called, in order.
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
        self.mappings: tuple[ShareMapping, ...] = ()
        self.calls: list[Call] = []
        self._id: UUID | None = None
        self._deleted: set[str] = set()
        self._report = report
        self._abort_on_failure = abort_on_failure

    @property
    def id(self) -> UUID:
        """The server's id of it.

        Raises:
            RvssError: USAGE if it was not started.
        """
        if self._id is None:
            raise RvssError(Problem.USAGE, "the shadow copy set was not started")
        return self._id

    @property
    def exposed_shares(self) -> tuple[str, ...]:
        """The names of the exposed shares, in the order of the shares."""
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
        """Say what it is for, and begin it."""
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
        """Get it ready for the commit: start it, unless that is done, and add what is named."""
        if self.stage is Stage.NEW:
            self.start()
        if shares:
            self.add(*shares)
        self._expect("prepared", Stage.ADDED)
        self._call("PrepareShadowCopySet", partial(self.client.prepare_shadow_copy_set, self.id))
        self.stage = Stage.PREPARED

    def commit(self) -> None:
        """Take the shadow copies; it need not be prepared, as far as Samba is concerned."""
        self._expect("committed", Stage.ADDED, Stage.PREPARED)
        self._call("CommitShadowCopySet", partial(self.client.commit_shadow_copy_set, self.id))
        self.stage = Stage.COMMITTED

    def expose(self) -> tuple[str, ...]:
        """Make them shares; return their names, in the order of the shares that they are of."""
        self._expect("exposed", Stage.COMMITTED)
        self._call("ExposeShadowCopySet", partial(self.client.expose_shadow_copy_set, self.id))
        self.mappings = tuple(
            self._call(
                "GetShareMapping",
                partial(self.client.get_share_mapping, self.id, copy, share),
                share=share,
                said=lambda mapping: mapping.exposed_share,
            )
            for share, copy in self.copies.items()
        )
        self.stage = Stage.EXPOSED
        return self.exposed_shares

    def complete(self) -> None:
        """Say that they are consistent now: from here on they must not change."""
        self._expect("recovered", Stage.EXPOSED)
        self._call(
            "RecoveryCompleteShadowCopySet",
            partial(self.client.recovery_complete_shadow_copy_set, self.id),
        )
        self.stage = Stage.RECOVERED

    def delete(self, *shares: str) -> None:
        """Delete the shadow copies of some shares, or all that are left, with what exposes them."""
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
        """Give it up."""
        self._expect("aborted", *_ON_THE_WAY)
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
        """Call a method, tell of it, and give the set up if that is what a failure means."""
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
                tell("", exc)
                raise
            tell(said(value), None)
        except BaseException as exc:
            self._give_up(exc)
            raise
        return value

    def _give_up(self, because: BaseException) -> None:
        if not self._abort_on_failure or self.stage not in _ON_THE_WAY:
            return
        self._abort_on_failure = False  # this may fail as well
        try:
            self.abort()
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

    The arguments and errors are CopySet's; one that fails on the way is aborted.
    """
    copies = CopySet(client, context, report=report)
    copies.check(*shares)
    copies.prepare(*shares)
    copies.commit()
    copies.expose()
    return copies
