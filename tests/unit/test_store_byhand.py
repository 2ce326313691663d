"""Calling tasks off and running failed ones again: of one task, of a batch, of an owner."""

from __future__ import annotations

from typing import Any

import pytest

from meshq.core.requests import TaskSpec, TasksQuery
from meshq.core.task import Task, failed
from meshq.errors import Conflict, NotFound
from meshq.store import byhand, feed, purge, queue, stories
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection
from meshq.store.queue import Budget
from tests.unit.steps import Steps

PEN = Pen("a", 1, True)
ALL = {"a": 1 << 40}


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def submit(conn: Connection, *ids: str, **changes: Any) -> None:
    specs = [TaskSpec(**({"id": id_, "name": "n", "payload": id_.encode()} | changes)) for id_ in ids]
    queue.submit(conn, PEN, specs, 1000, 1024)


def there(conn: Connection, id_: str) -> Task:
    task = queue.get(conn, id_)
    assert task is not None
    return task


def fail(conn: Connection, *ids: str) -> None:
    feed.write_tasks(conn, PEN, [failed(there(conn, id_), b"error", 2000) for id_ in ids])


def state(conn: Connection, *ids: str) -> list[str]:
    return [there(conn, id_).state for id_ in ids]


def cancel(conn: Connection, batch: str = "b", owner: str = "") -> tuple[str, ...]:
    return queue.cancel_batch(conn, PEN, batch, owner, 3000)


def again(conn: Connection, batch: str | None = None, owner: str = "", bytes_max: int = 1 << 20) -> list[str]:
    """Runs failed tasks again; those that were."""
    given: list[str] = []
    after = ""
    while specs := queue.retry_specs(
        conn, batch, owner, lambda: f"again {there(conn, 'number').seq}", after, bytes_max
    ):  # fmt: skip
        after = str(specs[-1].retry_of)
        given += [str(spec.retry_of) for spec in specs]
        for number, spec in enumerate(specs):
            submit(conn, f"new {spec.retry_of} {number}", retry_of=spec.retry_of, batch=spec.batch, owner=spec.owner)
    return given


# -- calling off -----------------------------------------------------------------------------------------


def test_all_open_tasks_of_a_batch_are_called_off_and_no_others(conn: Connection) -> None:
    submit(conn, "waits", "runs", "done", batch="b")
    submit(conn, "other", batch="c")
    submit(conn, "none")
    queue.claim(conn, PEN, "w", ["n"], Budget(2), shown=ALL, now_ms=2000, limit=2)
    fail(conn, "done")
    assert sorted(cancel(conn)) == ["runs", "waits"]
    assert state(conn, "waits", "runs", "done", "other", "none") == [
        "cancelled", "cancelled", "failed", "pending", "pending"
    ]  # fmt: skip
    assert stories.read(there(conn, "waits").story)[-1].cause == "cancelled with its batch"
    before = there(conn, "waits")
    assert cancel(conn) == (), "a repeated request changes nothing"
    assert there(conn, "waits") == before


def test_a_batch_larger_than_a_part_is_called_off_whole(conn: Connection) -> None:
    ids = [f"{n:05}" for n in range(2 * byhand.CHUNK_TASKS + 1)]
    submit(conn, *ids, batch="b")
    assert cancel(conn) == tuple(ids)
    assert queue.counts(conn)["cancelled"] == len(ids)


def test_a_batch_that_is_not_there_or_is_anothers_is_not_found(conn: Connection) -> None:
    submit(conn, "1", batch="b", owner="bob")
    submit(conn, "2", batch="b", owner="eve")
    submit(conn, "3", batch="b")
    for batch, owner in (("none", ""), ("b", "ann"), ("none", "bob")):
        with pytest.raises(NotFound, match=f"no batch '{batch}'"):
            cancel(conn, batch, owner)
        with pytest.raises(NotFound, match=f"no batch '{batch}'"):
            queue.retryable(conn, batch, owner)
    assert cancel(conn, owner="bob") == ("1",)
    assert state(conn, "1", "2", "3") == ["cancelled", "pending", "pending"]
    assert cancel(conn) == ("2", "3")
    purge.purge(conn, PEN, 9999, committed=ALL, limit=9, now_ms=9999)
    with pytest.raises(NotFound, match="or all of it was purged"):
        cancel(conn)


def test_what_was_purged_is_told_so(conn: Connection) -> None:
    id_ = "0" * 32
    submit(conn, id_, owner="bob")
    queue.cancel(conn, PEN, id_, 5)
    purge.purge(conn, PEN, 9, committed=ALL, limit=9, now_ms=9)
    for owner in ("", "bob"):
        with pytest.raises(NotFound, match="had finished and was purged"):
            queue.find(conn, id_, owner)
    with pytest.raises(NotFound, match="there is no task"):
        queue.find(conn, id_, "eve")


