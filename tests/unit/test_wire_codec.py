"""Every message of both modules there and back, and what is refused on the way."""

from __future__ import annotations

import dataclasses
from dataclasses import fields, replace
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
import pytest

from meshq.core import limits
from meshq.core.messages import PEER_MESSAGES, Call, Handover, Hello, PeerHint, Pull, Renew, Rows
from meshq.core.requests import ANSWER_TO, ClaimRef, Get, Heartbeat, Outcome, Submit, TaskSpec, WaitQuery
from meshq.errors import Malformed
from meshq.wire import codec

RENEW = Renew(epoch=3, lease_s=2.5, genesis="g")


def example(hint: Any, *, full: bool) -> Any:
    """A value of a type: with everything that may be there, or with as little as possible."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return example(args[0], full=full) if full or NoneType not in args else None
    if origin is tuple and args[-1] is not Ellipsis:
        return tuple(example(arg, full=full) for arg in args)
    if origin is tuple:
        return (example(args[0], full=full),) * (2 if full else 0)
    if origin is dict:
        return {"ø": example(args[1], full=full)} if full else {}
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        hints = get_type_hints(hint)
        filled = {name: "x" for cls, name in codec.FILLED if cls == hint.__name__}
        return hint(**{field.name: example(hints[field.name], full=full) for field in fields(hint)} | filled)
    samples: dict[type, tuple[Any, Any]] = {
        int: (7, 1), float: (2.5, 1.0), str: ("ø", ""), bytes: (b"\x00\xff", b""), bool: (True, False),
    }  # fmt: skip
    return samples[hint][0 if full else 1]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("cls", PEER_MESSAGES, ids=lambda cls: cls.__name__)
def test_every_message_between_nodes(cls: type, full: bool) -> None:
    message = example(cls, full=full)
    data = codec.encode(message)
    assert codec.decode(data) == message
    name, _ = msgpack.unpackb(data)
    assert name == cls.__name__


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("request_cls", ANSWER_TO, ids=lambda cls: cls.__name__)
def test_every_request_and_its_answer(request_cls: type, full: bool) -> None:
    for cls, allowed in ((request_cls, codec.REQUESTS), (ANSWER_TO[request_cls], codec.ANSWERS)):
        body = example(cls, full=full)
        assert codec.decode_body(cls.__name__, codec.encode_body(body), allowed) == body


def edited(message: Any, **changes: Any) -> bytes:
    name, body = msgpack.unpackb(codec.encode(message))
    packed: bytes = msgpack.packb([name, {key: value for key, value in (body | changes).items() if value is not ...}])
    return packed


def test_a_field_of_a_later_version_is_ignored_and_a_default_stands_for_a_missing_one() -> None:
    assert codec.decode(edited(RENEW, colour="blue")) == RENEW
    handover = Handover(epoch=1, step="go", genesis="g")
    assert codec.decode(edited(handover)) == handover
    hello = example(Hello, full=True)
    assert codec.decode(edited(hello, peers=..., stopping=...)) == replace(hello, peers=(), stopping=False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (edited(RENEW, epoch=...), ["Renew", "epoch"]),
        (edited(RENEW, epoch="3"), ["Renew", "epoch", "int", "str"]),
        (edited(RENEW, epoch=True), ["epoch"]),
        (edited(RENEW, epoch=-1), ["epoch", "-1"]),
        (edited(RENEW, epoch=limits.EPOCH_MAX), ["epoch", str(limits.EPOCH_MAX)]),
        (edited(RENEW, lease_s=float("nan")), ["lease_s"]),
        (edited(RENEW, lease_s=float("inf")), ["lease_s"]),
        (edited(RENEW, lease_s=-1.0), ["lease_s"]),
        (edited(RENEW, genesis=b"g"), ["genesis"]),
        (edited(Rows(rows=b"", last=True, vector={}, committed={}), vector={"a": -1}), ["vector", "'a'"]),
        (edited(Rows(rows=b"", last=True, vector={}, committed={}), committed={"a": 1 << 63}), ["committed"]),
        (edited(Pull(vector={}, epoch=0, genesis="", wait_s=0.0), wait_s=61.0), ["wait_s", "60"]),
        (edited(example(Hello, full=True), roster={"epoch": 1 << 50}), ["roster.epoch"]),
        (edited(Call(request="Submit", body=b""), body="text"), ["body"]),
        (msgpack.packb(["Nonsense", {}]), ["Nonsense"]),
        (msgpack.packb(["Renew"]), []),
        (msgpack.packb({"Renew": 1}), []),
        (msgpack.packb(["Renew", []]), ["Renew"]),
        (b"", []),
        (b"\xc1", []),
        (codec.encode(RENEW) + b"\x00", []),
        (b"\x92\xa5Renew" + b"\x91" * 100_000, []),
    ],
)
def test_what_is_wrong_is_refused_by_name(data: bytes, words: list[str]) -> None:
    with pytest.raises(Malformed) as caught:
        codec.decode(data)
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize("epoch", [0, limits.EPOCH_MAX - 1])
def test_epochs_at_the_edges_are_taken(epoch: int) -> None:
    assert codec.decode(codec.encode(replace(RENEW, epoch=epoch))).epoch == epoch


SPEC = TaskSpec(id="0" * 32, name="primes", payload=b"\x92\x90\x80")
CLAIM = ClaimRef(task="0" * 32, epoch=1, attempt=1)
GET = Get(node="n", boot="b", number=1, slots=1, free=1, names=())


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (Submit(tasks=(SPEC, replace(SPEC, retries=limits.RETRIES_MAX + 1))), "tasks[1].retries"),
        (Submit(tasks=(replace(SPEC, priority=-limits.PRIORITY_MAX - 1),)), "tasks[0].priority"),
        (Submit(tasks=(replace(SPEC, timeout_s=0.0),)), "tasks[0].timeout_s"),
        (Submit(tasks=(replace(SPEC, timeout_s=limits.TIMEOUT_S_MAX * 2),)), "timeout_s"),
        (Submit(tasks=(replace(SPEC, name="x" * (limits.NAME_CHARS_MAX + 1)),)), "name"),
        (Submit(tasks=(replace(SPEC, key="x" * (limits.KEY_CHARS_MAX + 1)),)), "key"),
        (Submit(tasks=(SPEC,) * (limits.BATCH_TASKS_MAX + 1)), "tasks"),
        (replace(GET, holds=(CLAIM,) * (limits.CLAIMS_MAX + 1)), "holds"),
        (replace(GET, holds=(replace(CLAIM, epoch=-1),)), "holds[0].epoch"),
        (replace(GET, free=-1), "free"),
        (Heartbeat(node="n", boot="b", name="", slots=1, running=(CLAIM,) * (limits.CLAIMS_MAX + 1)), "running"),
        (WaitQuery(ids=("x",) * (limits.WAIT_IDS_MAX + 1)), "ids"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_all_that_grows_has_a_cap(body: Any, word: str) -> None:
    data = codec.encode_body(body)
    with pytest.raises(Malformed) as caught:
        codec.decode_body(type(body).__name__, data, codec.REQUESTS)
    assert word in caught.value.message


def test_an_error_at_the_cap_is_taken_and_one_byte_more_is_not() -> None:
    outcome = Outcome(task="t", epoch=1, attempt=1, kind="failed", error=b"x" * limits.ERROR_BYTES_MAX)
    codec.check(outcome)
    with pytest.raises(Malformed, match="error"):
        codec.check(replace(outcome, error=b"x" * (limits.ERROR_BYTES_MAX + 1)))


def test_hints_are_capped() -> None:
    hint = PeerHint(node="n", addresses=())
    hello = replace(example(Hello, full=True), peers=(hint,) * (limits.HINTS_MAX + 1))
    with pytest.raises(Malformed, match="peers"):
        codec.decode(codec.encode(hello))


def test_only_what_is_allowed_is_decoded() -> None:
    with pytest.raises(Malformed, match="Renew"):
        codec.decode(codec.encode(RENEW), {"Hello": Hello})
    with pytest.raises(Malformed, match="Stop"):
        codec.decode_body("Stop", b"\x80", {"Submit": Submit})


def test_what_is_no_text_is_refused_wherever_it_stands() -> None:
    # Found by mutated inputs: msgspec has no error of its own for these.
    data = codec.encode(Rows(rows=b"", last=True, vector={"ab": 1}, committed={}))
    for bad in (data.replace(b"ab", b"\xc3("), data.replace(b"Rows", b"R\xffws"), data.replace(b"last", b"l\xffst")):
        assert bad != data
        with pytest.raises(Malformed):
            codec.decode(bad)
    with pytest.raises(Malformed):
        codec.convert({"ids": ["a"], "\ud800": 1}, WaitQuery)
