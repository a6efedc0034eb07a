"""Images that a test makes itself, and does not mount."""

from samba_rvss.kernel import files
from samba_rvss.model import Mark
from samba_rvss.providers import Provider


def make_image(provider: Provider, mark: Mark) -> None:
    """Take an image, and let go of its mounts.

    Raises:
        RvssError: as `samba_rvss.providers.Provider.create`.
    """
    with files.all_opened(fd for _, fd in provider.create(mark)):
        pass
