"""How much space an image alone takes: what quota groups tell of its one subvolume.

Without quotas btrfs does not know it, and while they are inconsistent, are being counted anew, or
are simple ones, which count whose an extent was first, it does not know it either. Nor does it know
what several subvolumes of an image share with each other alone: a link, or nested parts.
Numbers and structures: linux/btrfs_tree.h. What they say is as of the last transaction.
"""

from collections.abc import Iterable
from itertools import islice

from samba_rvss.errors import RvssError
from samba_rvss.model import Image
from samba_rvss.providers.btrfs import images, ioctl, links, marks
from samba_rvss.providers.btrfs.home import Home


def of(home: Home, wanted: Iterable[Image]) -> dict[str, int]:
    """Return how many bytes come free with each image of which btrfs knows it, by their ids.

    Raises:
        OSError: if btrfs refuses.
    """
    found: dict[str, int] = {}
    if not ioctl.has_exact_quotas(home.fd):
        return found
    for image in wanted:
        tree = _only(home, image)
        size = ioctl.exclusive(home.fd, tree) if tree else None
        if size is not None:
            found[image.id] = size
    return found


def _only(home: Home, image: Image) -> int:
    """Return the id of the one subvolume of an image; 0 if it has several, or none."""
    try:
        record = marks.read(home, image.id)
        if record is None or next(links.names(home, record), None) is not None:
            return 0
        state = images.state(home, record)
    except RvssError:
        return 0
    subvolumes = list(islice(state.subvolumes, 2))
    whole = state.complete and not state.remnants and not state.strange
    return subvolumes[0].tree if whole and len(subvolumes) == 1 else 0
