"""Whether somebody keeps the kernel's clock right, as NTP's daemons tell the kernel."""

import ctypes

from samba_rvss.kernel.libc import libc

# linux/timex.h: struct timex begins with modes and three longs after it; adjtimex(2)
_SIZE = 512
_ERROR = 5  # TIME_ERROR: the clock is not synchronised

libc.adjtimex.argtypes = (ctypes.c_void_p,)


def is_kept() -> bool | None:
    """Return whether the clock is synchronised; None if the kernel does not tell."""
    buffer = ctypes.create_string_buffer(_SIZE)  # modes 0: it only reads
    state: int = libc.adjtimex(buffer)
    return None if state < 0 else state != _ERROR
