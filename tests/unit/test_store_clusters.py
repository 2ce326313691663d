"""A cluster that becomes part of another, the reports of merges, and facts about the database."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshq.core.membership import Ended, Roster
from meshq.core.reports import MergeReport
from meshq.core.task import Task, progress_key
from meshq.store import clusters, feed, fullcopy, meta, purge, queue
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection

A = Pen("a", 3, True)
ROSTER = Roster(genesis="old", members=("a", "b"), absorbed=("older",), recovery=2)


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def pull(source: Connection, target: Connection, pen: Pen | None = None) -> None:
    for rows in list(feed.rows_beyond(source, feed.read_vector(target), 1 << 20)):
        feed.apply(target, rows, pen)


def rows_of(conn: Connection, table: str) -> list[tuple[Any, ...]]:
    return conn.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def finished(id_: str, **changes: Any) -> Task:
    return Task(**{"id": id_, "name": "n", "rank": 1, "state": "done", "version": 2, "finished_ms": 1, **changes})


def fill(conn: Connection) -> None:
    feed.write_roster(conn, A, ROSTER)
    feed.write_payload(conn, A, "1/args", b"body")
    feed.write_tasks(conn, A, [Task(id="1", name="n", payload_ref="1/args"), finished("2"), finished("old")])
    feed.merge_committed(conn, {"a": 5})
    purge.purge(conn, A, 2, committed={"a": 5}, limit=1, now_ms=3)


# -- dissolving ------------------------------------------------------------------------------------------


def test_a_dissolved_cluster_keeps_its_rows_which_go_after_all_others(conn: Connection) -> None:
    fill(conn)
    feed.write_roster(conn, replace(A, epoch=4), replace(ROSTER, into="new", version=1))
    before = feed.read_vector(conn)
    clusters.dissolve(conn, "new", "a")
    assert feed.read_roster(conn) == Roster(genesis="new")
    assert (feed.read_committed(conn), feed.read_vector(conn)) == ({}, before)
    assert clusters.came_from(conn) == {"older": Ended(needed=2), "old": Ended(needed=2, epoch=4)}
    keys = {row[0]: row[1:] for row in conn.execute("SELECT id, rank, majority, epoch, writer, seq FROM tasks")}
    assert keys == {"1": (0, 0, 0, "a", 3), "2": (2, 0, 0, "a", 6), "old": (1, 0, 0, "a", 5)}
    assert conn.execute("SELECT epoch, writer, seq FROM payloads").fetchall() == [(0, "a", 2)]


def test_a_copy_of_a_cluster_that_ends_again_tells_all_that_it_came_from(conn: Connection) -> None:
    fill(conn)
    clusters.dissolve(conn, "new", "a")
    feed.upsert_roster(conn, Roster(genesis="new", members=("a", "c", "d", "e"), epoch=4, writer="c", seq=1))
    clusters.dissolve(conn, "newest", "a")
    assert clusters.came_from(conn) == {
        "older": Ended(needed=2),
        "old": Ended(needed=2),
        "new": Ended(needed=3),
    }, "none of them ended by a roster that it held"
    clusters.note_came_from(conn, {"new": Ended(needed=3, epoch=5)})
    assert clusters.came_from(conn) == {"new": Ended(needed=3, epoch=5)}
    clusters.note_came_from(conn, {f"{number}": Ended(needed=1) for number in range(100)})
    assert list(clusters.came_from(conn)) == [f"{number}" for number in range(84, 100)]


def test_who_was_no_replica_of_it_says_nothing_of_where_it_came_from(conn: Connection) -> None:
    fill(conn)
    clusters.dissolve(conn, "new", "c")
    clusters.dissolve(conn, "newest", "a")
    assert clusters.came_from(conn) == {}


def test_copies_that_held_the_same_hold_the_same_afterwards(conn: Connection) -> None:
    other = memory_connection()
    fill(conn)
    pull(conn, other)
    for copy in (conn, other):
        feed.merge_committed(copy, {"a": 6})
        clusters.dissolve(copy, "new", "a")
    for table in ("tasks", "payloads", "roster", "vector", "committed", "dropped", "meta"):
        assert rows_of(conn, table) == rows_of(other, table)


def test_its_rows_come_into_the_other_cluster_and_lose_against_its_own(conn: Connection) -> None:
    leader = memory_connection()
    feed.write_roster(leader, Pen("z", 1, True), Roster(genesis="new", members=("z",)))
    feed.write_tasks(leader, Pen("z", 1, True), [finished("both", worker="z")])
    feed.write_tasks(conn, A, [Task(id="1", name="n"), finished("both", worker="a")])
    clusters.dissolve(conn, "new", "a")
    pull(conn, leader, Pen("z", 1, True))
    pull(leader, conn)
    for copy in (conn, leader):
        task = queue.get(copy, "both")
        assert task is not None
        assert (task.worker, task.majority) == ("z", 1)
        assert [clash.worker for clash in queue.clashes(copy, "both")] == ["a"]
        assert [task.id for task in queue.get_many(copy, ["1"]).values()] == ["1"]
        assert feed.read_roster(copy).members == ("z",)


def test_what_was_dropped_and_a_copy_under_way_are_forgotten(conn: Connection) -> None:
    fill(conn)
    feed.merge_committed(conn, {"a": 6})
    assert purge.drop_tombstones(conn, A, 9, committed={"a": 6}) == 1
    fullcopy.begin(conn, {})
    clusters.dissolve(conn, "new", "a")
    assert feed.read_dropped(conn) == {}
    assert fullcopy.under_way(conn) is None


def test_an_empty_database_dissolves_into_another_cluster(conn: Connection) -> None:
    clusters.dissolve(conn, "new", "a")
    assert feed.read_roster(conn).genesis == "new"


def test_a_roster_keeps_what_it_absorbed_and_where_it_goes(conn: Connection) -> None:
    other = memory_connection()
    feed.write_roster(conn, A, replace(ROSTER, into="younger"))
    pull(conn, other)
    for copy in (conn, other):
        assert (feed.read_roster(copy).absorbed, feed.read_roster(copy).into) == (("older",), "younger")


def test_the_top_epoch_is_that_of_any_row(conn: Connection) -> None:
    assert feed.top_epoch(conn) == 0
    feed.write_roster(conn, A, ROSTER)
    assert feed.top_epoch(conn) == 3
    feed.write_tasks(conn, replace(A, epoch=4), [Task(id="1", name="n")])
    assert feed.top_epoch(conn) == 4
    feed.write_payload(conn, replace(A, epoch=7), "1/args", b"")
    assert feed.top_epoch(conn) == 7


# -- reports ---------------------------------------------------------------------------------------------


def report(at_ms: int, merged: int = 1) -> MergeReport:
    return MergeReport(at_ms=at_ms, node="n", merged=merged, twice=0, differed=0, held=0)


def test_reports_are_copied_and_told_newest_first(conn: Connection) -> None:
    other = memory_connection()
    for at_ms in (5, 7, 6):
        feed.write_report(conn, A, report(at_ms), f"key{at_ms}")
    feed.write_report(conn, A, report(8, merged=9), "key5")
    pull(conn, other)
    for copy in (conn, other):
        assert queue.reports(copy) == (report(8, merged=9), report(7), report(6))
        assert queue.reports(copy, 1) == (report(8, merged=9),)


def test_all_copies_keep_the_same_newest_reports(conn: Connection) -> None:
    others = [memory_connection() for _ in range(3)]
    for n in range(70):
        writer = others[n % 2]
        feed.write_report(writer, Pen("ab"[n % 2], 1, True), report(n), f"{n:03}")
    for _ in range(2):
        for asker in (conn, *others):
            for answerer in others:
                pull(answerer, asker)
    for copy in (conn, *others):
        assert [found.at_ms for found in queue.reports(copy)] == list(range(69, 19, -1))
        assert copy.execute("SELECT count(*) FROM payloads").fetchone() == (50,)


def test_a_report_that_cannot_be_read_is_passed_over(conn: Connection) -> None:
    feed.write_payload(conn, A, "merge/bad", b"\xc1")
    feed.write_report(conn, A, report(1), "good")
    assert queue.reports(conn) == (report(1),)


# -- facts -----------------------------------------------------------------------------------------------


def test_facts_are_noted_replaced_and_forgotten(conn: Connection) -> None:
    assert meta.get(conn, "color") is None
    meta.put(conn, "color", "red")
    meta.put(conn, "color", "blue")
    assert meta.get(conn, "color") == "blue"
    meta.delete(conn, "color")
    meta.delete(conn, "color")
    assert meta.get(conn, "color") is None


def test_a_task_key_decides_as_the_database_does(conn: Connection) -> None:
    feed.write_tasks(conn, A, [finished("1")])
    task = queue.get(conn, "1")
    assert task is not None
    assert progress_key(task) == conn.execute(f"SELECT {', '.join(feed.TASK_KEY)} FROM tasks").fetchone()
