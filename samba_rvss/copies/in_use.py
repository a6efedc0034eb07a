"""What clients have open of that which is to be replaced.

Place: beside `restore`. Contract: it looks, and changes nothing. A client that has a file open goes
on with that file when another one gets its name: a virtual machine would write to what nobody can
find any more.
"""

import os
from collections.abc import Sequence

from samba_rvss.errors import Problem, RvssError
from samba_rvss.manifests import tree
from samba_rvss.restore import check
from samba_rvss.restore.build import Source
from samba_rvss.restore.merge import Target
from samba_rvss.restore.plan import State, decide
from samba_rvss.samba.open_files import OpenFile

_SHOWN = 5


def require_closed(
    source: Source, target: Target, path: bytes, share: str, base: str, found: Sequence[OpenFile]
) -> None:
    """Refuse to replace what clients have open.

    Args:
        source: the image.
        target: where it is restored.
        path: what of it, from the share's directory.
        share: the share's name, and
        base: its directory.
        found: what clients have open.

    Raises:
        RvssError: BUSY, with what is open, of which share, by whom and from where.
    """
    inside = f"{base.rstrip('/')}/"
    told: dict[str, None] = {}
    for file in found:
        name = os.fsencode(file.path.removeprefix(inside))
        is_meant = not path or name == path or name.startswith(path + b"/")
        if not (file.path.startswith(inside) and is_meant and source.wanted.has(name)):
            continue
        if _is_replaced(source, target, name):
            through = file.share or share
            told[f"{os.fsdecode(name)} in [{through}] by {file.user} from {file.machine}"] = None
    if told:
        more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        raise RvssError(
            Problem.BUSY,
            f"open is {'; '.join(list(told)[:_SHOWN])}{more}",
            f"have it closed, or end all connections with 'smbcontrol smbd close-share {share}':"
            " whoever has it open would go on with the file of before",
        )


def _is_replaced(source: Source, target: Target, path: bytes) -> bool:
    """Return whether a file that is open would be replaced."""
    try:
        with tree.handle(source.root, path) as found, tree.handle(target.root, path) as present:
            entry, there = check.entry_of(path, found), check.entry_of(path, present)
            state = decide(
                entry,
                there,
                target.overwrite,
                in_use=True,
                same=lambda: check.same_content(found, present, entry.size),
            )
    except BlockingIOError:  # whoever has it open has a lease on it as well
        return True
    except OSError:  # one of them is not there
        return False
    return state is State.IN_USE
