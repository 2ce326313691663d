"""User values there and back, packed and as JSON."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshq.core.ids import cluster_hash
from meshq.errors import Malformed, Unencodable
from meshq.wire import values

zones = st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 300), 1 << 300)
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.datetimes(timezones=zones)
    | st.dates()
    | st.times(timezones=zones)
    | st.timedeltas()
)
keys = st.recursive(
    scalars.filter(lambda value: value == value),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=4)
        | st.frozensets(keys, max_size=4)
    ),
    max_leaves=15,
)


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types all the way down, and NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(same(*pairs) for pairs in zip(one.items(), other.items(), strict=True))
    if isinstance(one, (datetime, time)):
        return bool(one == other) and one.utcoffset() == other.utcoffset() and one.fold == other.fold
    if isinstance(one, (set, frozenset)):
        return one == other and sorted(map(_typed, one)) == sorted(map(_typed, other))
    return bool(one == other)


def _typed(value: Any) -> str:
    """A text that tells values and types apart, whatever order sets iterate in."""
    if isinstance(value, (tuple, frozenset)):
        parts = [_typed(item) for item in value]
        return f"{type(value).__name__}{sorted(parts) if isinstance(value, frozenset) else parts}"
    return f"{type(value).__name__} {value!r}"


@given(trees)
@settings(deadline=None, max_examples=200)
def test_a_value_is_the_same_at_both_ends(value: Any) -> None:
    assert same(values.unpack(values.pack(value)), value)


def listed(value: Any) -> Any:
    """What JSON makes of a value: tuples are lists, except where only a tuple can stand."""
    if isinstance(value, (list, tuple)):
        return [listed(item) for item in value]
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return value


@given(trees)
@settings(deadline=None, max_examples=200)
def test_json_keeps_all_but_tuples(value: Any) -> None:
    text = values.dumps(values.to_json(value))
    json.loads(text)
    assert same(values.from_json(values.loads(text)), listed(value))


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_garbage_is_malformed_or_a_value(data: bytes) -> None:
    try:
        value = values.unpack(data)
    except Malformed:
        return
    values.pack(value)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x91", b"\x01\x01", b"\xdd\xff\xff\xff\xff", b"\xa1\xff", b"\x81\x90\x01",
        msgpack.packb(msgpack.ExtType(99, b"")), msgpack.packb(msgpack.ExtType(5, b"no date")),
        msgpack.packb(msgpack.ExtType(7, b"1 2")), msgpack.packb(msgpack.ExtType(1, b"")),
        msgpack.packb([1, msgpack.ExtType(1, b"")]), msgpack.packb([msgpack.ExtType(2, b""), []]),
        b"\x91" * 101 + b"\x01", b"\x91" * 5000 + b"\x01",
    ],
)  # fmt: skip
def test_what_is_no_packed_value_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        values.unpack(data)


class Foo:
    pass


@pytest.mark.parametrize(
    ("args", "kwargs", "path", "kind"),
    [
        ([1, {"x": Foo()}], {}, "args[1]['x']", "Foo"),
        ([], {"y": [0, (1, Foo())]}, "kwargs['y'][1][1]", "Foo"),
        ([{Foo(): 1}], {}, "a key of args[0]", "Foo"),
        ([{Foo()}], {}, "an item of args[0]", "Foo"),
        ([3j], {}, "args[0]", "complex"),
        ([Foo], {}, "args[0]", "type"),
        ([msgpack.ExtType(1, b"")], {}, "args[0]", "ExtType"),
        ([msgpack.Timestamp(1)], {}, "args[0]", "Timestamp"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_place(args: Any, kwargs: Any, path: str, kind: str) -> None:
    with pytest.raises(Unencodable) as caught:
        values.pack_arguments(args, kwargs)
    assert caught.value.message.startswith(f"{path}: a value of type {kind} can't be sent; allowed are ")
    assert caught.value.status == 422


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else (value,)
    return value


def test_nesting_is_bounded_alike_at_both_ends() -> None:
    assert same(values.unpack(values.pack(nested(100))), nested(100))
    args, _ = values.unpack_arguments(values.pack_arguments([nested(100)], {}))
    assert same(args, [nested(100)])
    values.dumps(values.to_json(nested(100)))
    for value in (nested(101), nested(5000)):
        with pytest.raises(Unencodable, match="nested too deeply"):
            values.pack(value)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(Unencodable, match="nested too deeply"):
        values.pack(endless)


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Real(float):
    def __str__(self) -> str:
        return "something else"


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (Colour.RED, "red"), (Number.ONE, 1), (Real(2.5), 2.5), (Point(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}), ({Number.ONE: Colour.RED}, {1: "red"}), (bytearray(b"x"), b"x"),
    ],
)  # fmt: skip
def test_a_subclass_arrives_as_the_type_that_it_extends(sent: Any, got: Any) -> None:
    assert same(values.unpack(values.pack(sent)), got)
    assert values.from_json(json.loads(values.dumps(values.to_json(sent)))) == (list(got) if got == (1, 2) else got)


def test_other_msgpack_libraries_read_and_write_what_json_has() -> None:
    value = {"a": [1, -1, 2.5, None, True, "ø", b"\x00"]}
    assert msgpack.unpackb(values.pack(value)) == value
    assert values.unpack(msgpack.packb(value)) == value
    moment = datetime(2024, 2, 29, 12, tzinfo=UTC)
    assert values.unpack(msgpack.packb(moment, datetime=True)) == moment


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\x00", '{"$bytes": "AA=="}'),
        ({2, 1}, '{"$set": [1, 2]}'),
        (frozenset({1}), '{"$frozenset": [1]}'),
        (datetime(2024, 1, 2, 3, 4, 5), '{"$datetime": "2024-01-02T03:04:05"}'),
        (date(2024, 1, 2), '{"$date": "2024-01-02"}'),
        (time(3, 4, 5, 6, tzinfo=UTC), '{"$time": "03:04:05.000006+00:00"}'),
        (time(3, fold=1), '{"$time": "03:00:00 fold=1"}'),
        (timedelta(days=-1, seconds=2), '{"$timedelta": [-1, 2, 0]}'),
        (float("nan"), '{"$float": "nan"}'),
        (float("-inf"), '{"$float": "-inf"}'),
        ({1: 2}, '{"$dict": [[1, 2]]}'),
        ({"$set": [1]}, '{"$dict": [["$set", [1]]]}'),
        ((1, (2,)), "[1, [2]]"),
    ],
)
def test_json_forms(value: Any, text: str) -> None:
    assert values.dumps(values.to_json(value)) == text
    back = values.from_json(values.loads(text))
    assert same(back, listed(value))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1,]", "NaN", "[Infinity]", '{"$bytes": "?"}', '{"$bytes": 1}', '{"$set": 1}', '{"$set": [{"a": 1}]}',
        '{"$datetime": "x"}', '{"$datetime": null}', '{"$float": "1"}', '{"$float": []}', '{"$dict": [[1]]}',
        '{"$timedelta": ["x"]}', '{"$time": "25:00"}', '{"$time": 1}', '{"$dict": [[{"a": 1}, 1]]}', "[" * 100_000,
        "9" * 1_000_001, b"\xff",
    ],
)  # fmt: skip
def test_json_that_is_none_is_malformed(text: str | bytes) -> None:
    with pytest.raises(Malformed):
        values.from_json(values.loads(text))


def test_json_nested_too_deeply_is_malformed() -> None:
    tree: Any = 1
    for _ in range(50_000):
        tree = [tree]
    with pytest.raises(Malformed):
        values.from_json(tree)


@pytest.mark.parametrize("digits", [4299, 4300, 4301, 20_000, 100_001])
@pytest.mark.parametrize("sign", [1, -1])
def test_integers_with_more_digits_than_python_prints_are_json_numbers(digits: int, sign: int) -> None:
    number = sign * (10 ** (digits - 1) + 7)
    text = values.dumps(values.to_json({"n": [number, True, (1.5, "x")]}))
    zeros = "0" * (digits - 2)
    assert text == f'{{"n": [{"-" if sign < 0 else ""}1{zeros}7, true, [1.5, "x"]]}}'
    assert values.loads(text) == {"n": [number, True, [1.5, "x"]]}
    assert values.unpack(values.pack(number)) == number


def test_such_an_integer_may_be_the_only_key_of_a_map() -> None:
    value = {10**5000: "x"}
    assert values.from_json(values.loads(values.dumps(values.to_json(value)))) == value


def test_a_payload_is_arguments_and_keyword_arguments() -> None:
    payload = values.pack_arguments((1, (2,)), {"x": {3}})
    assert values.unpack(payload) == [[1, (2,)], {"x": {3}}]
    assert values.unpack_arguments(payload) == ([1, (2,)], {"x": {3}})


@pytest.mark.parametrize("value", [None, [], [[]], [[], []], [{}, []], [[], {1: 2}], [[], {}, 1], [(), {}]])
def test_what_is_no_payload_is_malformed(value: Any) -> None:
    with pytest.raises(Malformed, match=r"args, kwargs"):
        values.unpack_arguments(values.pack(value))


def test_a_clusters_hash_tells_clusters_apart() -> None:
    assert cluster_hash("meshq") == cluster_hash("meshq")
    assert cluster_hash("meshq") != cluster_hash("meshq2")
    assert len(cluster_hash("ø")) == 16
    assert set(cluster_hash("ø")) <= set("0123456789abcdef")
