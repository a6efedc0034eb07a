"""Images that a test makes itself, and does not mount."""

import math

from samba_rvss.errors import RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Mark, Taken
from samba_rvss.providers import Provider


def take_image(provider: Provider, mark: Mark) -> Taken:
    """Take an image; its mounts are the caller's.

    Raises:
        RvssError: as `samba_rvss.providers.Provider.create` returns it.
    """
    made = provider.create([mark], math.inf)[mark.id]
    if isinstance(made, RvssError):
        raise made
    return made


def make_image(provider: Provider, mark: Mark) -> None:
    """Take an image, and let go of its mounts; see `take_image`."""
    with files.all_opened(fd for _, fd in take_image(provider, mark).mounts):
        pass
