"""CRC-32C (Castagnoli), which the standard library lacks: RFC 3720, appendix B.4."""

_POLYNOMIAL = 0x82F63B78  # reflected


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(_entry(value) for value in range(256))


def crc32c(data: bytes) -> int:
    """Return it: 0xE3069283 for b"123456789"."""
    table = _TABLE
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
