"""An instance: one smb.conf, and everything that a verb needs to work on its shadow copies.

Place: a value that is handed to every verb. It opens and frees nothing: whoever made the ledger and
python-samba's process closes them.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import NOBODY, Identity, Inventory, Mark, Volume
from samba_rvss.mounts import Mounts
from samba_rvss.providers import Provider
from samba_rvss.providers.inventory import of_all
from samba_rvss.samba.conf import Config
from samba_rvss.samba.process import Caller

POINTS = (
    "create.intent",
    "create.image",
    "create.mounted",
    "create.taken",
    "open.intent",
    "open.opened",
    "seal.closed",
    "seal.snapshot",
    "seal.renamed",
    "seal.marked",
    "seal.mounted",
    "seal.sealed",
    "seal.cleared",
    "delete.intent",
    "delete.unmounted",
    "delete.destroyed",
    "delete.unshared",
    "delete.gone",
    "keep.ended",
    "keep.recorded",
    "keep.hidden",
    "keep.sealed",
    "keep.marked",
    "adopt.claimed",
    "expose.held",
    "expose.branched",
    "expose.recorded",
    "expose.mounted",
    "expose.shared",
    "conceal.intent",
    "conceal.hidden",
    "conceal.recorded",
    "conceal.condemned",
    "conceal.destroyed",
)
"""Where a test may end the daemon: ``Instance.reached`` is called with each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One smb.conf with its directories.

    Attributes:
        config: smb.conf as it was last read; reading it again makes another Instance.
        ledger: where every change is recorded.
        mounts: the recovery mounts.
        providers: one for each kind of file system.
        samba: where python-samba runs.
        identity: whose images are ours.
        reached: called with each name of `POINTS`; for tests of crashes.
    """

    config: Config
    ledger: Ledger
    mounts: Mounts
    providers: tuple[Provider, ...]
    samba: Caller
    identity: Identity = NOBODY
    reached: Callable[[str], None] = lambda point: None

    def provider(self, volume: Volume) -> Provider:
        """Return the provider that knows a volume.

        Raises:
            RvssError: STATE if there is none.
        """
        for provider in self.providers:
            if provider.name == volume.provider:
                return provider
        raise RvssError(Problem.STATE, f"there is no provider {volume.provider}")

    def mark(self, volume: Volume, image: str) -> Mark:
        """Return the mark of an image of ours, as it is now.

        Raises:
            RvssError: NOT_FOUND if there is no such image; as `Provider.mark`.
        """
        mark = self.provider(volume).mark(volume, image)
        if mark is None:
            raise RvssError(Problem.NOT_FOUND, f"the image of {image} does not exist")
        return mark

    def inventory(self, only: Container[str] | None = None) -> Inventory:
        """List the images on mounted file systems of every kind.

        Args:
            only: the file systems to look at; None for all that are mounted.
        """
        return of_all(self.providers, only)
