"""Whose tasks are whose: what is found, listed, run again and taken for the same task, by owner."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshq.core.reports import Change
from meshq.core.requests import Outcome, TaskSpec, TasksQuery
from meshq.errors import Ambiguous, Conflict, NotFound
from meshq.store import feed, queue, stories
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import InlineDatabase, memory_connection
from meshq.store.outbox import Outbox
from meshq.store.schema import OUTBOX

A = Pen("a", 3, True)
OWNERS = {"1111aaaa": "bob", "2222aaaa": "eve", "3333aaaa": "", "1111bbbb": "eve"}


def spec(id_: str, owner: str, key: str | None = None) -> TaskSpec:
    return TaskSpec(id=id_, name="n", payload=b"", owner=owner, key=key)


@pytest.fixture
def conn() -> Connection:
    conn = memory_connection()
    queue.submit(conn, A, [spec(id_, owner) for id_, owner in OWNERS.items()], 1, 9)
    return conn


def finish(conn: Connection, id_: str) -> None:
    queue.finish(
        conn, A, [Outcome(task=id_, epoch=3, attempt=1, kind="done", result=b"\x01")], lambda task, outcome: True,
        worker="w", crashes_max=3, now_ms=2, inline_bytes_max=9, chance=lambda: 0.0,
    )  # fmt: skip


def test_a_task_is_found_by_its_owner_and_by_who_has_the_key(conn: Connection) -> None:
    for id_, owner in OWNERS.items():
        for text in (id_, id_[:5], id_[-5:]):
            assert queue.find(conn, text, owner) == queue.find(conn, text) == id_
        for stranger in {"bob", "eve", "nobody"} - {owner}:
            for text in (id_, id_[:5], id_[-5:]):
                with pytest.raises(NotFound) as error:
                    queue.find(conn, text, stranger)
                assert "there is no task" in error.value.message


def test_other_peoples_tasks_make_no_end_of_an_id_ambiguous(conn: Connection) -> None:
    assert queue.find(conn, "1111", "bob") == "1111aaaa"
    assert queue.find(conn, "aaaa", "eve") == "2222aaaa"
    for text in ("1111", "aaaa"):
        with pytest.raises(Ambiguous):
            queue.find(conn, text)
    queue.submit(conn, A, [spec("4444aaaa", "bob")], 1, 9)
    with pytest.raises(Ambiguous) as error:
        queue.find(conn, "aaaa", "bob")
    assert "2222" not in error.value.message


def test_views_and_pages_show_the_owners_tasks_only(conn: Connection) -> None:
    for owner in ("bob", "eve", "nobody"):
        own = sorted((id_ for id_ in OWNERS if OWNERS[id_] == owner), reverse=True)
        assert [view.id for view in queue.views(conn, sorted(OWNERS, reverse=True), owner=owner)] == own
        page = queue.page(conn, TasksQuery(owner=owner, state="pending", name="n"))
        assert [(view.id, view.owner) for view in page.tasks] == [(id_, owner) for id_ in own]
    assert {view.id: view.owner for view in queue.page(conn, TasksQuery()).tasks} == OWNERS
    first = queue.page(conn, TasksQuery(owner="eve", limit=1))
    assert (first.tasks[0].id, first.next) == ("2222aaaa", "2222aaaa")
    second = queue.page(conn, TasksQuery(owner="eve", limit=1, after=first.next))
    assert (second.tasks[0].id, second.next) == ("1111bbbb", None)


def test_an_owners_tasks_are_looked_up_without_a_look_at_the_others(conn: Connection) -> None:
    used: list[str] = []
    conn.set_trace_callback(used.append)
    queue.page(conn, TasksQuery(owner="bob"))
    with pytest.raises(NotFound):
        queue.find(conn, "ffff", "bob")
    conn.set_trace_callback(None)
    plans = [conn.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall() for sql in used if sql.startswith("SELECT")]
    details = [" ".join(str(step[3]) for step in plan) for plan in plans]
    assert len(details) >= 3
    assert all("tasks_owner (owner=?" in detail or "(id=?)" in detail for detail in details), details


def test_a_retry_keeps_the_owner_whoever_asks_for_it(conn: Connection) -> None:
    finish(conn, "1111aaaa")
    again = queue.retry_spec(conn, "1111aaaa", "5555cccc")
    assert again.owner == "bob"
    queue.submit(conn, A, [again], 1, 9)
    assert queue.find(conn, "5555", "bob") == "5555cccc"
    causes = [change.cause for id_ in ("1111aaaa", "3333aaaa", "5555cccc") for change in story(conn, id_)[:1]]
    assert causes == [
        "submitted with the credential bob", "submitted",
        "submitted with the credential bob, as another run of 1111aaaa",
    ]  # fmt: skip


def story(conn: Connection, id_: str) -> tuple[Change, ...]:
    task = queue.get(conn, id_)
    assert task is not None
    return stories.read(task.story)


def test_a_key_is_its_owners_own(conn: Connection) -> None:
    """Who guesses a key gets no task of others, and who leaves one there gives nobody a task of his."""
    for id_, owner in (("a1", ""), ("b1", "bob"), ("e1", "eve")):
        assert queue.submit(conn, A, [spec(id_, owner, key="nightly")], 1, 9) == (id_,)
    for id_, owner in (("a1", ""), ("b1", "bob"), ("e1", "eve")):
        assert queue.submit(conn, A, [spec("x" + id_, owner, key="nightly")], 1, 9) == (id_,)
    both = [spec("m1", "bob", key="both"), spec("m2", "eve", key="both"), spec("m3", "bob", key="both")]
    assert queue.submit(conn, A, both, 1, 9) == ("m1", "m2", "m1")


def test_an_id_of_another_is_taken(conn: Connection) -> None:
    queue.check_ids(conn, [spec("1111aaaa", "bob"), spec("new", "bob")])
    for id_ in ("2222aaaa", "3333aaaa"):
        with pytest.raises(Conflict, match=f"the id {id_} is taken"):
            queue.check_ids(conn, [spec("new", "bob"), spec(id_, "bob")])


def test_moves_copies_and_new_stamps_keep_the_owner(conn: Connection) -> None:
    other = memory_connection()
    finish(conn, "1111aaaa")
    queue.cancel(conn, A, "2222aaaa", 3)
    for rows in list(feed.rows_beyond(conn, {}, 1 << 20)):
        feed.apply(other, rows, None)
    feed.restamp(other, Pen("b", 4, True), first=True)
    for copy in (conn, other):
        assert dict(copy.execute("SELECT id, owner FROM tasks").fetchall()) == OWNERS


def test_among_older_replicas_no_owner_is_written(conn: Connection) -> None:
    old = replace(A, epoch=4, version=1)
    queue.submit(conn, old, [spec("9999", "bob")], 1, 9)
    feed.restamp(conn, replace(old, node="b"), first=True)
    assert {owner for (owner,) in conn.execute("SELECT owner FROM tasks")} == {""}


async def test_the_outbox_keeps_the_owner_and_shows_what_waits_to_nobody_else() -> None:
    outbox = Outbox(InlineDatabase(memory_connection(OUTBOX)), lambda: 5)
    await outbox.put_submits([spec(id_, owner) for id_, owner in OWNERS.items()])
    assert {each.id: each.owner for _, each in await outbox.submits(9)} == OWNERS
    assert {view.id: view.owner for view in await outbox.submit_views(list(OWNERS))} == OWNERS
    assert await outbox.find("aaaa", 9) == ["1111aaaa", "2222aaaa", "3333aaaa"]
    assert await outbox.find("aaaa", 1, "eve") == ["2222aaaa"]
    assert await outbox.find("2222", 9, "bob") == []
    await outbox.close()
