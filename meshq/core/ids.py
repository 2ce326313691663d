"""Ids: UUIDv7 as 32 hexadecimal digits, so that they sort by the time at which they were made."""

from __future__ import annotations

import hashlib

ID_LENGTH = 32
HASH_CHARS = 16
_HEX = frozenset("0123456789abcdef")


def uuid7(now_ms: int, random_bits: int) -> str:
    """A UUIDv7 (RFC 9562, section 5.7) as 32 lower-case hexadecimal digits.

    Args:
        now_ms: Milliseconds since the Unix epoch, 48 bits.
        random_bits: 74 random bits; more are cut off.
    """
    rand_a = random_bits & 0xFFF
    rand_b = (random_bits >> 12) & ((1 << 62) - 1)
    value = (now_ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b
    return f"{value:032x}"


def is_id(text: str) -> bool:
    """Whether the text is an id as this module makes them."""
    return len(text) == ID_LENGTH and _HEX.issuperset(text)


def short(identifier: str) -> str:
    """The end of an id, which tells ids apart that were made together."""
    return identifier[-8:]


def cluster_hash(name: str) -> str:
    """What a cluster is called in announcements and greetings: 16 hexadecimal digits that don't tell its name."""
    return hashlib.sha256(b"meshq cluster\0" + name.encode()).hexdigest()[:HASH_CHARS]
