"""Which chunks are read where not all of a backup is verified.

Pure, but for the salt of a random choice.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

_RANGE = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A part of all chunks: the same chunks each time for n/t, random ones for a percentage.

    Attributes:
        text: how it was asked for; empty for all chunks.
        number: which of the parts, from 1.
        parts: how many parts there are; together they are all chunks, and each is in one.
        share: how much of all is read, from 0 to 1, in place of a part; 0 for a part.
        salt: what makes it another choice each time.
    """

    text: str = ""
    number: int = 1
    parts: int = 1
    share: float = 0.0
    salt: bytes = field(default=b"", repr=False)

    def has(self, path: bytes, chunk: int) -> bool:
        """Return whether a chunk of a file is in it."""
        if not self.share and self.parts == 1:
            return True
        key = b"%d/%b" % (chunk, path)
        found = hashlib.blake2b(key, digest_size=8, salt=self.salt).digest()
        value = int.from_bytes(found, "big")
        if self.share:
            return value < self.share * _RANGE
        return value % self.parts == self.number - 1


WHOLE = Subset()
"""All chunks."""


def parse(text: str) -> Subset:
    """Return what ``n/t`` or ``x%`` means.

    Raises:
        ValueError: it is neither; its text says what is wanted.
    """
    part = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if part and 1 <= int(part[1]) <= int(part[2]):
        number, parts = int(part[1]), int(part[2])
        return Subset(text=f"{number}/{parts}", number=number, parts=parts) if parts > 1 else WHOLE
    share = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%", text.strip())
    if share and float(share[1]) == 100:
        return WHOLE
    if share and 0 < float(share[1]) < 100:
        salt = secrets.token_bytes(hashlib.blake2b.SALT_SIZE)
        return Subset(text=text.strip(), share=float(share[1]) / 100, salt=salt)
    raise ValueError("a part such as 1/7, or a percentage such as 5%, is wanted")
