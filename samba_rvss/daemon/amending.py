"""Amending the registry's shares of exposed shadow copies, beside what must not wait for it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from samba_rvss.copies import exposed
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon.tasks import in_thread
from samba_rvss.errors import RvssError
from samba_rvss.model import ShadowCopy

_logger = logging.getLogger(__name__)

_AMEND_SECONDS = 1.0
_PAUSE_AFTER_ERROR = 0.5
_LONGEST_PAUSE = 5.0


class Amender:
    """Amends exposed shares, one change after the other, so that none overtakes a newer one.

    Args:
        present: returns the instance as it is now.
        is_followed: whether a copy is followed still.
        ended: called when something was amended, or is to be tried again: what was asked for
            meanwhile has to be asked for again.
    """

    def __init__(
        self,
        present: Callable[[], Instance],
        is_followed: Callable[[ShadowCopy], bool],
        ended: Callable[[], None],
    ) -> None:
        self._present = present
        self._is_followed = is_followed
        self._ended = ended
        self._amended: dict[str, bool] = {}  # whether the share is the closed one, by ids
        self._under_way: asyncio.Future[None] | None = None
        self._pause = _PAUSE_AFTER_ERROR

    def has(self, copy: str, *, closed: bool) -> bool:
        """Return whether a copy's share, by the copy's id, was amended to the one or the other."""
        return self._amended.get(copy) is closed

    def forget(self, copy: str) -> None:
        """Forget a copy, by its id."""
        self._amended.pop(copy, None)

    async def amend(self, shares: Sequence[tuple[ShadowCopy, bool]]) -> None:
        """Amend shares; wait for a moment only, because sealing does not depend on it.

        Args:
            shares: copies, and whether the share of each is to be the closed one. Nothing is done
                while something else is being amended.
        """
        if not shares or self._under_way is not None:
            return
        self._under_way = asyncio.ensure_future(in_thread(exposed.amend, self._present(), shares))
        self._under_way.add_done_callback(partial(self._on_amended, shares))
        done, _ = await asyncio.wait([self._under_way], timeout=_AMEND_SECONDS)
        if not done:
            _logger.warning("Samba's registry is slow to take the changed shares")

    def _on_amended(
        self, shares: Sequence[tuple[ShadowCopy, bool]], amending: "asyncio.Future[None]"
    ) -> None:
        """Note what was amended; if that failed, have it done again later."""
        self._under_way = None
        if amending.cancelled():
            return
        exc = amending.exception()
        if exc is None:
            self._pause = _PAUSE_AFTER_ERROR
            self._amended.update(
                (copy.id, closed) for copy, closed in shares if self._is_followed(copy)
            )
            self._ended()
            return
        known = isinstance(exc, RvssError)
        _logger.error("cannot amend exposed shares: %s", exc, exc_info=None if known else exc)
        asyncio.get_running_loop().call_later(self._pause, self._ended)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
