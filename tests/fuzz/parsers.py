"""The real parsers of everything that comes from outside, each as a function of bytes that must hold its promise.

A parser promises a value that can be written and read again as the same, or an error of ours. Anything else that it
does (another exception, no end, memory without bound) is a find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from operator import attrgetter

from meshq.core import keys
from meshq.core.messages import PEER_MESSAGES, Rows
from meshq.core.requests import ANSWER_TO, Get, Heartbeat, WaitQuery
from meshq.core.task import COLUMNS, Task
from meshq.errors import BadArguments, BadKey, ConfigError, Malformed, StoreError, TooLarge, Unencodable
from meshq.store import rows
from meshq.wire import bodies, codec, forms, handshake, security, values
from meshq.wire.parts import Parts
from tests.fuzz import disks, doors
from tests.unit.test_wire_codec import example

Parser = Callable[[bytes], None]
# Requests whose body is their fields, and no form of its own.
PLAIN: tuple[type, ...] = (WaitQuery, Get, Heartbeat)
REQUESTS, ANSWERS = sorted(codec.REQUESTS), sorted(codec.ANSWERS)


def message(data: bytes) -> None:
    """A message between nodes."""
    found = codec.decode(data)
    assert codec.decode(codec.encode(found)) == found


def body(allowed: dict[str, type], names: list[str], data: bytes) -> None:
    """A request that another node forwarded, or its answer; the first byte says which."""
    name = names[data[0] % len(names)] if data else names[0]
    found = codec.decode_body(name, data[1:], allowed)
    # Compared as bytes: a number that is none equals nothing, itself neither.
    once = codec.encode_body(found)
    assert codec.encode_body(codec.decode_body(name, once, allowed)) == once


def value(data: bytes) -> None:
    """A user's value."""
    found = values.unpack(data, parts=Parts(10_000))
    # Compared as bytes, since a NaN is not equal to itself; in any order, since a set has none.
    again = values.pack(found)
    assert sorted(values.pack(values.unpack(again))) == sorted(again)


def arguments(data: bytes) -> None:
    """The arguments of a task."""
    args, kwargs = values.unpack_arguments(data)
    values.unpack_arguments(values.pack_arguments(args, kwargs))


def text(data: bytes) -> None:
    """JSON, with what it can't say itself in `$` words."""
    found = values.from_json(values.loads(data, parts_max=10_000))
    shown = values.dumps(values.to_json(found))
    again = values.dumps(values.to_json(values.from_json(values.loads(shown))))
    assert sorted(again) == sorted(shown)  # a set has no order


def http_body(data: bytes) -> None:
    """The body of a submit or of outcomes, as msgpack or JSON."""
    submit: Callable[..., object] = partial(forms.submit, new_id=lambda: "0" * 32, wall_ms=lambda: 0)
    every: list[Callable[..., object]] = [submit, forms.submit_result]
    every += [partial(codec.convert, cls=cls) for cls in PLAIN]
    for form in every:
        try:
            form(bodies.read_map(data, bodies.JSON if data[:1] == b"{" else ""))
        except (Malformed, TooLarge, Unencodable) as error:
            assert len(error.message) < MESSAGE_CHARS_MAX
            continue


def greeting(data: bytes) -> None:
    """The first frame of a link."""
    handshake.read(data)


def frame(data: bytes) -> None:
    """The rows of a pull."""
    rows.unpack_frame(Rows(rows=data, last=True, vector={}, committed={}))


def key(data: bytes) -> None:
    """A key or a credential, as somebody typed it."""
    typed = data.decode("utf-8", "replace")
    for read in (keys.parse, security.read_credential):
        try:
            read(typed)
        except BadKey as error:
            assert len(error.message) < MESSAGE_CHARS_MAX
            continue


PARSERS: dict[str, Parser] = {
    "message": message,
    "request": partial(body, dict(codec.REQUESTS), REQUESTS),
    "answer": partial(body, dict(codec.ANSWERS), ANSWERS),
    "value": value,
    "arguments": arguments,
    "json": text,
    "http": http_body,
    "greeting": greeting,
    "rows": frame,
    "key": key,
    **doors.PARSERS,
    **disks.PARSERS,
}
# The codec: what other nodes send.
CODEC = ("message", "request", "answer", "greeting")
# They open a file or a database each time.
SLOW = ("promise",)
# What stands for "no": other errors are finds. Of a configuration and a disk they are the ones that a start tells.
REFUSALS = (Malformed, BadKey, BadArguments, TooLarge, Unencodable, ConfigError, StoreError)
# A refusal repeats what was wrong, and must not repeat a body.
MESSAGE_CHARS_MAX = 2000


