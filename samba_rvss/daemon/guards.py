"""Guards: backups of shares as they are now, for administrators who are about to restore something.

Place: beside `requests`, which has one. Contract: in the volume's turn, as all that takes an image.
"""

from collections.abc import Callable
from functools import partial

from samba_rvss.copies import guard
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import locate
from samba_rvss.daemon.tasks import in_thread
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.underway import UnderWay
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import ShadowCopy

_LONGEST = 60.0  # seconds that it should take


class Guards:
    """The guards of one instance.

    Args:
        present: returns the instance as it is now.
        turns: who waits for whom.
        under_way: hears of each request.
    """

    def __init__(self, present: Callable[[], Instance], turns: Turns, under_way: UnderWay) -> None:
        self._present = present
        self._turns = turns
        self._under_way = under_way

    async def take(self, copy: ShadowCopy, uid: int) -> str:
        """Back up the share of a backup as it is now; return the id of the new backup.

        Raises:
            RvssError: NOT_OURS if it is no share of ours any more; as `copies.locate.locate` and
                `copies.guard.take`.
        """
        instance = self._present()
        share = instance.config.share(copy.share)
        if share is None:
            raise RvssError(
                Problem.NOT_OURS,
                f"[{copy.share}] is no share any more of which backups can be taken",
                "restore to another place with --target",
            )
        find = partial(
            locate, share, instance.providers, instance.config.run_directory, thorough=True
        )
        with self._under_way.doing(f"a backup of [{share.name}] has been under way", _LONGEST):
            target = await in_thread(find)
            async with self._turns.take(target.volume):
                return (await in_thread(guard.take, self._present(), target, uid)).id
