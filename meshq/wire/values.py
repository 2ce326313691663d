"""User values and bytes: what goes in at one end comes out at the other, equal and of the same type.

A packed value is msgpack. JSON's values, bytes and integers of up to 64 bits are msgpack's own, so that any msgpack
library reads them. The rest uses extension types:

| ext | what | content |
|---|---|---|
| 1, 2, 3 | first item of an array: the array is a tuple, a set, a frozenset | empty |
| 4 | an integer beyond 64 bits | big-endian two's complement |
| 5, 6, 8 | datetime, date, time | ISO 8601; the `fold=1` of a datetime or a time after a space |
| 7 | timedelta | `days seconds microseconds` in decimal |
| -1 | msgpack's timestamp, read only: an aware datetime in UTC | |

A subclass of an allowed type arrives as that type (an IntEnum as an int, a named tuple as a tuple), equal to what was
sent. An aware datetime keeps its offset from UTC, not its zone's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from itertools import chain
from typing import Any, Final

import msgpack

from meshq.core.limits import DEPTH_MAX
from meshq.errors import Malformed, Unencodable
from meshq.wire.jsonvalues import dumps, from_json, iso_text, loads, read_datetime, read_time, to_json
from meshq.wire.parts import Parts, check_keys

__all__ = [
    "ALLOWED", "DEPTH_MAX", "Unencodable", "dumps", "from_json", "loads", "pack", "pack_arguments", "to_json",
    "unpack", "unpack_arguments",
]  # fmt: skip

_PAYLOAD_DEPTH_MAX: Final = DEPTH_MAX + 2
ALLOWED: Final = (
    "None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime, date, time and timedelta"
)

_TUPLE, _SET, _FROZENSET, _INT, _DATETIME, _DATE, _TIMEDELTA, _TIME = range(1, 9)
_SCALARS = frozenset({type(None), bool, int, float, str, bytes, datetime, date, time, timedelta})
_SEQUENCES = (list, tuple, set, frozenset)
_CONTAINERS = frozenset({dict, *_SEQUENCES})
_FOREIGN = (msgpack.ExtType, msgpack.Timestamp)
# The base's own conversion: a subclass's (an enum's `__str__`) may say something else.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__), (float, float.__float__), (str, str.__str__), (bytes, lambda value: bytes(memoryview(value))),
    (list, list), (dict, dict),
)  # fmt: skip


class _Mark:
    """Stands at the beginning of an array that is no list."""

    __slots__ = ("kind",)

    def __init__(self, kind: type) -> None:
        self.kind = kind


_MARKS = {_TUPLE: _Mark(tuple), _SET: _Mark(set), _FROZENSET: _Mark(frozenset)}
_MARK_FIRST = {code: msgpack.ExtType(code, b"") for code in _MARKS}


def pack(value: Any, *, name: str = "value", depth_max: int = DEPTH_MAX, parts_max: int | None = None) -> bytes:
    """The value as bytes.

    Args:
        value: Any of `ALLOWED`, nested up to `depth_max` levels.
        name: What an error calls the value.
        depth_max: How many levels of containers it may have.
        parts_max: How many containers it may have; None for any number.

    Raises:
        Unencodable: Something in it is of another type or nested too deeply, or there is too much of it; the message
            says what and where.
    """
    packed = _try_pack(value, depth_max, parts_max)
    if isinstance(packed, bytes):
        return packed
    raise _complaint(value, name, depth_max) or Unencodable(f"{name} can't be sent: {packed}")


def unpack(data: bytes, *, depth_max: int = DEPTH_MAX, parts: Parts | None = None) -> Any:
    """The value that `pack` made these bytes of.

    Args:
        data: Of whatever origin: no more is made of them than is said here, and nothing is run.
        depth_max: How many levels of containers they may have.
        parts: Counts their containers; without it there may be any number.

    Raises:
        Malformed: The bytes are no packed value, or one that is nested too deeply or has too many parts.
    """
    counted = parts or Parts(None)

    def listed(items: list[Any]) -> Any:
        counted.more()
        return _unmarked(items)

    def mapped(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        counted.more()
        check_keys([key for key, _ in pairs])
        return dict(pairs)

    try:
        value = msgpack.unpackb(
            data, ext_hook=_unpacked, list_hook=listed if parts else _unmarked, object_pairs_hook=mapped,
            strict_map_key=False, timestamp=3, unicode_errors="surrogatepass",
        )  # fmt: skip
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        text = str(error) or type(error).__name__
        raise Malformed(f"this is no packed value: {text[:200]}") from error
    if not _is_sound(value, depth_max):
        raise Malformed(f"a packed value is nested more than {depth_max} levels deep, or has a stray type mark")
    return value


def pack_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """A task's payload: the packed `[args, kwargs]`.

    Raises:
        Unencodable: As for `pack`, with a path like `args[1]['x']`.
    """
    payload = [list(args), dict(kwargs)]
    packed = _try_pack(payload, _PAYLOAD_DEPTH_MAX)
    if isinstance(packed, bytes):
        return packed
    raise (
        _complaint(payload[0], "args", DEPTH_MAX + 1)
        or _complaint(payload[1], "kwargs", DEPTH_MAX + 1)
        or Unencodable(f"the arguments can't be sent: {packed}")
    )


def unpack_arguments(payload: bytes, *, parts: Parts | None = None) -> tuple[list[Any], dict[str, Any]]:
    """The arguments and keyword arguments in a payload.

    Args:
        parts: Counts their containers; without it there may be any number.

    Raises:
        Malformed: The payload is not the packed `[args, kwargs]`, or has too many parts.
    """
    match unpack(payload, depth_max=_PAYLOAD_DEPTH_MAX, parts=parts):
        case [list(args), dict(kwargs)] if all(type(key) is str for key in kwargs):
            return args, kwargs
    raise Malformed("a payload must be the packed [args, kwargs], with the names of kwargs as texts")


def _try_pack(value: Any, depth_max: int, parts_max: int | None = None) -> bytes | str:
    """The packed value, or in short why there is none."""
    try:
        if not _fits(value, depth_max, Parts(parts_max)):
            return "it is nested too deeply"
        packed: bytes = msgpack.packb(value, default=_packed, strict_types=True, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError) as error:
        return str(error)
    return packed


def _fits(value: Any, levels: int, parts: Parts) -> bool:
    """Whether a value's nesting is bounded and nothing of msgpack's own types stands in it; runs mostly in C."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if isinstance(value, dict):
        parts.more()
        return levels > 0 and _all_fit(value.keys(), levels - 1, parts) and _all_fit(value.values(), levels - 1, parts)
    if isinstance(value, _FOREIGN) or kind is _Mark:
        return False
    if not isinstance(value, _SEQUENCES):
        return True
    parts.more()
    return levels > 0 and _all_fit(value, levels - 1, parts)


