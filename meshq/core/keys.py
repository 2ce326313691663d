"""The key of a cluster: how people type it, and how a mistyped one is told from a right one.

A key is 160 random bits, written in Crockford's base32 (no i, l, o or u, which are mistaken for others) in groups of
four: `mq1-` and 32 characters that hold the bits, then four that check them. `1` is the version of this form.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from meshq.errors import BadKey

PREFIX = "mq"
VERSION = "1"
SECRET_BYTES = 20
GROUP_CHARS = 4
CHARS = 36
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {char: value for value, char in enumerate(_ALPHABET)} | {"o": 0, "i": 1, "l": 1}
_CHECK_CHARS = 4
_LIKE_ONE = str.maketrans("il", "11")


@dataclass(frozen=True, slots=True)
class Key:
    """One key; its text is never in its `repr`, so that no log or traceback tells it.

    Args:
        secret: 20 random bytes.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a key has {SECRET_BYTES} bytes, not {len(self.secret)}")

    @property
    def text(self) -> str:
        """As people copy and type it."""
        chars = _encode(self.secret) + _check(self.secret)
        groups = [chars[at : at + GROUP_CHARS] for at in range(0, CHARS, GROUP_CHARS)]
        return "-".join([PREFIX + VERSION, *groups])

    @property
    def name(self) -> str:
        """What tells keys apart and gives none away: eight characters."""
        return _encode(hashlib.sha256(b"meshq key name\0" + self.secret).digest()[:5])


def parse(text: str) -> Key:
    """The key that somebody typed; capitals, spaces and left-out or added dashes don't matter.

    Raises:
        BadKey: It is none; the text says why, and never what was typed as a whole.
    """
    chars = "".join(text.split()).replace("-", "").lower()
    if not chars:
        raise BadKey(f"the key is empty; one begins with {PREFIX}{VERSION}-")
    if not chars.startswith(PREFIX):
        raise BadKey(f"a key begins with {PREFIX}{VERSION}-; this text does not")
    version, chars = chars[len(PREFIX) : len(PREFIX) + 1].translate(_LIKE_ONE), chars[len(PREFIX) + 1 :]
    if version != VERSION:
        raise BadKey(f"this is a key of version {version!r}; this meshq knows version {VERSION}: upgrade it")
    for place, char in enumerate(chars[:CHARS]):
        if char not in _VALUES:
            raise BadKey(f"{char!r} in group {place // GROUP_CHARS + 1} is no character of a key: it is mistyped")
    if len(chars) != CHARS:
        how = "a part is missing" if len(chars) < CHARS else "something was added"
        raise BadKey(f"a key has {CHARS} characters behind {PREFIX}{VERSION}-, this one {len(chars)}: {how}")
    secret = _decode(chars[:-_CHECK_CHARS])
    if _plain(chars[-_CHECK_CHARS:]) != _check(secret):
        raise BadKey("the check at the key's end does not fit: a character is mistyped, or two changed places")
    return Key(secret)


def _encode(data: bytes) -> str:
    value = int.from_bytes(data, "big")
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(len(data) * 8 - 5, -1, -5))


def _decode(chars: str) -> bytes:
    value = 0
    for char in chars:
        value = value << 5 | _VALUES[char]
    return value.to_bytes(len(chars) * 5 // 8, "big")


def _plain(chars: str) -> str:
    return "".join(_ALPHABET[_VALUES[char]] for char in chars)


def _check(secret: bytes) -> str:
    digest = hashlib.sha256(f"meshq key {VERSION}\0".encode() + secret).digest()
    return _encode(digest[:5])[:_CHECK_CHARS]
