"""Finished tasks become tombstones, tombstones are dropped, and who missed them takes a full copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from meshq.core.messages import Rows
from meshq.core.quorum import is_stale
from meshq.core.requests import TaskSpec
from meshq.core.task import State, Task
from meshq.errors import InvariantBroken
from meshq.store import feed, purge, queue
from meshq.store.database import Connection
from meshq.store.feed import Applied, Pen
from meshq.store.inline import memory_connection
from tests.unit.steps import Steps

A = Pen("a", 1, True)
B = Pen("b", 2, True)
ALL = {"a": 1 << 40, "b": 1 << 40}


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def finished(id_: str, finished_ms: int = 100, **changes: Any) -> Task:
    values = {"rank": 1, "state": "done", "worker": "w", "attempt": 1, "result": b"r", "finished_ms": finished_ms}
    return Task(**{"id": id_, "name": "n", "payload": b"p", **values, **changes})


def sweep(conn: Connection, pen: Pen = A, before_ms: int = 500, **changes: Any) -> tuple[str, ...]:
    return purge.purge(conn, pen, before_ms, **{"committed": ALL, "limit": 99, "now_ms": 1000, **changes})


def drop(conn: Connection, before_ms: int = 5000, committed: Mapping[str, int] = ALL) -> int:
    return purge.drop_tombstones(conn, A, before_ms, committed=committed)


def pull(source: Connection, target: Connection, pen: Pen | None = None, frame_bytes: int = 200) -> Applied:
    return take(list(feed.rows_beyond(source, feed.read_vector(target), frame_bytes)), target, pen)


def take(frames: list[Rows], target: Connection, pen: Pen | None = None) -> Applied:
    return [feed.apply(target, rows, pen, now_ms=77, source="leader") for rows in frames][-1]


def there(conn: Connection, id_: str) -> Task | None:
    return queue.get(conn, id_)


def ids(conn: Connection) -> list[str]:
    return [id_ for (id_,) in conn.execute("SELECT id FROM tasks ORDER BY id")]


def refs(conn: Connection) -> list[str]:
    return [ref for (ref,) in conn.execute("SELECT ref FROM payloads ORDER BY ref")]


# -- purging ---------------------------------------------------------------------------------------------


def test_what_finished_long_ago_and_is_committed_becomes_a_tombstone(conn: Connection) -> None:
    feed.write_tasks(conn, A, [finished("1"), finished("2", 499), finished("young", 500), Task(id="open", name="n")])
    feed.write_tasks(conn, A, [finished("not committed")])
    assert sweep(conn, committed={"a": 4}) == ("1", "2")
    tombstone = there(conn, "1")
    assert tombstone is not None
    assert (tombstone.state, tombstone.rank, tombstone.finished_ms) == (State.PURGED, 2, 1000)
    assert (tombstone.payload, tombstone.result, tombstone.story) == (None, None, b"")
    assert sweep(conn, committed={"a": 4}) == ()
    assert queue.views(conn, ["1", "young"])[0].id == "young"


def test_the_oldest_go_first_and_no_more_than_asked(conn: Connection) -> None:
    feed.write_tasks(conn, A, [finished("3", 30), finished("1", 10), finished("2", 20)])
    assert sweep(conn, limit=2) == ("1", "2")
    assert sweep(conn, limit=2) == ("3",)


def test_only_a_majority_purges_and_drops(conn: Connection) -> None:
    feed.write_tasks(conn, A, [finished("1")])
    split = Pen("a", 1, False)
    with pytest.raises(InvariantBroken, match="majority"):
        sweep(conn, split)
    with pytest.raises(InvariantBroken, match="majority"):
        purge.drop_tombstones(conn, split, 9, committed=ALL)
    feed.write_tasks(conn, B, [finished("of a later epoch")])
    assert sweep(conn) == ("1",)


def test_the_values_of_a_purged_task_go_everywhere(conn: Connection) -> None:
    other = memory_connection()
    for ref in ("1/args", "1/result/a.1", "1/clash/x", "10/args", "merge/1"):
        feed.write_payload(conn, A, ref, b"body")
    feed.write_tasks(conn, A, [finished("1"), finished("10", 900)])
    pull(conn, other)
    assert sweep(conn) == ("1",)
    pull(conn, other)
    for copy in (conn, other):
        assert "1/args" not in refs(copy)
        assert [ref for ref in refs(copy) if ref != "merge/1"] == ["10/args"]


def test_a_value_that_comes_after_its_tombstone_is_not_kept(conn: Connection) -> None:
    late = memory_connection()
    feed.write_payload(late, B, "1/clash/x", b"body")
    feed.write_payload(late, B, "2/clash/x", b"body")
    feed.write_tasks(conn, A, [finished("1")])
    sweep(conn)
    pull(late, conn)
    assert refs(conn) == ["2/clash/x"]


def test_an_older_version_never_comes_back_past_a_tombstone(conn: Connection) -> None:
    other = memory_connection()
    feed.write_tasks(conn, A, [finished("1")])
    pull(conn, other)
    sweep(conn)
    feed.write_tasks(other, Pen("b", 9, True), [finished("1", version=9, worker="x")])
    assert pull(other, conn).twice == 0
    pull(conn, other)
    for copy in (conn, other):
        task = there(copy, "1")
        assert task is not None
        assert task.state == State.PURGED


def test_the_key_of_a_purged_task_is_free(conn: Connection) -> None:
    feed.write_tasks(conn, A, [finished("1", key="k")])
    sweep(conn)
    assert queue.submit(conn, A, [TaskSpec(id="2", name="n", payload=b"", key="k")], 1, 9) == ("2",)


# -- kept for a time of their own ------------------------------------------------------------------------


def test_a_task_with_a_time_of_its_own_goes_a_moment_after_it(conn: Connection) -> None:
    for id_, keep_s in (("none", 0.0), ("short", 0.5), ("long", 1000.0), ("as all", None)):
        feed.write_tasks(conn, A, [finished(id_, 1000, keep_s=keep_s)])
    assert sweep(conn, now_ms=1000 + purge.SPARED_MS) == (), "whoever waits for it is told first"
    assert sweep(conn, now_ms=1001 + purge.SPARED_MS) == ("none",)
    assert sweep(conn, now_ms=1501 + purge.SPARED_MS) == ("short",)
    assert sweep(conn, now_ms=900_000, before_ms=900_000) == ("as all",)
    assert sweep(conn, now_ms=1_001_001 + purge.SPARED_MS) == ("long",)


def test_what_is_not_committed_stays_however_short_it_is_to_be_kept(conn: Connection) -> None:
    feed.write_tasks(conn, A, [finished("1", keep_s=0.0), finished("2", keep_s=0.0), finished("3", 1)])
    assert sweep(conn, now_ms=1 << 40, committed={"a": 1}) == ("1",)
    assert sweep(conn, now_ms=1 << 40, limit=2) == ("3", "2"), "at most so many of both kinds"
    feed.write_tasks(conn, A, [finished("4", 1, keep_s=1e300)])
    assert sweep(conn, now_ms=1 << 60) == ()


# -- dropping --------------------------------------------------------------------------------------------


def test_old_tombstones_are_dropped_up_to_the_first_that_has_to_stay(conn: Connection) -> None:
    feed.write_tasks(conn, A, [finished(id_) for id_ in "1234"])
    sweep(conn, limit=2)
    sweep(conn, limit=1, now_ms=6000)
    sweep(conn, limit=1)
    assert drop(conn) == 2
    assert ids(conn) == ["3", "4"], "4 is old enough, but comes after 3"
    assert purge.read_dropped(conn) == feed.read_dropped(conn) == {"a": 6}
    assert drop(conn) == 0
    assert drop(conn, before_ms=9000, committed={"a": 7}) == 1
    assert drop(conn, before_ms=9000) == 1
    assert purge.read_dropped(conn) == {"a": 8}


def test_writers_are_dropped_apart(conn: Connection) -> None:
    feed.write_tasks(conn, A, [finished("1"), finished("2")])
    sweep(conn, limit=1, now_ms=9000)
    sweep(conn, Pen("b", 2, True))
    assert drop(conn) == 1
    assert (ids(conn), purge.read_dropped(conn)) == (["1"], {"b": 1})


def test_followers_drop_the_same_with_their_next_pull_and_nothing_else(conn: Connection) -> None:
    other = memory_connection()
    feed.write_tasks(conn, A, [finished("1"), finished("2", 900), Task(id="3", name="n")])
    sweep(conn)
    pull(conn, other)
    assert drop(conn) == 1
    (rows,) = feed.rows_beyond(conn, feed.read_vector(other), 1 << 20)
    assert (rows.full, rows.dropped) == (False, {"a": 4})
    applied = feed.apply(other, rows, None)
    assert (applied.full, applied.held, applied.dropped) == (False, 0, {"a": 4})
    assert ids(other) == ids(conn) == ["2", "3"]
    assert feed.apply(other, rows, None).dropped == {"a": 4}


def test_a_vector_is_stale_that_does_not_reach_what_was_dropped() -> None:
    assert is_stale({"a": 4}, {"a": 5})
    assert is_stale({}, {"a": 1})
    assert not is_stale({"a": 5, "b": 1}, {"a": 5})
    assert not is_stale({}, {})


def test_looking_for_what_is_old_does_not_scan_what_is_young(conn: Connection) -> None:
    feed.write_tasks(conn, A, [finished(f"{n:05}", 900, keep_s=(None, 1e6)[n % 2]) for n in range(5000)])
    feed.write_tasks(conn, A, [finished(f"t{n:05}", 900) for n in range(5000)])
    assert len(sweep(conn, before_ms=901, limit=7500, now_ms=9000)) == 7500
    steps = Steps(conn, 100)
    assert sweep(conn) == ()
    assert drop(conn) == 0
    assert steps.count < 20
