"""What can be wrong with bytes, with the values that they stand for, and with the heads of a request."""

from __future__ import annotations

import json
import random
from typing import Any

import msgpack

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


DIGITS = "9" * 5000
# What stands where something else was expected.
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 31, 1 << 48, (1 << 48) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63), 0.0, -0.5,
    1e308, float("nan"), float("inf"), "", "x", "\0", "\n", "ø" * 70, "x" * 201, "x" * 1001, "0" * 32, "../x", "NaN",
    DIGITS, DIGITS, DIGITS, b"", b"\xff" * 65, b"\x92\x90\x80", [], [[]], [1] * 300, {}, {"": None}, {1: 2},
    {"$int": "0x" + "f" * 4000}, {"$bytes": "%"}, {"$dict": [[[1], 2]]}, {"$set": [[1], {"$set": []}]},
    msgpack.ExtType(1, b""), msgpack.ExtType(2, b""), msgpack.ExtType(4, b"\x7f" * 2000),
    msgpack.ExtType(5, b"2024-01-01"), msgpack.ExtType(7, b"1 2 3"), msgpack.ExtType(99, b"x"),
)  # fmt: skip
_DEPTH_MAX = 40


def reshaped(rng: random.Random, data: bytes) -> bytes | None:
    """The same msgpack or JSON with one to three values in it changed; None where the bytes are neither.

    What bytes alone seldom reach: an input that is well formed, and wrong in one place of its meaning.
    """
    if data[:1] in (b"{", b"["):
        try:
            text = json.dumps(_changed(rng, json.loads(data)), default=repr)
        except (ValueError, RecursionError, TypeError):
            return None
        if rng.random() < 0.5:  # more digits than Python writes
            text = text.replace(f'"{DIGITS}"', DIGITS)
        return text.encode("utf-8", "surrogatepass")
    for skipped in (0, 1):  # before some inputs stands a byte that chooses
        tree = _unpacked(data[skipped:])
        if tree is not None:
            packed = _packed(_changed(rng, tree))
            return None if packed is None else data[:skipped] + packed
    return None


def _unpacked(data: bytes) -> Any:
    try:
        tree = msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")
    except (ValueError, TypeError, RecursionError):
        return None
    return tree if isinstance(tree, (list, dict)) else None


def _packed(tree: Any) -> bytes | None:
    try:
        packed: bytes = msgpack.packb(tree, unicode_errors="surrogatepass")
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return packed


def _changed(rng: random.Random, tree: Any) -> Any:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _with_one_change(rng, tree, _DEPTH_MAX)
    return tree


def _with_one_change(rng: random.Random, value: Any, depth: int) -> Any:
    """The value with something changed in it, or in its place."""
    if depth and rng.random() < 0.8:
        match value:
            case [_, *_]:
                at = rng.randrange(len(value))
                return [*value[:at], _with_one_change(rng, value[at], depth - 1), *value[at + 1 :]]
            case {**fields} if fields:
                name = rng.choice(list(fields))
                return fields | {name: _with_one_change(rng, fields[name], depth - 1)}
            case bytes() if (inner := _unpacked(value)) is not None:
                return _packed(_with_one_change(rng, inner, depth - 1)) or value
    return _another(rng, value)


def _another(rng: random.Random, value: Any) -> Any:
    """Something in the place of a value, akin to it more often than not."""
    if rng.random() < 0.3:
        return rng.choice(ODD)
    match value:
        case [_, *_]:
            at = rng.randrange(len(value))
            return rng.choice((value[:at], value[at + 1 :], value * 2, value[::-1], [*value, value[at]], [value]))
        case {**fields} if fields:
            name = rng.choice(list(fields))
            rest = {key: item for key, item in fields.items() if key != name}
            unknown = rng.choice(("another", "", "x" * 500, "\0", 7))
            return rng.choice((rest, rest | {unknown: fields[name]}, fields | {unknown: 1}, [fields, fields]))
        case bool() | None:
            return rng.choice((True, False, None, 0, "true"))
        case int() if abs(value) >> 64:
            return rng.choice((-value, value + 1, value >> 1, 0))
        case int():
            return rng.choice((value + 1, value - 1, -value, value ^ 1 << rng.randrange(63), float(value), str(value)))
        case float():
            return rng.choice((-value, value * 1e10, value / 1e10, int(value) if abs(value) < 1e9 else 0))
        case str():
            at = rng.randrange(len(value) + 1)
            odd = rng.choice(("\0", "\n", "ø", "𐏿", "\u202e", "%s", "{}", " ", "/", "-", "x" * 300))
            return rng.choice((value[:at], value[:at] + odd + value[at:], value.upper(), value * 3, value.encode()))
        case bytes():
            return mutated(rng, value)
    return rng.choice(ODD)
