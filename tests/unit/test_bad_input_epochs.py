"""Epochs of 2^48 or more: refused by name wherever one may come in, and kept nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

from meshq.core.limits import EPOCH_MAX
from meshq.core.membership import Roster
from meshq.core.messages import Pull, Rows, VoteAnswer
from meshq.errors import Malformed, Unreachable
from meshq.store import feed
from meshq.store.inline import memory_connection
from meshq.store.rows import PayloadRow, RosterRow, TaskRow
from meshq.wire import codec
from tests.unit.test_wire_codec import example
from tests.unit.transport_contract import RENEW, A, B, Script
from tests.unit.wire_desk import opened
from tests.unit.wire_node import Node, connect

BAD = [EPOCH_MAX, 1 << 63, (1 << 64) - 1, -1]
SAID = f"must be from 0 to {EPOCH_MAX - 1}"
KINDS = {**codec.MESSAGES, **codec.REQUESTS, **codec.ANSWERS}
Path_ = tuple[str | int, ...]


def epochs(body: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Where in a message's map an epoch stands, however deep."""
    pairs = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in pairs:
        if isinstance(key, str) and key.endswith("epoch"):
            yield (*path, key)
        yield from epochs(value, (*path, key))


def with_epoch(body: Any, path: Path_, epoch: int) -> bytes:
    """The packed map with this epoch there."""
    changed = spot = msgpack.unpackb(msgpack.packb(body))
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = epoch
    packed: bytes = msgpack.packb(changed)
    return packed


def bodies() -> Iterator[tuple[str, Any, Path_]]:
    """Every message, request and answer that has an epoch, as a map, and where the epoch stands."""
    for name, cls in KINDS.items():
        body = msgpack.unpackb(codec.encode_body(example(cls, full=True)))
        for path in epochs(body):
            yield name, body, path


def written(path: Sequence[str | int]) -> str:
    """A path as the messages write it."""
    parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return "".join(parts)[1:]


CASES = list(bodies())


def test_these_have_epochs() -> None:
    assert {name for name, _, _ in CASES} == {
        "Hello", "Vote", "VoteAnswer", "Renew", "RenewAnswer", "Handover", "Pull", "Get", "Got", "Heartbeat",
        "HeartbeatAnswer", "SubmitResult", "ResultsTaken", "Status", "TaskStory", "ClusterStory",
    }  # fmt: skip
    assert ("Hello", ("roster", "epoch")) in {(name, path) for name, _, path in CASES}


@pytest.mark.parametrize(("name", "body", "path"), CASES, ids=[f"{name}.{written(path)}" for name, _, path in CASES])
def test_it_is_refused_in_every_message(name: str, body: Any, path: Path_) -> None:
    for epoch in (0, EPOCH_MAX - 1):
        codec.decode_body(name, with_epoch(body, path, epoch), KINDS)
    for epoch in BAD:
        with pytest.raises(Malformed) as caught:
            codec.decode_body(name, with_epoch(body, path, epoch), KINDS)
        # A key of a map is told as such, or not at all by the decoder.
        message = re.sub(r"\[('ø'|\.\.\.)\]", ".ø", caught.value.message)
        assert message.startswith(f"{name}: {written(path)}: ")
        # What no 64 bits hold with a sign is no integer to the decoder.
        assert f"{SAID}, not {epoch}" in message or epoch > 1 << 62


# -- rows ----------------------------------------------------------------------------------------------------

TASK = TaskRow(
    id="t", rank=0, majority=0, epoch=1, version=1, writer="x", seq=1, state="pending", name="f", payload=b"",
    payload_ref=None, priority=0, not_before_ms=0, timeout_s=None, retries=0, backoff_s=1.0, key=None, retry_of=None,
    batch=None, attempt=0, failures=0, crashes=0, losses=0, worker=None, result=None, result_ref=None, error=None,
    submitted_ms=0, started_ms=None, finished_ms=None,
)  # fmt: skip
ROWS: list[TaskRow | PayloadRow | RosterRow] = [
    TASK,
    PayloadRow(ref="t/args", epoch=1, version=1, writer="x", seq=2, body=b""),
    RosterRow(genesis="g", members=msgpack.packb(["x"]), recovery=0, epoch=1, version=1, writer="x", seq=3),
]