# -- running again ---------------------------------------------------------------------------------------


def test_each_failed_task_is_run_again_once(conn: Connection) -> None:
    submit(conn, "1", "2", "3", batch="b")
    submit(conn, "4", "5", name="m")
    submit(conn, "number")
    fail(conn, "1", "2", "4", "5")
    queue.cancel(conn, PEN, "3", 5)
    assert queue.retryable(conn, None, "") == {"n": 2, "m": 2}
    assert queue.retryable(conn, "b", "") == {"n": 2}
    assert again(conn, "b") == ["1", "2"]
    assert again(conn) == ["4", "5"]
    assert (again(conn), queue.retryable(conn, None, ""), queue.retryable(conn, "b", "")) == ([], {}, {})
    # A retry that failed too is one more that failed.
    fail(conn, "new 2 1")
    assert again(conn, "b") == ["new 2 1"]


def test_a_task_whose_retry_is_purged_is_not_run_again(conn: Connection) -> None:
    submit(conn, "1")
    fail(conn, "1")
    submit(conn, "2", retry_of="1", keep_s=0.0)
    queue.cancel(conn, PEN, "2", 3000)
    assert purge.purge(conn, PEN, 0, committed=ALL, limit=9, now_ms=60_000) == ("2",)
    assert queue.retryable(conn, None, "") == {}


def test_only_an_owners_own_are_run_again(conn: Connection) -> None:
    for id_, owner in (("1", "bob"), ("2", "eve"), ("3", "")):
        submit(conn, id_, owner=owner, batch="b")
        fail(conn, id_)
    submit(conn, "number")
    for batch in (None, "b"):
        assert queue.retryable(conn, batch, "bob") == {"n": 1}
    assert again(conn, "b", "bob") == ["1"]
    assert again(conn, None, "eve") == ["2"]
    assert again(conn) == ["3"]


def test_they_come_in_parts_no_larger_than_asked(conn: Connection) -> None:
    submit(conn, *"123456", payload=b"x" * 400)
    fail(conn, *"123456")
    specs = queue.retry_specs(conn, None, "", lambda: "new", "", 1000)
    assert [spec.retry_of for spec in specs] == ["1", "2", "3"]
    specs = queue.retry_specs(conn, None, "", lambda: "new", "3", 1)
    assert [spec.retry_of for spec in specs] == ["4"]


def test_too_many_at_once_are_refused_with_what_to_do(conn: Connection) -> None:
    submit(conn, *"1234", batch="b")
    fail(conn, *"1234")
    with pytest.raises(
        Conflict, match="more than 3 tasks have failed, too many to retry all at once; name a batch, or"
    ):
        queue.retryable(conn, None, "", most=3)
    with pytest.raises(Conflict, match="those of the batch b at once; retry them one by one"):
        queue.retryable(conn, "b", "", most=3)
    assert queue.retryable(conn, "b", "", most=4) == {"n": 4}


# -- the list --------------------------------------------------------------------------------------------


def test_the_list_of_a_batch_is_newest_first_and_looks_at_no_other_tasks(conn: Connection) -> None:
    submit(conn, *(f"x{n:05}" for n in range(3000)))
    submit(conn, "1", "2", "3", batch="b", retries=2, timeout_s=1.5, not_before_ms=7)
    submit(conn, "4", batch="b", owner="bob", key="k")
    fail(conn, "2")
    steps = Steps(conn, 1000)
    page = queue.page(conn, TasksQuery(batch="b", limit=2))
    assert [view.id for view in page.tasks] == ["4", "3"]
    page = queue.page(conn, TasksQuery(batch="b", after=page.next))
    assert [view.id for view in page.tasks] == ["2", "1"]
    assert [view.id for view in queue.page(conn, TasksQuery(batch="b", state="pending")).tasks] == ["4", "3", "1"]
    assert [view.id for view in queue.page(conn, TasksQuery(batch="b", owner="bob")).tasks] == ["4"]
    assert queue.page(conn, TasksQuery(batch="none")).tasks == ()
    assert steps.count < 5
    first, *_, last = queue.page(conn, TasksQuery(batch="b")).tasks
    assert (first.batch, first.key, first.owner) == ("b", "k", "bob")
    assert (last.batch, last.key, last.retries, last.timeout_s, last.not_before_ms) == ("b", None, 2, 1.5, 7)
