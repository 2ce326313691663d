"""User values and JSON, which lacks some of them: those stand as an object with one tag.

| tag | what |
|---|---|
| `{"$bytes": base64}` | bytes |
| `{"$set": […]}`, `{"$frozenset": […]}` | sets |
| `{"$datetime": iso}`, `{"$date": iso}`, `{"$time": iso}` | dates and times |
| `{"$timedelta": [days, seconds, microseconds]}` | lengths of time |
| `{"$float": "nan" or "inf" or "-inf"}` | floats that are no JSON numbers |
| `{"$int": "0x…"}` | integers, in hexadecimal: those with very many digits |
| `{"$dict": [[key, value], …]}` | a dict whose keys are no texts, or which looks like a tag itself |

Tuples become arrays and come back as lists. Integers are JSON numbers, of any size where a person reads them; to turn
very long ones into decimal digits and back takes seconds, so that a daemon writes those in hexadecimal.
"""

from __future__ import annotations

import base64
import binascii
import decimal
import json
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Any, Final

from meshq.errors import Malformed
from meshq.wire.parts import Parts, check_keys

DIGITS_MAX: Final = 1_000_000
# Below Python's own limit of 4300, beyond which `str` and `int` refuse; beyond it the fast ways below are used.
_DIGITS_PLAIN: Final = 4000
_BITS_PLAIN: Final = 13_000
_FOLD: Final = " fold=1"


def to_json(value: Any) -> Any:
    """The value as plain JSON objects. It must be one that `values.pack` takes."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, dict):
        return _dict_to_json(value)
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return {"$frozenset" if isinstance(value, frozenset) else "$set": to_json(_in_order(value))}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$datetime": iso_text(value)}
    if isinstance(value, date):
        return {"$date": value.isoformat()}
    if isinstance(value, time):
        return {"$time": iso_text(value)}
    if isinstance(value, timedelta):
        return {"$timedelta": [value.days, value.seconds, value.microseconds]}
    raise TypeError(f"a value of type {type(value).__qualname__} has no form in JSON")


def from_json(value: Any) -> Any:
    """The value that a tree of plain JSON objects means: the tags of `to_json` are read back.

    Raises:
        Malformed: The content of a tag is not what it must be, or the nesting is too deep.
    """
    try:
        return _meant(value)
    except RecursionError as error:
        raise Malformed("the JSON is nested too deeply") from error


def _meant(value: Any) -> Any:
    if isinstance(value, list):
        return [_meant(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(tag, content)] = value.items()
        reader = _READERS.get(tag)
        if reader is not None:
            try:
                return reader(content)
            except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
                raise Malformed(f"{tag} can't hold {_shown(content)}: {str(error)[:200]}") from error
    return {key: _meant(item) for key, item in value.items()}


def _shown(content: Any) -> str:
    """The beginning of what a tag holds, for people."""
    try:
        return json.dumps(content)[:80]
    except ValueError:
        return "an integer of so many digits"  # which Python refuses to write


def iso_text(value: datetime | time) -> str:
    """ISO 8601; the second of two equal readings of a clock that was put back is marked."""
    return value.isoformat() + _FOLD * value.fold


def read_datetime(text: str) -> datetime:
    """The datetime that `iso_text` made this text of, or any in ISO 8601.

    Raises:
        ValueError, TypeError, AttributeError: It is none.
    """
    plain = text.removesuffix(_FOLD)
    return datetime.fromisoformat(plain).replace(fold=int(plain != text))


def read_time(text: str) -> time:
    """The same for a time of the day."""
    plain = text.removesuffix(_FOLD)
    return time.fromisoformat(plain).replace(fold=int(plain != text))


def dumps(value: Any, *, long_as_hex: bool = False) -> str:
    """The JSON text of plain JSON objects, integers of any size included.

    Args:
        value: What `to_json` made.
        long_as_hex: Whether integers with very many digits become `{"$int": "0x…"}`, which takes no time.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return _text(value, _hex_text if long_as_hex else _decimal_text)


def loads(text: str | bytes, *, digits_max: int = DIGITS_MAX, parts_max: int | None = None) -> Any:
    """The plain JSON objects that a text holds.

    Args:
        text: Of whatever origin.
        digits_max: How many digits its very long integers may have together.
        parts_max: How many arrays and objects it may have; None for any number.

    Raises:
        Malformed: The text is no JSON, or too much.
    """
    reader = _LongIntegers(digits_max)
    try:
        # UTF-8 alone: in another form of Unicode the parts could not be counted beforehand.
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        Parts(parts_max).of_json(data)
        text = data.decode("utf-8", "surrogatepass")
        return json.loads(text, parse_int=reader.read, parse_constant=_no_number)
    except RecursionError as error:
        raise Malformed("the JSON is nested too deeply") from error
    except ValueError as error:
        raise Malformed(f"this is no JSON: {error}") from error