def held(parser: Parser, data: bytes) -> bool:
    """Whether the parser took this; it may refuse it, and must do nothing else."""
    try:
        parser(data)
    except REFUSALS as error:
        assert len(error.message) < MESSAGE_CHARS_MAX, error.message[:MESSAGE_CHARS_MAX]
        return False
    return True


def seeds(name: str) -> Iterator[bytes]:
    """Inputs of which a run begins: good ones."""
    for more in (doors, disks):
        if name in more.PARSERS:
            yield from more.seeds(name)
            return
    yield from _SEEDS[name]()


def _messages() -> Iterator[bytes]:
    yield from (codec.encode(example(cls, full=full)) for cls in PEER_MESSAGES for full in (True, False))


def _requests() -> Iterator[bytes]:
    for cls in ANSWER_TO:
        yield bytes([REQUESTS.index(cls.__name__)]) + codec.encode_body(example(cls, full=True))


def _answers() -> Iterator[bytes]:
    for cls in set(ANSWER_TO.values()):
        yield bytes([ANSWERS.index(cls.__name__)]) + codec.encode_body(example(cls, full=True))


def _values() -> Iterator[bytes]:
    yield values.pack([[1, -1, 2**70, 1.5, None, True, "ø", b"\0"], {"a": {1, 2}, "b": (1, [2])}])
    yield values.pack(
        [[datetime(2024, 1, 2, 3, tzinfo=UTC), date(2024, 1, 2), time(3, fold=1), timedelta(1, 2, 3)], {}]
    )


def _texts() -> Iterator[bytes]:
    yield b'{"a": [1, -1.5e300, true, null, {"$bytes": "AAE="}, {"$set": [1]}, {"$timedelta": [1, 2, 3]}]}'
    yield b'[{"$dict": [[1, 2], ["a", []]]}, {"$int": "0xff"}, {"$float": "nan"}, {"$datetime": "2024-01-02T03:04:05"}]'


def _keys() -> Iterator[bytes]:
    key = keys.Key(bytes(keys.SECRET_BYTES))
    yield key.text.encode()
    named = security.Subject(security.Role.SUBMIT, "bob")
    yield security.Credential("bob", security.passport([key], named)).text.encode()


def _rows() -> Iterator[bytes]:
    task = Task(id="x", name="echo", writer="x", seq=1, payload=b"\x90", submitted_ms=1)
    members = rows.pack_members(("x", "y"))
    yield rows.pack_frame([
        rows.pack(("task", *attrgetter(*COLUMNS)(task))),
        rows.pack(("payload", "x/args", 1, 1, "x", 2, b"x")),
        rows.pack(("roster", "g", members, 0, 1, 1, "x", 3, members, "")),
    ])  # fmt: skip


def _greetings() -> Iterator[bytes]:
    me = handshake.Identity(node=f"{1:032x}", boot=f"{2:032x}", cluster_hash="c", port=7373)
    yield from (handshake.greeting(me, kind) for kind in handshake.KINDS)


def _bodies() -> Iterator[bytes]:
    yield b'{"name": "echo", "args": [1], "kwargs": {"a": {"$bytes": "AAE="}}, "count": 2, "delay_s": 1}'
    yield b'{"node": "n", "boot": "b", "outcomes": [{"task": "t", "epoch": 1, "attempt": 1, "kind": "done"}]}'
    yield values.pack({"tasks": [{"name": "echo", "args": [1]}] * 2})
    yield (
        b'{"name": "echo", "priority": 1, "retries": 2, "timeout_s": 9.5, "max_running": 3, "backoff": "linear",'
        b' "backoff_s": 0.5, "keep_s": 0, "key": "k", "batch": "b", "not_before_ms": 5}'
    )
    kept = {"task": "t", "epoch": 1, "attempt": 1, "kind": "kept", "checkpoint": b"half"}
    yield values.pack({"node": "n", "boot": "b", "outcomes": [kept]})
    for cls in PLAIN:
        yield codec.encode_body(example(cls, full=True))


_SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "message": _messages, "request": _requests, "answer": _answers, "value": _values, "arguments": _values,
    "json": _texts, "http": _bodies, "greeting": _greetings, "rows": _rows, "key": _keys,
}  # fmt: skip