def _all_fit(items: Any, levels: int, parts: Parts) -> bool:
    return _SCALARS.issuperset(map(type, items)) or all(_fits(item, levels, parts) for item in items)


def _is_sound(value: Any, levels: int) -> bool:
    """`_fits` for what was just unpacked: in it nothing stands twice, so that level after level is looked at, in C."""
    layer = [value]
    while layer := [item for item in layer if type(item) not in _SCALARS]:
        if levels <= 0 or not _CONTAINERS.issuperset(map(type, layer)):
            return False
        levels -= 1
        maps = [item for item in layer if type(item) is dict]
        layer = [*chain.from_iterable(layer), *chain.from_iterable(map(dict.values, maps))]
    return True


def _packed(value: Any) -> Any:
    """What msgpack doesn't pack by itself, as something that it does."""
    kind = type(value)
    if isinstance(value, tuple) and not isinstance(value, _FOREIGN):
        return [_MARK_FIRST[_TUPLE], *value]
    if isinstance(value, set):
        return [_MARK_FIRST[_SET], *value]
    if isinstance(value, frozenset):
        return [_MARK_FIRST[_FROZENSET], *value]
    if kind is int:
        return msgpack.ExtType(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if kind is datetime:
        return msgpack.ExtType(_DATETIME, iso_text(value).encode())
    if kind is time:
        return msgpack.ExtType(_TIME, iso_text(value).encode())
    if kind is date:
        return msgpack.ExtType(_DATE, value.isoformat().encode())
    if kind is timedelta:
        return msgpack.ExtType(_TIMEDELTA, b"%d %d %d" % (value.days, value.seconds, value.microseconds))
    return _plain(value)


def _plain(value: Any) -> Any:
    """An object of a subclass, as the type that it extends."""
    for base, convert in _BASES:
        if isinstance(value, base):
            return convert(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _unpacked(code: int, data: bytes) -> Any:
    if code in _MARKS:
        return _MARKS[code]
    if code == _INT:
        return int.from_bytes(data, "big", signed=True)
    if code == _DATETIME:
        return read_datetime(data.decode())
    if code == _TIME:
        return read_time(data.decode())
    if code == _DATE:
        return date.fromisoformat(data.decode())
    if code == _TIMEDELTA:
        days, seconds, microseconds = data.split()
        return timedelta(int(days), int(seconds), int(microseconds))
    raise ValueError(f"unknown extension type {code}")


def _unmarked(items: list[Any]) -> Any:
    if items and type(items[0]) is _Mark:
        kind, rest = items[0].kind, items[1:]
        if kind is not tuple:
            check_keys(rest)
        return kind(rest)
    return items


def _complaint(value: Any, path: str, levels: int) -> Unencodable | None:
    """What is wrong with a value, and where; the slow way, once it is known that something is."""
    if isinstance(value, (dict, *_SEQUENCES)) and not isinstance(value, _FOREIGN):
        if levels <= 0:
            return Unencodable(f"{path[:200]}: nested too deeply; at most {DEPTH_MAX} levels can be sent")
        if isinstance(value, dict):
            keys = ((key, f"a key of {path}") for key in value)
            parts = [*keys, *((item, f"{path}[{key!r:.40}]") for key, item in value.items())]
        elif isinstance(value, (list, tuple)):
            parts = [(item, f"{path}[{index}]") for index, item in enumerate(value)]
        else:
            parts = [(item, f"an item of {path}") for item in value]
        return next(filter(None, (_complaint(part, where, levels - 1) for part, where in parts)), None)
    try:
        msgpack.packb(value, default=_packed, strict_types=True, unicode_errors="surrogatepass")
        fits = not isinstance(value, _FOREIGN)
    except (TypeError, ValueError, OverflowError):
        fits = False
    return (
        None
        if fits
        else Unencodable(f"{path}: a value of type {type(value).__qualname__} can't be sent; allowed are {ALLOWED}")
    )
