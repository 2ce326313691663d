"""What people see of the queue: ids, views, pages."""

from __future__ import annotations

from typing import Any

import pytest

from meshq.core.reports import TaskView
from meshq.core.requests import TasksQuery
from meshq.core.task import Task
from meshq.errors import Ambiguous, Malformed, NotFound
from meshq.store import feed, queue
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection

PEN = Pen("a", 1, True)


@pytest.fixture
def conn() -> Connection:
    conn = memory_connection()
    done: dict[str, Any] = {
        "rank": 1,
        "state": "done",
        "result": b"r",
        "finished_ms": 9,
        "started_ms": 5,
        "worker": "w",
        "attempt": 1,
    }
    feed.write_tasks(conn, PEN, [
        Task(id="aaaa0001ffff", name="x"),
        Task(id="aaaa0002eeee", name="y", state="running", started_ms=5, worker="w", attempt=1),
        Task(id="bbbb0003ffff", name="x", **done),
        Task(id="bbbb0004dddd", name="y", rank=1, state="failed", error=b"e", finished_ms=9),
        Task(id="cccc0005cccc", name="x", rank=2, state="purged"),
    ])  # fmt: skip
    return conn


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("aaaa0001ffff", "aaaa0001ffff"), ("aaaa0001", "aaaa0001ffff"), ("eeee", "aaaa0002eeee"),
        ("EEEE", "aaaa0002eeee"), ("0003ffff", "bbbb0003ffff"),
    ],
)  # fmt: skip
def test_a_unique_beginning_or_end_finds_a_task(conn: Connection, text: str, found: str) -> None:
    assert queue.find(conn, text) == found


@pytest.mark.parametrize("text", ["0001", "dddd0", "cccc", "", "%%%%", "____", "aaa"])
def test_what_fits_nothing_is_not_found(conn: Connection, text: str) -> None:
    with pytest.raises(NotFound):
        queue.find(conn, text)


def test_what_fits_more_than_one_is_ambiguous_and_names_them(conn: Connection) -> None:
    with pytest.raises(Ambiguous, match="0001ffff, 0002eeee;"):
        queue.find(conn, "aaaa")
    with pytest.raises(Ambiguous, match="0001ffff, 0003ffff;"):
        queue.find(conn, "ffff")
    feed.write_tasks(conn, PEN, [Task(id=f"dddd{n:08}", name="x") for n in range(9)])
    with pytest.raises(Ambiguous, match=r"00000000, .*00000004 and more;"):
        queue.find(conn, "dddd0")


def test_a_whole_id_is_found_although_it_is_the_beginning_of_another(conn: Connection) -> None:
    feed.write_tasks(conn, PEN, [Task(id="abcd", name="x"), Task(id="abcdabcd", name="x")])
    assert queue.find(conn, "abcd") == "abcd"


def test_views_come_in_the_order_asked_for(conn: Connection) -> None:
    ids = ["bbbb0003ffff", "unknown", "aaaa0001ffff", "cccc0005cccc", "bbbb0003ffff"]
    assert queue.views(conn, ids, with_result=True) == [
        TaskView(
            id="bbbb0003ffff", name="x", state="done", attempt=1, result=b"r", worker="w", started_ms=5, finished_ms=9
        ),
        TaskView(id="aaaa0001ffff", name="x", state="pending", attempt=0),
    ]
    assert queue.views(conn, ids)[0].result is None


def test_nothing_is_shown_as_finished_before_it_is_committed(conn: Connection) -> None:
    done, failed = queue.views(conn, ["bbbb0003ffff", "bbbb0004dddd"], {"a": 2}, with_result=True)
    assert (done.state, done.result, done.finished_ms) == ("running", None, None)
    assert (failed.state, failed.error) == ("pending", None), "it never started"
    shown, hidden = queue.views(conn, ["bbbb0003ffff", "bbbb0004dddd"], {"a": 3}, with_result=True)
    assert (shown.state, shown.result) == ("done", b"r")
    assert hidden.state == "pending"
    assert queue.views(conn, ["bbbb0003ffff"], {"other": 99})[0].state == "running"


def test_what_finished_without_a_majority_says_so(conn: Connection) -> None:
    feed.write_tasks(conn, Pen("s", 1, False), [Task(id="eeee", name="x", rank=1, state="done", result=b"r")])
    ids, shown = ["aaaa0001ffff", "bbbb0003ffff", "bbbb0004dddd", "eeee"], {"a": 4, "s": 1}

    def told(committed: dict[str, int] | None) -> list[tuple[str, bool]]:
        page = queue.page(conn, TasksQuery(), shown, committed).tasks
        assert {view.id: view.majority for view in page if view.id in ids} == {
            view.id: view.majority for view in queue.views(conn, ids, shown, committed)
        }
        return [(view.state, view.majority) for view in queue.views(conn, ids, shown, committed)]

    assert told({"a": 3}) == [("pending", True), ("done", True), ("failed", False), ("done", False)]
    assert told(None) == [("pending", True), ("done", True), ("failed", True), ("done", False)], (
        "all shown is committed"
    )
    assert told({"a": 4, "s": 1})[3] == ("done", False), "its outcome may still be replaced"
    feed.restamp(conn, Pen("a", 2, True), first=True)
    assert queue.views(conn, ["eeee"])[0].majority


def ids(conn: Connection, query: TasksQuery) -> list[str]:
    return [view.id[:8] for view in queue.page(conn, query).tasks]


def test_pages_go_from_the_newest_to_the_oldest(conn: Connection) -> None:
    everything = ["bbbb0004", "bbbb0003", "aaaa0002", "aaaa0001"]
    assert ids(conn, TasksQuery()) == everything
    seen, after = [], None
    while True:
        page = queue.page(conn, TasksQuery(limit=3, after=after))
        seen += [view.id[:8] for view in page.tasks]
        after = page.next
        if after is None:
            break
    assert seen == everything
    assert queue.page(conn, TasksQuery(limit=4)).next is None


def test_pages_can_be_of_one_state_or_name(conn: Connection) -> None:
    assert ids(conn, TasksQuery(state="done")) == ["bbbb0003"]
    assert ids(conn, TasksQuery(name="y")) == ["bbbb0004", "aaaa0002"]
    assert ids(conn, TasksQuery(name="y", state="running")) == ["aaaa0002"]
    with pytest.raises(Malformed, match=r"'asleep'.*pending"):
        ids(conn, TasksQuery(state="asleep"))
    with pytest.raises(Malformed):
        ids(conn, TasksQuery(state="purged"))


def test_a_page_of_finished_tasks_has_none_that_is_not_committed(conn: Connection) -> None:
    assert queue.page(conn, TasksQuery(state="done"), {"a": 2}).tasks == ()
    assert [view.state for view in queue.page(conn, TasksQuery(), {"a": 2}).tasks] == [
        "pending", "running", "running", "pending",
    ]  # fmt: skip
    assert all(view.result is None for view in queue.page(conn, TasksQuery()).tasks)