def frame(*rows: TaskRow | PayloadRow | RosterRow) -> Rows:
    return Rows(rows=msgspec.msgpack.encode(rows), last=True, vector={"x": 9}, committed={"x": 9})


@pytest.mark.parametrize("bad", ROWS, ids=["task", "payload", "roster"])
def test_a_row_with_it_is_refused_by_name_and_the_whole_frame_with_it(bad: TaskRow | PayloadRow | RosterRow) -> None:
    conn = memory_connection()
    name = f"{type(bad).__struct_config__.tag} {msgspec.structs.astuple(bad)[0]!r}"
    for epoch in BAD:
        rows = frame(TASK, msgspec.structs.replace(bad, epoch=epoch))
        before = conn.total_changes
        with pytest.raises(Malformed, match=f"^{name}: epoch: expected `int`"):
            feed.apply(conn, rows, None)
        assert conn.total_changes == before, "the vector of such a frame is not taken over either"
    assert feed.apply(conn, frame(msgspec.structs.replace(bad, epoch=EPOCH_MAX - 1)), None).changed == 1


# -- links and HTTP ------------------------------------------------------------------------------------------


async def test_a_link_refuses_it_both_ways_and_stays() -> None:
    at_b = Script()
    async with Node(A) as a, Node(B, at_b) as b:
        await connect(a, b)
        with pytest.raises(Malformed, match=f"Renew: epoch: {SAID}, not {EPOCH_MAX}"):
            await a.links.request(B, replace(RENEW, epoch=EPOCH_MAX), timeout_s=5)
        with pytest.raises(Malformed, match=f"Pull: epoch: {SAID}"):
            _ = [
                part
                async for part in a.links.stream(B, Pull(vector={}, epoch=EPOCH_MAX, genesis="", wait_s=0.0), idle_s=5)
            ]
        assert at_b.heard == []
        assert b.links.counters["request_malformed"] == 1

        async def answer(message: Any) -> VoteAnswer:
            return VoteAnswer(granted=True, pre=False, epoch=1, vector={}, roster=Roster(epoch=EPOCH_MAX))

        honest, at_b.reply = at_b.reply, answer
        with pytest.raises(Unreachable, match=rf"answered something else: VoteAnswer: roster\.epoch: {SAID}"):
            await a.links.request(B, RENEW, timeout_s=5)
        assert a.links.counters["answer_malformed"] == 1
        at_b.reply = honest
        assert (await a.links.request(B, RENEW, timeout_s=5)).followed


@pytest.mark.parametrize("epoch", BAD[:2])
async def test_a_worker_that_speaks_http_is_told_so(tmp_path: Path, epoch: int) -> None:
    run = {"task": "0" * 32, "epoch": epoch, "attempt": 1}
    worker = {"node": "n", "boot": "b"}
    async with opened(tmp_path) as desk:
        for path, body, where in (
            ("/heartbeat", {"name": "", "slots": 1, "running": [run]}, "running[0].epoch"),
            ("/get-task", {"number": 1, "slots": 1, "free": 1, "names": [], "holds": [run]}, "holds[0].epoch"),
            ("/submit-result", {"outcomes": [{**run, "kind": "done", "result": 1}]}, "outcomes[0].epoch"),
        ):
            status, answer = await desk.json("POST", path, {**worker, **body})
            assert (status, answer["code"]) == (400, "malformed")
            assert f"{where}: " in answer["message"]
            assert SAID in answer["message"] or epoch > EPOCH_MAX
        assert desk.service.seen == []