def _dict_to_json(value: dict[Any, Any]) -> Any:
    are_texts = all(isinstance(key, str) for key in value)
    if not are_texts or (len(value) == 1 and next(iter(value)).startswith("$")):
        return {"$dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    return {key: to_json(item) for key, item in value.items()}


def _in_order(items: set[Any] | frozenset[Any]) -> list[Any]:
    try:
        return sorted(items)
    except TypeError:
        return list(items)


def _hashable(value: Any) -> Any:
    """What stands for the value as a dict's key or in a set, where it was a tuple before it became an array."""
    if isinstance(value, list):
        return tuple(_hashable(item) for item in value)
    return frozenset(value) if isinstance(value, set) else value


def _items(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError("an array is needed")
    items = [_hashable(_meant(item)) for item in content]
    check_keys(items)
    return items


def _read_dict(content: Any) -> dict[Any, Any]:
    pairs = [(_hashable(_meant(key)), _meant(item)) for key, item in content]
    check_keys([key for key, _ in pairs])
    return dict(pairs)


def _read_bytes(content: Any) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error


def _read_float(content: Any) -> float:
    if content not in ("nan", "inf", "-inf"):
        raise ValueError("only nan, inf and -inf need this tag")
    return float(content)


_READERS: dict[str, Callable[[Any], Any]] = {
    "$bytes": _read_bytes,
    "$set": lambda content: set(_items(content)),
    "$frozenset": lambda content: frozenset(_items(content)),
    "$datetime": read_datetime,
    "$time": read_time,
    "$date": lambda content: date.fromisoformat(content),
    "$timedelta": lambda content: timedelta(*content),
    "$float": _read_float,
    "$int": lambda content: int(content, 16),
    "$dict": _read_dict,
}


def _no_number(text: str) -> Any:
    raise ValueError(f'{text} is no JSON number; write {{"$float": "{text.replace("Infinity", "inf").lower()}"}}')


def _text(value: Any, long_text: Callable[[int], str]) -> str:
    """JSON text where `json.dumps` refuses, because of an integer with too many digits."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_text(item, long_text)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(item, long_text) for item in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return long_text(value) if value.bit_length() > _BITS_PLAIN else int.__repr__(value)
    return json.dumps(value, allow_nan=False)


def _hex_text(number: int) -> str:
    return f'{{"$int": "{number:#x}"}}'


def _decimal_text(number: int) -> str:
    """The digits of an integer. Python's own way takes quadratic time before 3.12; the decimal module's does not."""
    powers: dict[int, decimal.Decimal] = {}

    def power(bits: int) -> decimal.Decimal:
        if bits not in powers:
            powers[bits] = decimal.Decimal(2) ** bits
        return powers[bits]

    def converted(part: int, bits: int) -> decimal.Decimal:
        if bits <= _BITS_PLAIN:
            return decimal.Decimal(int.__repr__(part))
        low_bits = bits // 2
        high = part >> low_bits
        low = part - (high << low_bits)
        return converted(high, bits - low_bits) * power(low_bits) + converted(low, low_bits)

    with decimal.localcontext(decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)):
        digits = str(converted(abs(number), number.bit_length()))
    return f"-{digits}" if number < 0 else digits


class _LongIntegers:
    """Reads the integers of one text, with so many digits in those that are beyond Python's own limit."""

    def __init__(self, digits_max: int) -> None:
        self._digits_max = digits_max
        self._digits = 0

    def read(self, text: str) -> int:
        """The integer that these digits are."""
        if len(text) > _DIGITS_PLAIN:
            self._digits += len(text)
            if self._digits > self._digits_max:
                raise ValueError(
                    f"its very long integers have more than {self._digits_max} digits; msgpack takes any, as does "
                    '{"$int": "0x…"}'
                )
        return _integer(text)


def _integer(text: str) -> int:
    """The integer that these digits are; beyond Python's limit by halves, which takes far less than quadratic time."""
    if len(text) <= _DIGITS_PLAIN:
        return int(text)
    if text.startswith("-"):
        return -_integer(text[1:])
    low_digits = len(text) // 2
    power: int = 10**low_digits
    return _integer(text[:-low_digits]) * power + _integer(text[-low_digits:])
