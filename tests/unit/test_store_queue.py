"""Submitting, claiming, adopting, cancelling, running again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshq.core.requests import ClaimRef, Outcome, TaskSpec
from meshq.core.task import State, Task, claimed
from meshq.errors import Conflict, NotFound
from meshq.store import feed, queue
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection
from meshq.store.queue import Budget
from tests.unit.steps import Steps

PEN = Pen("a", 1, True)
ALL = {"a": 1 << 40, "b": 1 << 40}


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def spec(id_: str, **changes: Any) -> TaskSpec:
    return TaskSpec(**({"id": id_, "name": "primes", "payload": b"args of " + id_.encode()} | changes))


def submit(conn: Connection, *specs: TaskSpec, pen: Pen = PEN, inline: int = 1024) -> tuple[str, ...]:
    return queue.submit(conn, pen, specs, 1000, inline)


def claim(conn: Connection, count: int = 1, **changes: Any) -> list[str]:
    return [given.task.id for given in claim_rows(conn, count, **changes)]


def claim_rows(conn: Connection, count: int = 1, **changes: Any) -> list[queue.Given]:
    arguments: dict[str, Any] = {
        "pen": PEN, "node": "w", "names": ["primes"], "budget": Budget(count), "shown": ALL, "now_ms": 2000,
        "limit": 1000,
    }  # fmt: skip
    return queue.claim(conn, **(arguments | changes))


def there(conn: Connection, id_: str) -> Task:
    task = queue.get(conn, id_)
    assert task is not None
    return task


# -- submit ----------------------------------------------------------------------------------------------


def test_a_submitted_task_has_what_its_spec_says(conn: Connection) -> None:
    given = spec(
        "1", priority=3, not_before_ms=7, timeout_s=1.5, retries=2, backoff_s=0.5, key="k", retry_of="0", batch="b",
        backoff="linear", max_running=4, keep_s=9.5, unset=("retries",),
    )  # fmt: skip
    assert submit(conn, given) == ("1",)
    assert there(conn, "1") == Task(
        id="1", name="primes", payload=b"args of 1", priority=3, not_before_ms=7, timeout_s=1.5, retries=2,
        backoff_s=0.5, key="k", retry_of="0", batch="b", submitted_ms=1000, epoch=1, writer="a", seq=1,
        story=there(conn, "1").story, backoff="linear", max_running=4, keep_s=9.5, order_ms=1000 - 3 * 60_000,
    )  # fmt: skip


def test_a_task_submitted_again_is_the_same_task(conn: Connection) -> None:
    assert submit(conn, spec("1"), spec("2"), spec("1")) == ("1", "2", "1")
    before = there(conn, "1")
    assert submit(conn, spec("1", priority=9)) == ("1",)
    assert there(conn, "1") == before


def test_a_key_belongs_to_the_lowest_id_that_has_it(conn: Connection) -> None:
    feed.write_tasks(conn, PEN, [Task(id=id_, name="n", key="k") for id_ in ("5", "3")])
    assert submit(conn, spec("1", key="k"), spec("2", key="other"), spec("4", key="other")) == ("3", "2", "2")
    assert queue.get(conn, "1") is None
    assert queue.get(conn, "4") is None
    assert submit(conn, spec("1", key="k")) == ("3",)


def test_the_key_of_a_purged_task_is_free(conn: Connection) -> None:
    feed.write_tasks(conn, PEN, [Task(id="1", name="n", key="k", rank=2, state="purged")])
    assert submit(conn, spec("2", key="k")) == ("2",)


def test_what_waited_in_an_outbox_never_disappears_even_if_its_key_is_taken(conn: Connection) -> None:
    submit(conn, spec("5", key="k"))
    late = [spec("1", key="k", payload=b"x" * 20), spec("2", key="other"), spec("3", key="other", owner="bob")]
    for _ in range(2):
        assert queue.submit(conn, PEN, late, 1000, 10, late=True) in (("5", "2", "3"), ("1", "2", "3"))
    same = there(conn, "1")
    assert (same.state, same.key, same.majority) == ("cancelled", None, 1)
    assert b"its key k is that of task 5" in (same.error or b"")
    assert claim(conn, 9) == ["5", "2", "3"]
    assert submit(conn, spec("0", key="k")) == ("5",), "the one that is called off does not have the key"


def test_large_arguments_are_a_row_of_their_own(conn: Connection) -> None:
    submit(conn, spec("1", payload=b"x" * 11), spec("2", payload=b"y" * 10), inline=10)
    assert (there(conn, "1").payload, there(conn, "1").payload_ref) == (None, "1/args")
    assert (there(conn, "2").payload, there(conn, "2").payload_ref) == (b"y" * 10, None)
    assert [given.payload for given in claim_rows(conn, 2)] == [b"x" * 11, b"y" * 10]


def test_large_arguments_left_by_a_pull_that_broke_off_are_no_obstacle(conn: Connection) -> None:
    feed.write_payload(conn, PEN, "1/args", b"x" * 11)
    feed.restamp(conn, replace(PEN, epoch=2), first=True)
    submit(conn, spec("1", payload=b"x" * 11), pen=replace(PEN, epoch=2), inline=10)
    assert claim_rows(conn, pen=replace(PEN, epoch=2))[0].payload == b"x" * 11


# -- claims ----------------------------------------------------------------------------------------------


def test_the_highest_priority_goes_first_then_the_order_of_arrival(conn: Connection) -> None:
    submit(conn, spec("9"), spec("1"), spec("5", priority=1), spec("4", priority=-1), spec("0"), spec("6", priority=1))
    assert claim(conn, 3) == ["5", "6", "9"]
    assert claim(conn, 9) == ["1", "0", "4"]
    assert claim(conn) == []


def test_a_task_given_back_keeps_its_place(conn: Connection) -> None:
    submit(conn, spec("3"), spec("2"), spec("1"))
    assert claim(conn, 1) == ["3"]
    queue.release(conn, PEN, ["3"])
    assert claim(conn, 3) == ["3", "2", "1"]


def test_a_claimed_task_runs(conn: Connection) -> None:
    submit(conn, spec("1"))
    before = there(conn, "1")
    later = replace(PEN, epoch=3)
    (given,) = claim_rows(conn, pen=later, node="worker")
    assert (given.payload, given.checkpoint) == (b"args of 1", None)
    task = given.task
    assert there(conn, "1") == replace(task, story=there(conn, "1").story)
    assert task == replace(claimed(before, "worker", 2000), epoch=3, writer="a", seq=2)


def test_only_committed_tasks_are_given(conn: Connection) -> None:
    submit(conn, spec("1"), spec("2"))
    submit(conn, spec("3"), pen=Pen("b", 1, True))
    assert claim(conn, 9, shown={}) == []
    assert claim(conn, 9, shown={"a": 1, "b": 0}) == ["1"]
    assert claim(conn, 9, shown={"a": 1, "b": 1}) == ["3"]
    assert claim(conn, 9, shown={"a": 2}) == ["2"]


def test_only_tasks_that_the_worker_knows_are_given(conn: Connection) -> None:
    submit(conn, spec("1", name="other"), spec("2"), spec("3", name="third"))
    assert claim(conn, 9, names=[]) == []
    assert claim(conn, 9, names=["third", "primes"]) == ["2", "3"]


def test_a_task_waits_for_its_time(conn: Connection) -> None:
    submit(conn, spec("1", not_before_ms=5000), spec("2"), spec("3", not_before_ms=4000))
    assert queue.next_due_ms(conn, 2000) == 4000
    assert queue.next_due_ms(conn, 4000) == 5000
    assert queue.next_due_ms(conn, 5000) is None
    assert claim(conn, 9) == ["2"]
    assert claim(conn, 9, now_ms=5000) == ["1", "3"]


def test_in_the_census_only_what_this_leadership_wrote_itself_is_given(conn: Connection) -> None:
    submit(conn, spec("old"), spec("old and stamped anew"))
    now = replace(PEN, epoch=2)
    feed.merge_committed(conn, {"a": 1})
    after = feed.restamp(conn, now, first=True)
    submit(conn, spec("released"), pen=now)
    queue.adopt(conn, now, [ClaimRef(task="released", epoch=2, attempt=1)], "w", 5)
    queue.release(conn, now, ["released"])
    submit(conn, spec("new"), pen=now)
    submit(conn, spec("another's"), pen=Pen("b", 2, True))
    assert claim(conn, 9, pen=now, only_after=after) == ["released", "new"]
    assert claim(conn, 9, pen=now) == ["old", "old and stamped anew", "another's"]


def test_what_a_worker_is_to_avoid_is_given_to_others(conn: Connection) -> None:
    submit(conn, spec("1"), spec("2"))
    assert claim(conn, 9, avoid={"1": "it crashed there", "unknown": ""}) == ["2"]
    assert claim(conn, 9, avoid=["2"]) == ["1"]


def test_a_deposed_leader_gives_nothing_of_a_later_epoch(conn: Connection) -> None:
    submit(conn, spec("1"), pen=Pen("b", 2, True))
    assert claim(conn, 9) == []


def test_a_task_whose_arguments_are_not_here_yet_waits_for_them(conn: Connection) -> None:
    feed.write_tasks(conn, PEN, [Task(id="1", name="primes", payload_ref="1/args")])
    submit(conn, spec("2"))
    assert claim(conn, 9) == ["2"]
    feed.write_payload(conn, PEN, "1/args", b"late")
    assert claim(conn, 9) == ["1"]


@pytest.mark.parametrize(
    ("budget", "taken"),
    [
        (Budget(0), 0),
        (Budget(3), 3),
        (Budget(2, ahead_s=0.1), 2),
        (Budget(0, ahead_s=0.1), 1),
        (Budget(1, ahead_s=0.1, run_s={"primes": 0.02}), 5),
        (Budget(7, ahead_s=0.1, run_s={"primes": 0.02}), 7),
        (Budget(1, ahead_s=0.1, run_s={"primes": 60.0}), 1),
        (Budget(1, ahead_s=0.1, run_s={"other": 0.001}), 1),
        (Budget(50), 10),
    ],
)
def test_claims_go_ahead_by_time(conn: Connection, budget: Budget, taken: int) -> None:
    submit(conn, *(spec(str(n)) for n in range(20)))
    assert len(claim(conn, budget=budget, limit=10)) == taken


def test_claiming_looks_at_no_more_rows_than_it_gives(conn: Connection) -> None:
    submit(conn, *(spec(f"{n:05}", priority=n % 3) for n in range(5000)))
    steps = Steps(conn, 1000)
    assert claim(conn, 2) == ["00002", "00005"]
    assert queue.next_due_ms(conn, 0) is None
    assert steps.count < 5


# -- adopting --------------------------------------------------------------------------------------------


def test_open_runs_are_adopted_and_others_refused(conn: Connection) -> None:
    submit(conn, *(spec(id_) for id_ in ("waits", "runs", "done")))
    claim(conn, 3)
    queue.release(conn, PEN, ["waits"])
    done = Outcome(task="done", epoch=1, attempt=1, kind="done", result=b"r")
    queue.finish(
        conn, PEN, [done], lambda *_: True, worker="w", crashes_max=3, now_ms=1, inline_bytes_max=99, chance=lambda: 0.0
    )
    runs = [ClaimRef(task=id_, epoch=1, attempt=2) for id_ in ("waits", "runs", "done", "unknown")]
    assert queue.adopt(conn, PEN, runs, "w2", 3000) == (("waits", "runs"), ("done", "unknown"))
    for id_ in ("waits", "runs"):
        task = there(conn, id_)
        assert (task.state, task.worker, task.attempt) == ("running", "w2", 2)
    assert queue.running_workers(conn) == ["w2"]
    assert sorted(queue.running_ids(conn)) == ["runs", "waits"]
    assert there(conn, "done").state == "done"


# -- by hand ---------------------------------------------------------------------------------------------


def test_open_tasks_are_cancelled_and_finished_ones_stay_as_they_are(conn: Connection) -> None:
    submit(conn, spec("1"), spec("2"))
    claim(conn)
    for id_ in ("1", "2"):
        task = queue.cancel(conn, PEN, id_, 5000)
        assert task == there(conn, id_)
        assert (task.state, task.finished_ms, task.majority, task.writer) == ("cancelled", 5000, 1, "a")
        assert queue.cancel(conn, PEN, id_, 6000) == task
    with pytest.raises(NotFound):
        queue.cancel(conn, PEN, "3", 5000)
    assert claim(conn, 9) == []


def test_a_finished_task_can_be_run_again_as_a_new_one(conn: Connection) -> None:
    own = {"priority": 4, "retries": 2, "batch": "b", "backoff": "constant", "max_running": 3, "keep_s": 0.0}
    submit(conn, spec("1", key="k", payload=b"x" * 20, not_before_ms=9, **own), inline=10)
    with pytest.raises(Conflict, match="pending"):
        queue.retry_spec(conn, "1", "2")
    queue.cancel(conn, PEN, "1", 5000)
    again = queue.retry_spec(conn, "1", "2")
    assert again == spec("2", payload=b"x" * 20, retry_of="1", **own)
    assert submit(conn, again) == ("2",)
    with pytest.raises(NotFound):
        queue.retry_spec(conn, "3", "4")


def test_counts_name_every_state(conn: Connection) -> None:
    assert queue.counts(conn) == dict.fromkeys(("pending", "running", "done", "failed", "cancelled"), 0)
    submit(conn, spec("1"), spec("2"), spec("3"))
    feed.write_tasks(conn, PEN, [Task(id="p", name="n", rank=2, state=State.PURGED)])
    claim(conn)
    queue.cancel(conn, PEN, "2", 1)
    assert queue.counts(conn) == {"pending": 1, "running": 1, "done": 0, "failed": 0, "cancelled": 1}
    assert queue.open_count(conn) == 2
    assert [task.id for task in queue.running(conn)] == ["1"]
