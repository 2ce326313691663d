"""What can be wrong with bytes and with the heads of a request."""

from __future__ import annotations

import random

# Values at which parsers break: the ends of ranges, what opens and never closes, what announces more than there is.
PIECES = (
    b"\xff", b"\x00", b"\x80", b"\xc1", b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", b"\xcb\x7f\xf8\x00\x00\x00\x00",
    b"\xc7\x00\x00", b"\xc9\x00\x10\x00\x00\x05", b"[" * 3000, b"\x91" * 3000, b'{"a":' * 1000, b"NaN", b"1e999",
    b"-0", b"9" * 5000, b'"\\ud800"', b'{"$bytes": "%"}', b'{"$set": [[]]}', b"null", b"\xed\xa0\x80",
    b"../../etc/passwd", b"\r\n\r\n", b"\x1b[2J", b"%00", b"A" * 10_000,
)  # fmt: skip


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes with one to four things wrong."""
    found = bytearray(data or b"\x90")
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(5):
            case 0 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                del found[at:]
            case 2:
                found[at:at] = rng.choice(PIECES)
            case 3:
                found[at : at + rng.randrange(1, 5)] = rng.choice(PIECES)
            case _:
                found[at:at] = found[rng.randrange(len(found) + 1) :]
        found = found or bytearray(b"\x00")
    return bytes(found[: 1 << 17])


def odd_heads(rng: random.Random) -> dict[str, str]:
    """Heads of a request as no client writes them."""
    return dict([
        rng.choice((
            ("Transfer-Encoding", "chunked"),
            ("Transfer-Encoding", "gzip, chunked"),
            ("Content-Encoding", "gzip"),
            ("Content-Type", "multipart/form-data; boundary=" + "x" * 500),
            ("Content-Type", "text/\x00plain"),
            ("Expect", "100-continue"),
            ("Origin", "http://elsewhere"),
            ("Accept", ",".join(f"application/msgpack;q=0.{number}" for number in range(300))),
            ("X" * 9000, "1"),
            ("X-Long", "y" * 20_000),
            ("Upgrade", "websocket"),
            ("Cookie", "a=b; " * 1000),
            ("Range", "bytes=0-,-1"),
            ("Connection", "close, upgrade, keep-alive"),
        ))
        for _ in range(rng.randrange(1, 4))
    ])  # fmt: skip
