"""Whatever a request may bring into a row, every copy takes: a row that one node wrote and no other takes stops all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_type_hints

import pytest

from meshq.core import limits
from meshq.core.requests import ClaimRef, Get, Heartbeat, Outcome, SubmitResult, TaskSpec
from meshq.errors import Malformed
from meshq.store import feed, queue
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection
from meshq.store.outcomes import OUTCOME_KINDS
from meshq.store.queue import Budget
from meshq.store.rows import unpack_frame
from meshq.wire import codec

PEN = Pen("a", 1, True)
LARGE = 1024
ID = "0" * 32
CLAIM = ClaimRef(task=ID, epoch=1, attempt=1)
OUTCOME = Outcome(task=ID, epoch=1, attempt=1, kind="done", result=b"\xc0", checkpoint=b"half")
SPEC = TaskSpec(id=ID, name="primes", payload=b"\x92\x90\x80")
GET = Get(node="w", boot="b", number=1, slots=1, free=1, names=("primes",))
BEAT = Heartbeat(node="w", boot="b", name="", slots=1, running=(CLAIM,))
RESULT = SubmitResult(node="w", boot="b", outcomes=(OUTCOME,))

EDGES = [0, 1, 2, 64, 200, 256, 1 << 31, 1 << 32, limits.EPOCH_MAX, 1 << 53, 1 << 62, 1 << 63, 1 << 64]
WHOLE = sorted({sign * (edge + step) for edge in EDGES for step in (-1, 0, 1) for sign in (1, -1)})
LENGTHS = [0, 1, 64, 65, 200, 201, 256, 257, 5000, limits.ERROR_BYTES_MAX, limits.ERROR_BYTES_MAX + 1]
FLOATS = [-1.0, 0.0, 5e-324, 0.001, limits.TIMEOUT_S_MAX, 1e300, float("inf"), float("nan")]


def values(hint: Any) -> Iterator[Any]:
    """Values of a field's type, the extremes of every limit there is and those beyond."""
    kinds = set(getattr(hint, "__args__", ())) | {hint}
    if int in kinds:
        yield from (*WHOLE, limits.PRIORITY_MAX, -limits.PRIORITY_MAX, limits.RETRIES_MAX, limits.ATTEMPT_MAX)
    if str in kinds:
        yield from (char * length for length in LENGTHS for char in ("x", "ø", "😀", "\0", "\n"))
    if bytes in kinds:
        yield from (b"x" * length for length in (*LENGTHS, LARGE, LARGE + 1))
    if float in kinds:
        yield from FLOATS
    if type(None) in kinds:
        yield None


def fields(message: Any) -> list[str]:
    """The names of the plain fields of a message: those that a row may come to hold."""
    hints = get_type_hints(type(message))
    return [field.name for field in dataclasses.fields(message) if next(values(hints[field.name]), ...) is not ...]


def taken(message: Any, name: str, whole: Callable[[Any], Any] = lambda part: part) -> list[Any]:
    """The requests with each value of this field that the check of what comes in lets pass."""
    found = []
    for value in values(get_type_hints(type(message))[name]):
        request = whole(replace(message, **{name: value}))
        try:
            codec.check(request)
        except Malformed as error:
            assert name in error.message
        else:
            found.append(request)
    assert found, f"nothing of {name} was taken"
    return found


def submitted(spec: TaskSpec = SPEC) -> Connection:
    conn = memory_connection()
    queue.submit(conn, PEN, [spec], 1000, LARGE)
    return conn


def claimed(conn: Connection, get: Get = GET) -> list[queue.Given]:
    budget = Budget(99)
    return queue.claim(conn, PEN, get.node, get.names, budget, shown={"a": 1 << 40}, now_ms=2000, limit=99)


def finish(conn: Connection, told: SubmitResult) -> queue.FinishDone:
    return queue.finish(
        conn, PEN, told.outcomes, lambda *_: True, worker=told.node, crashes_max=3, now_ms=3000, inline_bytes_max=LARGE,
        chance=lambda: 0.0,
    )  # fmt: skip


