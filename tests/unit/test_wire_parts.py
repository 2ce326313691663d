"""Values that were made to take time or memory are refused at once; others of their kind pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from meshq.core.limits import BODY_DIGITS_MAX, PARTS_MAX, SAME_HASH_MAX
from meshq.core.requests import Submit
from meshq.errors import Malformed, Unencodable
from meshq.wire import forms, values
from meshq.wire.parts import Parts, check_keys

# Multiples of the modulus of Python's hash of numbers: all of them have the hash 0.
MODULUS = (1 << 61) - 1
COUNT = 100_000


def colliding(count: int) -> list[int]:
    return [MODULUS * number for number in range(1, count + 1)]


def packed(number: int) -> msgpack.ExtType:
    """An integer as `values` packs large ones."""
    return msgpack.ExtType(4, number.to_bytes(12, "big", signed=True))


def seconds(work: Callable[[], Any], reason: str) -> float:
    began_s = time.perf_counter()
    with pytest.raises(Malformed, match=reason):
        work()
    return time.perf_counter() - began_s


TUPLE, SET, FROZENSET = (msgpack.ExtType(code, b"") for code in (1, 2, 3))


@pytest.mark.parametrize("kind", ["set", "frozenset", "inside", "map"])
def test_keys_with_one_hash_are_refused_at_once(kind: str) -> None:
    keys = [packed(number) for number in colliding(COUNT)]
    bodies: dict[str, Callable[[], bytes]] = {
        "set": lambda: msgpack.packb([SET, *keys]),
        "frozenset": lambda: msgpack.packb([FROZENSET, *keys]),
        "inside": lambda: msgpack.packb([[TUPLE, 1, []], [SET, *keys]]),
        "map": lambda: b"\xdf" + COUNT.to_bytes(4, "big") + b"".join(msgpack.packb(key) + b"\xc0" for key in keys),
    }
    body = bodies[kind]()
    assert seconds(lambda: values.unpack(body), "same hash") < 2


@pytest.mark.parametrize("form", ['{{"$set": [{}]}}', '{{"$frozenset": [{}]}}', '{{"$dict": [{}]}}'])
def test_so_are_they_in_json(form: str) -> None:
    items = [f"[{each}, 1]" if "dict" in form else str(each) for each in colliding(COUNT)]
    text = form.format(", ".join(items))
    assert seconds(lambda: values.from_json(values.loads(text)), "same hash") < 3


def test_a_copy_of_one_key_hides_no_others() -> None:
    with pytest.raises(ValueError, match="same hash"):
        check_keys([*([1] * 1000), *colliding(SAME_HASH_MAX + 1)])
    check_keys([*([1] * 1000), *colliding(SAME_HASH_MAX)])
    check_keys([(x, y, z) for x in range(-3, 40) for y in range(-3, 40) for z in range(-3, 40)])


def test_values_of_any_kind_pass_as_keys() -> None:
    value = {"set": set(range(1000)), "map": {number: str(number) for number in range(1000)}, "few": set(colliding(30))}
    assert values.unpack(values.pack(value)) == value
    assert values.from_json(values.loads(values.dumps(values.to_json(value)))) == value


def test_parts_are_counted_alike_in_both_forms() -> None:
    fits: list[Any] = [[] for _ in range(99)]
    assert values.unpack(values.pack(fits, parts_max=100), parts=Parts(100)) == fits
    assert values.loads(b"[" + b",".join([b"[]"] * 99) + b"]", parts_max=100) == fits
    over: list[Any] = [{} for _ in range(100)]
    with pytest.raises(Unencodable, match="value can't be sent: it has more than 100 lists, maps and sets"):
        values.pack(over, parts_max=100)
    with pytest.raises(Malformed, match="more than 100 lists"):
        values.unpack(values.pack(over), parts=Parts(100))
    with pytest.raises(Malformed, match="more than 100 lists"):
        values.loads(b"[" + b",".join([b"{}"] * 100) + b"]", parts_max=100)
    with pytest.raises(Malformed, match="more than 100 lists"):
        values.unpack_arguments(values.pack_arguments(over, {}), parts=Parts(100))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (rb'["[[[[", "{", 1]', 1), (rb'["a\"[[[[", "\\", [1, {"[[[": "\\\"{{{["}]]', 3),
        ('["ſ[\\u005b[", [[]]]'.encode(), 3), (rb'"\\\\[[" , []', 1), (rb'"[[[[', 0),
    ],
)  # fmt: skip
def test_brackets_inside_of_texts_are_no_parts(text: bytes, count: int) -> None:
    parts = Parts(count)
    parts.of_json(text)
    if count:
        with pytest.raises(ValueError, match="more than"):
            Parts(count - 1).of_json(text)


@pytest.mark.parametrize(
    "text",
    [
        b'"' + b'\\"' * 4_000_000 + b"[" * (PARTS_MAX + 1), b'"' * 8_000_000 + b"[" * (PARTS_MAX + 1),
        b'"["' * 3_000_000,
        b"[" * 8_000_000, b"[{" * 4_000_000, b'["' + b"\\" * 8_000_000, "[".encode("utf-16") * 1_000_000,
    ],
    ids=["escapes", "quotes", "texts", "arrays", "both", "backslashes", "another encoding"],
)  # fmt: skip
def test_json_that_was_made_to_take_time_does_not(text: bytes) -> None:
    assert seconds(lambda: values.loads(text, digits_max=BODY_DIGITS_MAX, parts_max=PARTS_MAX), "JSON") < 2


def test_the_digits_of_long_integers_are_bounded_together() -> None:
    text = "[" + ",".join(["9" * 50_000] * 100) + "]"
    assert seconds(lambda: values.loads(text, digits_max=BODY_DIGITS_MAX), f"more than {BODY_DIGITS_MAX} digits") < 1
    assert values.loads(f"[{'9' * 50_000}, {'9' * 50_000}]", digits_max=BODY_DIGITS_MAX)[1] == 10**50_000 - 1


@pytest.mark.parametrize("bits", [16_000, 60_000_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_daemon_writes_very_long_integers_in_a_form_that_takes_no_time(bits: int, sign: int) -> None:
    number = sign * (1 << bits)
    began_s = time.perf_counter()
    text = values.dumps(values.to_json({"n": [number, 7, "x", None]}), long_as_hex=True)
    back = values.from_json(values.loads(text, digits_max=BODY_DIGITS_MAX, parts_max=PARTS_MAX))
    assert time.perf_counter() - began_s < 2
    assert back == {"n": [number, 7, "x", None]}


@pytest.mark.parametrize("content", ['"12"', '"0x"', "7", '"0xg"', "null", '["0x1"]'])
def test_the_tag_of_integers_holds_hexadecimal_digits(content: str) -> None:
    if content == '"12"':
        assert values.from_json(values.loads(f'{{"$int": {content}}}')) == 0x12
        return
    with pytest.raises(Malformed, match=r"\$int can't hold"):
        values.from_json(values.loads(f'{{"$int": {content}}}'))


def test_the_arguments_of_all_tasks_of_a_submit_share_one_bound() -> None:
    """Whoever leads looks at each of them before it answers; what every task has counts for nothing."""
    half = {"name": "f", "payload": values.pack_arguments([[[]] * (PARTS_MAX // 2 - 1)], {})}
    small = {"name": "f", "payload": values.pack_arguments([], {})}

    def submit(*tasks: dict[str, Any]) -> Submit:
        return forms.submit({"tasks": [*tasks]}, lambda: "0" * 32, lambda: 0)

    assert len(submit(half, *[small] * 100, half).tasks) == 102
    with pytest.raises(Malformed, match=rf"tasks\[2\]\.payload: .*of all tasks have more than {PARTS_MAX + 9} lists"):
        submit(half, half, half)
