"""NDR as far as FSRVP needs it, by hand: python-samba has no bindings for this interface.

Place: below `methods`. Little-endian, aligned words; GUIDs; conformant varying strings.
Source: Samba, librpc/idl/fsrvp.idl; [C706] chapter 14.
"""

import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

from samba_rvss.errors import Problem, RvssError

_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


def string(text: str) -> bytes:
    """Encode a conformant varying string, padded to a multiple of 4 bytes."""
    raw = text.encode("utf-16-le", "surrogatepass") + b"\0\0"
    count = len(raw) // 2
    return struct.pack("<III", count, 0, count) + raw + bytes(-len(raw) % 4)


class Reply:
    """A cursor over a reply; every reply ends with a uint32 result.

    Args:
        method: the method that it answers, for the sentence of an error.
        data: the reply.

    Raises:
        RvssError: SAMBA, by every method, if the reply ends too soon, or has what there is not.
    """

    def __init__(self, method: str, data: bytes) -> None:
        self._method = method
        self._data = data
        self._at = 0

    def _take(self, length: int) -> bytes:
        piece = self._data[self._at : self._at + length]
        if len(piece) != length:
            raise RvssError(
                Problem.SAMBA, f"the server's reply to {self._method} is too short to be one"
            )
        self._at += length
        return piece

    def result(self) -> int:
        """Return the result, the reply's last word, wherever the cursor is."""
        return Reply(self._method, self._data[-4:]).uint32()

    def uint32(self) -> int:
        """Read an aligned word."""
        self._at += -self._at % 4
        return int.from_bytes(self._take(4), "little")

    def guid(self) -> UUID:
        """Read a GUID."""
        self._at += -self._at % 4
        return UUID(bytes_le=self._take(16))

    def nttime(self) -> datetime:
        """Read a time, in units of 100 ns since 1601 on the wire."""
        self._at += -self._at % 4
        ticks = int.from_bytes(self._take(8), "little")
        try:
            return _EPOCH + timedelta(microseconds=ticks // 10)
        except OverflowError as exc:
            raise RvssError(
                Problem.SAMBA, f"the server's reply to {self._method} has no time that there is"
            ) from exc

    def string(self) -> str:
        """Read a conformant varying string, without its NUL."""
        _maximum, _offset, count = self.uint32(), self.uint32(), self.uint32()
        text = self._take(2 * count).decode("utf-16-le", "surrogatepass")
        return text.removesuffix("\0")
