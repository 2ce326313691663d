"""How runs end: what counts, what is dropped, and when enough is enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from meshq.core.limits import CHECKPOINT_BYTES_MAX
from meshq.core.requests import ClaimRef, Outcome, TaskSpec
from meshq.core.task import Task
from meshq.errors import Malformed, NotFound, StaleEpoch
from meshq.store import feed, queue
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection
from meshq.store.queue import Budget

PEN = Pen("a", 1, True)
BY_HAND = "run it again with: meshq retry 1"
ERROR = msgspec.msgpack.encode({"type": "ValueError", "message": "no", "traceback": "tb"})


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def runs(conn: Connection, *ids: str, **changes: Any) -> None:
    given: dict[str, Any] = {"name": "primes", "payload": b"p", "backoff_s": 1.0, **changes}
    specs = [TaskSpec(id=id_, **given) for id_ in ids]
    queue.submit(conn, PEN, specs, 1000, 1024)
    claim(conn)


def claim(conn: Connection, now_ms: int = 2000, node: str = "w") -> list[queue.Given]:
    return queue.claim(
        conn, PEN, node, ["primes"], Budget(99), shown={"a": 1 << 40}, now_ms=now_ms, limit=99
    )  # fmt: skip


def outcome(id_: str, kind: str = "done", **changes: Any) -> Outcome:
    given: dict[str, Any] = {"task": id_, "epoch": 1, "attempt": 1, "kind": kind}
    given |= {"result": b"r"} if kind == "done" else {"error": ERROR}
    return Outcome(**(given | changes))


def finish(
    conn: Connection, *outcomes: Outcome, present: bool = True, pen: Pen = PEN, chance: float = 0.0
) -> queue.FinishDone:
    return queue.finish(
        conn, pen, outcomes, lambda *_: present, worker="w", crashes_max=3, now_ms=10_000, inline_bytes_max=10,
        chance=lambda: chance,
    )  # fmt: skip


def there(conn: Connection, id_: str = "1") -> Task:
    task = queue.get(conn, id_)
    assert task is not None
    return task


def message(conn: Connection, id_: str = "1") -> dict[str, str]:
    found: dict[str, str] = msgspec.msgpack.decode(there(conn, id_).error or b"")
    return found


def test_a_success_of_the_present_claim_finishes_the_task(conn: Connection) -> None:
    runs(conn, "1")
    assert finish(conn, outcome("1")) == queue.FinishDone({}, ("1",))
    task = there(conn)
    assert (task.state, task.result, task.worker, task.finished_ms, task.majority) == ("done", b"r", "w", 10_000, 1)


def test_a_success_counts_while_the_task_is_open_whichever_claim_brings_it(conn: Connection) -> None:
    runs(conn, "runs", "waits")
    queue.release(conn, PEN, ["waits"])
    done = finish(conn, outcome("runs"), outcome("waits"), present=False)
    assert (done.dropped, done.finished) == ({}, ("runs", "waits"))


@pytest.mark.parametrize("kind", ["failed", "crashed", "released"])
def test_anything_else_counts_only_from_the_present_claim(conn: Connection, kind: str) -> None:
    runs(conn, "1", "2")
    queue.release(conn, PEN, ["2"])
    before = there(conn)
    done = finish(conn, outcome("1", kind), present=False)
    assert done == queue.FinishDone({"1": "not the present claim"}, ())
    assert there(conn) == before
    assert finish(conn, outcome("2", kind)).dropped == {"2": "not the present claim"}, "it does not run"


def test_a_duplicate_is_dropped(conn: Connection) -> None:
    runs(conn, "1")
    finish(conn, outcome("1", result=b"first"))
    again = finish(conn, outcome("1", result=b"second"), outcome("unknown"))
    assert again == queue.FinishDone({"1": "finished", "unknown": "unknown"}, ())
    assert there(conn).result == b"first"


def test_two_outcomes_of_one_task_in_one_message_are_taken_in_order(conn: Connection) -> None:
    runs(conn, "1", "2", retries=1)
    done = finish(conn, outcome("1"), outcome("1"), outcome("2", "failed"), outcome("2"))
    assert (done.dropped, done.finished) == ({"1": "finished"}, ("1", "2"))
    assert there(conn, "2").failures == 1


def test_a_failure_is_tried_again_later_and_later_while_retries_are_left(conn: Connection) -> None:
    runs(conn, "1", retries=2)
    assert finish(conn, outcome("1", "failed")).finished == ()
    assert (there(conn).state, there(conn).failures, there(conn).not_before_ms) == ("pending", 1, 11_000)
    assert claim(conn, 10_999) == []
    assert len(claim(conn, 11_000)) == 1
    finish(conn, outcome("1", "failed"))
    assert there(conn).not_before_ms == 12_000
    claim(conn, 12_000)
    assert finish(conn, outcome("1", "failed")).finished == ("1",)
    task = there(conn)
    assert (task.state, task.failures, task.attempt, task.error) == ("failed", 3, 3, ERROR)


def test_a_final_failure_is_not_tried_again(conn: Connection) -> None:
    runs(conn, "1", retries=5)
    assert finish(conn, outcome("1", "failed", final=True)).finished == ("1",)


def test_the_third_crash_ends_the_task_and_says_so(conn: Connection) -> None:
    runs(conn, "1")
    for crashes in (1, 2):
        assert finish(conn, outcome("1", "crashed")).finished == ()
        assert (there(conn).crashes, there(conn).failures) == (crashes, 0)
        claim(conn, 99_000, node="v")
    assert finish(conn, outcome("1", "crashed")).finished == ("1",)
    assert there(conn).crashes == 3
    given_up = f"no (given up: the process that ran it died 3 times, on w, v; {BY_HAND})"
    assert message(conn) == {"type": "ValueError", "message": given_up, "traceback": "tb"}


@pytest.mark.parametrize("error", [None, b"\xc1", msgspec.msgpack.encode([1])])
def test_an_error_that_cannot_be_read_still_ends_with_the_reason(conn: Connection, error: bytes | None) -> None:
    runs(conn, "1")
    for _ in range(3):
        finish(conn, outcome("1", "crashed", error=error))
        claim(conn, 99_000)
    assert message(conn)["message"] == f"given up: the process that ran it died 3 times, on w; {BY_HAND}"


def test_a_released_run_costs_nothing_but_its_attempt(conn: Connection) -> None:
    runs(conn, "1")
    assert finish(conn, outcome("1", "released")).finished == ()
    task = there(conn)
    assert (task.state, task.failures, task.crashes, task.losses, task.worker) == ("pending", 0, 0, 0, None)


def test_an_outcome_of_no_known_kind_changes_nothing(conn: Connection) -> None:
    runs(conn, "1", "2")
    with pytest.raises(Malformed, match="exploded"):
        finish(conn, outcome("1"), outcome("2", "exploded"))
    assert there(conn).state == "running"


def test_large_results_are_rows_of_their_own_with_a_name_for_each_write(conn: Connection) -> None:
    runs(conn, "1", "2")
    other = memory_connection()
    for rows in feed.rows_beyond(conn, {}, 1 << 20):
        feed.apply(other, rows, None)
    finish(conn, outcome("1", result=b"x" * 11), outcome("2", result=b"y" * 10))
    finish(other, outcome("1", result=b"z" * 11), pen=Pen("b", 1, True))
    assert there(conn).result is None
    assert there(conn).result_ref != there(other).result_ref
    assert [view.result for view in queue.views(conn, ["1", "2"], with_result=True)] == [b"x" * 11, b"y" * 10]
    for rows in list(feed.rows_beyond(other, feed.read_vector(conn), 1 << 20)):
        feed.apply(conn, rows, None)
    assert queue.views(conn, ["1"], with_result=True)[0].result == b"z" * 11, "the later key wins, with its own value"


def test_runs_end_without_an_outcome(conn: Connection) -> None:
    runs(conn, "1", "2")
    seq = queue.release(conn, PEN, ["2", "1", "1", "unknown"])
    assert seq == feed.read_seq(conn, "a") == 6
    assert [there(conn, id_).state for id_ in "12"] == ["pending", "pending"]
    assert queue.release(conn, PEN, ["1"]) == 0, "it does not run"


def test_the_last_loss_of_its_node_ends_the_task_and_says_so(conn: Connection) -> None:
    runs(conn, "1")
    for losses, state in ((1, "running"), (2, "pending")):
        if state == "pending":
            queue.release(conn, PEN, ["1"])
        assert queue.count_losses(conn, PEN, ["1", "unknown"], 3, 5000) == ()
        assert (there(conn).state, there(conn).losses) == (state, losses)
    assert queue.count_losses(conn, PEN, ["1"], 3, 5000) == ("1",)
    assert queue.count_losses(conn, PEN, ["1"], 3, 6000) == (), "it is finished"
    task = there(conn)
    assert (task.state, task.losses, task.finished_ms, task.majority) == ("failed", 3, 5000, 1)
    given_up = f"given up: the node that ran it was lost 3 times, on w; {BY_HAND}"
    assert message(conn) == {"type": "NodeLost", "message": given_up, "traceback": ""}


# -- what runs keep on their way -------------------------------------------------------------------------


def kept(id_: str, checkpoint: bytes | None = b"half") -> Outcome:
    return Outcome(task=id_, epoch=1, attempt=1, kind="kept", checkpoint=checkpoint)


def checkpoints(conn: Connection) -> list[tuple[str, int, bytes]]:
    return conn.execute("SELECT ref, version, body FROM payloads ORDER BY ref").fetchall()


def test_what_a_run_keeps_is_a_value_of_its_own_and_its_task_does_not_change(conn: Connection) -> None:
    runs(conn, "1", "2")
    before = there(conn, "1")
    assert finish(conn, kept("1"), kept("2", b"")) == queue.FinishDone({}, ())
    assert finish(conn, kept("1", b"three"), kept("1", b"four")).dropped == {}
    assert checkpoints(conn) == [("1/checkpoint", 1, b"four"), ("2/checkpoint", 0, b"")]
    assert there(conn, "1") == before


def test_what_is_kept_counts_only_from_the_present_claim(conn: Connection) -> None:
    runs(conn, "1", "2", "3")
    queue.release(conn, PEN, ["2"])
    finish(conn, outcome("3"))
    assert finish(conn, kept("1"), present=False).dropped == {"1": "not the present claim"}
    found = finish(conn, kept("2"), kept("3"), kept("unknown"))
    assert found.dropped == {"2": "not the present claim", "3": "finished", "unknown": "unknown"}
    assert checkpoints(conn) == []


def test_how_a_run_ended_is_taken_whatever_becomes_of_what_it_kept(conn: Connection) -> None:
    runs(conn, "1", "2", "3", retries=1)
    queue.release(conn, PEN, ["1"])
    found = finish(conn, kept("1"), outcome("1"), outcome("2"), kept("2"), kept("3"), outcome("3", "failed"))
    assert (found.dropped, found.finished) == ({}, ("1", "2"))
    assert [ref for ref, *_ in checkpoints(conn)] == ["3/checkpoint"]
    assert there(conn, "3").state == "pending"


def test_a_checkpoint_goes_when_its_task_is_done_and_stays_when_it_failed(conn: Connection) -> None:
    other = memory_connection()
    runs(conn, "1", "2", "10")
    finish(conn, kept("1"), kept("2"), kept("10"))
    late = list(feed.rows_beyond(conn, {}, 1 << 20))
    for rows in late:
        feed.apply(other, rows, None)
    assert len(checkpoints(other)) == 3
    finish(conn, outcome("1"), outcome("2", "failed", final=True))
    for rows in list(feed.rows_beyond(conn, feed.read_vector(other), 1 << 20)):
        feed.apply(other, rows, None)
    # Of the time before, once more.
    for rows in late:
        feed.apply(other, rows, None)
        feed.apply(conn, rows, PEN)
    for copy in (conn, other):
        assert [ref for ref, *_ in checkpoints(copy)] == ["10/checkpoint", "2/checkpoint"]


def test_a_takeover_keeps_what_runs_kept_and_the_next_version_replaces_it(conn: Connection) -> None:
    runs(conn, "1")
    finish(conn, kept("1"))
    later = Pen("b", 2, True)
    feed.restamp(conn, later, first=True)
    assert finish(conn, kept("1", b"more"), pen=later).dropped == {}
    assert checkpoints(conn) == [("1/checkpoint", 2, b"more")]


@pytest.mark.parametrize(
    ("checkpoint", "reason"),
    [(None, "has to bring a checkpoint"), (b"x" * (CHECKPOINT_BYTES_MAX + 1), "of 1048577 bytes; at most 1048576")],
)
def test_a_checkpoint_that_is_none_or_too_large_is_refused_and_nothing_is_changed(
    conn: Connection, checkpoint: bytes | None, reason: str
) -> None:
    runs(conn, "1", "2")
    with pytest.raises(Malformed, match=f"task 2: .*{reason}"):
        finish(conn, outcome("1"), kept("2", checkpoint))
    assert (there(conn, "1").state, checkpoints(conn)) == ("running", [])


def test_chance_shortens_the_wait_before_a_retry(conn: Connection) -> None:
    runs(conn, "1", "2", retries=1, backoff="constant", backoff_s=8.0)
    finish(conn, outcome("1", "failed"), outcome("2", "crashed"), chance=0.5)
    assert [there(conn, id_).not_before_ms for id_ in "12"] == [16_000, 16_000]


# -- rows that a merge changed under a claim -------------------------------------------------------------


def merge(conn: Connection, *tasks: Task) -> None:
    """Other versions come home: of another node, further on than what is here."""
    feed.upsert_tasks(conn, [replace(task, version=99, writer="s", seq=n) for n, task in enumerate(tasks, 1)])


def test_what_a_merge_finished_stays_so_whatever_its_run_says(conn: Connection) -> None:
    runs(conn, "1", "2", "3", "4")
    merge(conn, *[replace(there(conn, id_), rank=1, state="done", worker="away") for id_ in "1234"])
    found = finish(conn, outcome("1"), outcome("2", "failed"), outcome("3", "released"), outcome("4", "crashed"))
    assert found == queue.FinishDone(dict.fromkeys("1234", "finished"), ())
    assert queue.count_losses(conn, PEN, list("1234"), 1, 5) == ()
    assert queue.release(conn, PEN, list("1234"), 5) == 0
    assert queue.adopt(conn, PEN, [ClaimRef(task="1", epoch=1, attempt=1)], "w", 5) == ((), ("1",))
    assert queue.cancel(conn, PEN, "1", 5).worker == "away"
    assert all(there(conn, id_).worker == "away" for id_ in "1234")


def test_what_a_merge_let_wait_again_takes_a_success_and_drops_the_rest(conn: Connection) -> None:
    runs(conn, "1", "2", "3", "4", "5")
    merge(conn, *[replace(there(conn, id_), state="pending", worker=None, started_ms=None) for id_ in "12345"])
    found = finish(conn, outcome("1"), outcome("2", "failed"), outcome("3", "released"), outcome("4", "crashed"))
    assert found.finished == ("1",)
    assert found.dropped == dict.fromkeys("234", "not the present claim")
    assert queue.release(conn, PEN, ["5"], 5) == 0
    assert queue.count_losses(conn, PEN, ["4", "5"], 1, 5) == ("4", "5")
    assert queue.adopt(conn, PEN, [ClaimRef(task="3", epoch=1, attempt=1)], "w", 5) == (("3",), ())


def test_what_was_purged_meanwhile_is_finished_for_everybody(conn: Connection) -> None:
    runs(conn, "1")
    merge(conn, replace(there(conn, "1"), rank=2, state="purged"))
    assert finish(conn, outcome("1")).dropped == {"1": "finished"}
    assert queue.count_losses(conn, PEN, ["1"], 1, 5) == ()
    assert queue.adopt(conn, PEN, [ClaimRef(task="1", epoch=1, attempt=1)], "w", 5) == ((), ("1",))
    with pytest.raises(NotFound):
        queue.cancel(conn, PEN, "1", 5)


def test_a_row_of_a_later_epoch_ends_the_leadership_and_nothing_is_written(conn: Connection) -> None:
    runs(conn, "1", "2")
    merge(conn, replace(there(conn, "2"), epoch=7))
    before = there(conn, "1")
    conn.execute("SAVEPOINT work")
    with pytest.raises(StaleEpoch):
        finish(conn, outcome("1"), outcome("2", "released"))
    conn.execute("ROLLBACK TO work")
    assert there(conn, "1") == before