def copied(conn: Connection) -> None:
    """Another copy pulls all that is here, and this one can still be read."""
    other = memory_connection()
    for frame in feed.rows_beyond(conn, {}, 1 << 20):
        unpack_frame(frame)
        feed.apply(other, frame, None)
    assert feed.read_vector(other) == feed.read_vector(conn)
    count = queue.counts(conn)
    assert queue.counts(other) == count
    assert sum(count.values()) == 1


@pytest.mark.parametrize("name", fields(SPEC))
def test_a_submitted_task_passes_to_other_copies(name: str) -> None:
    for spec in taken(SPEC, name):
        copied(submitted(spec))


@pytest.mark.parametrize("name", ["node", "boot", "number", "slots", "free", "wait_s"])
def test_a_run_that_was_given_passes_to_other_copies(name: str) -> None:
    for get in taken(GET, name):
        conn = submitted()
        assert [given.task.worker for given in claimed(conn, get)] == [get.node]
        copied(conn)


def name_of(part: Any) -> str:
    return part if isinstance(part, str) else type(part).__name__


BEATS = [(BEAT, name) for name in ("node", "boot", "name", "slots")] + [(CLAIM, name) for name in fields(CLAIM)]


@pytest.mark.parametrize(("part", "name"), BEATS, ids=name_of)
def test_a_run_that_is_adopted_passes_to_other_copies(part: Any, name: str) -> None:
    def whole(part: Any) -> Heartbeat:
        return part if isinstance(part, Heartbeat) else replace(BEAT, running=(part,))

    for beat in taken(part, name, whole):
        conn = submitted()
        queue.adopt(conn, PEN, beat.running, beat.node, 2000)
        copied(conn)
        # It is counted up from there.
        queue.release(conn, PEN, [ID], 3000)
        assert len(claimed(conn)) == 1
        copied(conn)


RESULTS = [(RESULT, "node"), (RESULT, "boot")] + [(OUTCOME, name) for name in fields(OUTCOME) if name != "kind"]


@pytest.mark.parametrize("kind", sorted(OUTCOME_KINDS))
@pytest.mark.parametrize(("part", "name"), RESULTS, ids=name_of)
def test_a_run_that_ended_passes_to_other_copies(part: Any, name: str, kind: str) -> None:
    def whole(part: Any) -> SubmitResult:
        told = part if isinstance(part, SubmitResult) else replace(RESULT, outcomes=(part,))
        return replace(told, outcomes=(replace(told.outcomes[0], kind=kind),))

    for told in taken(part, name, whole):
        conn = submitted(replace(SPEC, retries=limits.RETRIES_MAX, backoff_s=limits.TIMEOUT_S_MAX))
        claimed(conn)
        if kind == "kept" and told.outcomes[0].checkpoint is None:
            with pytest.raises(Malformed, match="has to bring a checkpoint"):
                finish(conn, told)
        else:
            finish(conn, told)
        copied(conn)


def test_a_run_far_ahead_of_its_task_is_not_adopted() -> None:
    conn = submitted()
    most = limits.ATTEMPTS_AHEAD_MAX
    for attempt in (most + 1, limits.ATTEMPT_MAX, (1 << 63) - 1):
        run = replace(CLAIM, attempt=attempt)
        assert queue.adopt(conn, PEN, [run], "w", 2000) == ((), (ID,)), "no leader ever gave it"
    assert queue.adopt(conn, PEN, [replace(CLAIM, attempt=most)], "w", 2000) == ((ID,), ())
    task = queue.get(conn, ID)
    assert task is not None
    assert (task.state, task.attempt) == ("running", most)
    assert queue.adopt(conn, PEN, [replace(CLAIM, attempt=2 * most)], "w", 2000) == ((ID,), ()), "it counts from there"
