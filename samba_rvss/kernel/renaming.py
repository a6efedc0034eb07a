"""Names that change in one step: a new one that takes no other's place, or two that are swapped."""

import os

from samba_rvss.kernel.libc import checked, libc

# linux/fs.h
_NOREPLACE = 1
_EXCHANGE = 2


def into_place(source: int, old: bytes, target: int, new: bytes) -> None:
    """Give a file or directory a name that nothing has yet (renameat2(2)).

    Args:
        source: a descriptor of the directory that it is in, and
        old: its name there.
        target: a descriptor of the directory that it is to be in, and
        new: its name there.

    Raises:
        OSError: EEXIST if something has that name; EXDEV if that is another file system or volume.
    """
    _rename(source, old, target, new, _NOREPLACE)


def exchange(source: int, old: bytes, target: int, new: bytes) -> None:
    """Swap what two names lead to, in one step (renameat2(2)); arguments as for `into_place`.

    Raises:
        OSError: ENOENT if one of them leads to nothing, or EXDEV.
    """
    _rename(source, old, target, new, _EXCHANGE)


def _rename(source: int, old: bytes, target: int, new: bytes, how: int) -> None:
    checked(libc.renameat2(source, os.fsencode(old), target, os.fsencode(new), how), new)
