"""Full copies: who missed tombstones that were dropped gets everything, and what only it has is put aside."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshq.core.messages import Rows
from meshq.core.task import State, Task
from meshq.store import clusters, feed, purge, queue
from meshq.store.database import Connection
from meshq.store.feed import Applied, Pen
from meshq.store.inline import memory_connection

A = Pen("a", 1, True)
B = Pen("b", 2, True)
SLEEPER = Pen("s", 1, False)
ALL = {"a": 1 << 40, "b": 1 << 40}


def task(id_: str, **changes: Any) -> Task:
    return Task(**{"id": id_, "name": "n", "payload": b"p", **changes})


def finished(id_: str, **changes: Any) -> Task:
    return task(id_, **{"rank": 1, "state": "done", "worker": "w", "attempt": 1, "finished_ms": 100, **changes})


def frames(source: Connection, target: Connection, frame_bytes: int = 60) -> list[Rows]:
    return list(feed.rows_beyond(source, feed.read_vector(target), frame_bytes))


def take(rows: list[Rows], target: Connection, pen: Pen | None = None) -> Applied:
    return [feed.apply(target, frame, pen, now_ms=77, source="leader") for frame in rows][-1]


def pull(source: Connection, target: Connection, pen: Pen | None = None) -> Applied:
    return take(frames(source, target), target, pen)


def ids(conn: Connection, where: str = "1") -> list[str]:
    return [id_ for (id_,) in conn.execute(f"SELECT id FROM tasks WHERE {where} ORDER BY id")]


def refs(conn: Connection) -> list[str]:
    return [ref for (ref,) in conn.execute("SELECT ref FROM payloads ORDER BY ref")]


@pytest.fixture
def leader() -> Connection:
    """A leader that dropped the tombstone of `purged`."""
    conn = memory_connection()
    feed.write_payload(conn, A, "purged/args", b"args of the purged")
    feed.write_tasks(conn, A, [task("purged"), task("common"), finished("done")])
    return conn


@pytest.fixture
def sleeper(leader: Connection) -> Connection:
    """A replica that slept meanwhile, after it had gone on alone for a while."""
    conn = memory_connection()
    pull(leader, conn)
    feed.write_payload(conn, SLEEPER, "own/args", b"large")
    feed.write_payload(
        conn, SLEEPER, "own/clash/x", msgspec.msgpack.encode(("failed", "w0", 1, None, None, b"e", 1, 2))
    )
    feed.write_tasks(conn, SLEEPER, [finished("own", payload=None, payload_ref="own/args", result=b"r")])
    feed.write_tasks(leader, A, [finished("purged", version=1)])
    purge.purge(leader, A, 500, committed=ALL, limit=1, now_ms=1000)
    purge.purge(leader, A, 500, committed=ALL, limit=1, now_ms=1000)
    assert purge.drop_tombstones(leader, A, 5000, committed=ALL) == 2
    feed.write_tasks(leader, B, [task("new")])
    return conn


def test_who_may_lack_a_dropped_tombstone_is_sent_everything(leader: Connection, sleeper: Connection) -> None:
    sent = frames(leader, sleeper)
    assert all(rows.full for rows in sent)
    rows = [row for frame in sent for row in msgspec.msgpack.decode(frame.rows)]
    assert sorted(row[1] for row in rows if row[0] == "task") == ["common", "new"]
    assert sent[-1].dropped == feed.read_dropped(leader)
    assert all(frame.vector == feed.read_vector(leader) for frame in sent)


def test_what_did_not_arrive_is_put_aside_whole_and_not_queued(leader: Connection, sleeper: Connection) -> None:
    applied = pull(leader, sleeper)
    assert (applied.full, applied.held) == (True, 3)
    assert ids(sleeper) == ids(leader) == ["common", "new"]
    assert refs(sleeper) == []
    held = {entry.task.id: entry for entry in queue.held(sleeper)}
    assert sorted(held) == ["done", "own", "purged"]
    own = held["own"]
    assert (own.at_ms, own.source) == (77, "leader")
    assert (own.task.payload, own.task.payload_ref, own.task.result, own.task.state) == (b"large", None, b"r", "done")
    assert [(clash.worker, clash.error) for clash in own.clashes] == [("w0", b"e")]
    assert held["purged"].task.state == State.PENDING


def test_after_a_full_copy_only_what_is_new_is_sent(leader: Connection, sleeper: Connection) -> None:
    pull(leader, sleeper)
    feed.write_tasks(leader, B, [task("newer")])
    applied = pull(leader, sleeper)
    assert (applied.full, applied.held, applied.tasks) == (False, 0, ("newer",))
    assert feed.read_dropped(sleeper) == feed.read_dropped(leader)


def test_an_empty_copy_gets_everything_and_puts_nothing_aside(leader: Connection, sleeper: Connection) -> None:
    fresh = memory_connection()
    applied = pull(leader, fresh)
    assert (applied.full, applied.held) == (True, 0)
    assert ids(fresh) == ids(leader)
    assert applied.dropped == feed.read_dropped(leader) != {}


def test_what_is_here_in_a_later_version_stays(leader: Connection, sleeper: Connection) -> None:
    feed.write_tasks(sleeper, Pen("s", 7, False), [finished("common", version=5, worker="mine")])
    pull(leader, sleeper)
    common = queue.get(sleeper, "common")
    assert common is not None
    assert common.worker == "mine"
    assert "common" not in {entry.task.id for entry in queue.held(sleeper)}


def test_a_copy_that_breaks_off_leaves_nothing_half_done(leader: Connection, sleeper: Connection) -> None:
    before = feed.read_vector(sleeper)
    take(frames(leader, sleeper)[:-1], sleeper)
    assert {"done", "own", "purged"} <= set(ids(sleeper))
    assert (feed.read_vector(sleeper), queue.held(sleeper)) == (before, ())
    # What came with the first one, and is gone when the second is made, counts as nobody else's.
    feed.write_tasks(leader, B, [finished("new", version=9)])
    purge.purge(leader, B, 500, committed=ALL, limit=9, now_ms=1000)
    purge.drop_tombstones(leader, B, 5000, committed=ALL)
    gone = set(ids(sleeper)) - {"common"}
    assert pull(leader, sleeper).held == len(gone) >= 3
    assert ids(sleeper) == ids(leader) == ["common"]


def test_a_copy_whose_beginning_was_missed_ends_nothing(leader: Connection, sleeper: Connection) -> None:
    before = feed.read_vector(sleeper)
    applied = take(frames(leader, sleeper)[1:], sleeper)
    assert (applied.full, applied.held, feed.read_vector(sleeper)) == (False, 0, before)
    assert "own" in ids(sleeper)


def test_a_copy_that_another_one_overtakes_ends_nothing(leader: Connection, sleeper: Connection) -> None:
    first = frames(leader, sleeper)
    take(first[:2], sleeper)
    feed.write_tasks(leader, B, [task("newer")])
    second = frames(leader, sleeper)
    take(second[:-1], sleeper)
    assert take(first[2:], sleeper).held == 0
    assert "own" in ids(sleeper)
    assert take(second[-1:], sleeper).held == 3
    assert ids(sleeper) == ids(leader)


def test_what_is_written_or_shown_by_others_meanwhile_is_not_put_aside(leader: Connection, sleeper: Connection) -> None:
    copy, third = frames(leader, sleeper), memory_connection()
    feed.write_tasks(third, Pen("c", 1, True), [finished("own", attempt=9), task("third's")])
    take(copy[:1], sleeper)
    feed.write_tasks(sleeper, SLEEPER, [task("submitted meanwhile")])
    pull(third, sleeper)
    take(copy[1:], sleeper)
    assert ids(sleeper) == ["common", "new", "own", "submitted meanwhile", "third's"]


def test_own_tombstones_just_go(leader: Connection, sleeper: Connection) -> None:
    feed.write_tasks(sleeper, SLEEPER, [task("mine", rank=2, state="purged")])
    assert pull(leader, sleeper).held == 3
    assert "mine" not in {entry.task.id for entry in queue.held(sleeper)} | set(ids(sleeper))


def test_a_leader_that_takes_a_full_copy_stamps_what_it_brings(leader: Connection, sleeper: Connection) -> None:
    applied = pull(leader, sleeper, Pen("s", 9, True))
    assert (applied.full, applied.held) == (True, 3)
    assert ids(sleeper, "writer = 's' AND epoch = 9") == ["common", "new"]


def test_what_a_dissolved_cluster_brings_is_no_relic(leader: Connection, sleeper: Connection) -> None:
    joiner = memory_connection()
    feed.write_tasks(joiner, Pen("j", 8, True), [task("brought"), finished("brought too")])
    # This one the leader's cluster once had, and purged: it is held.
    feed.upsert_tasks(joiner, [task("known", writer="a", seq=3, epoch=1)])
    clusters.dissolve(joiner, "g", "a")
    applied = pull(leader, joiner)
    assert (applied.full, applied.held) == (True, 1)
    assert ids(joiner) == ["brought", "brought too", "common", "new"]
    assert [entry.task.id for entry in queue.held(joiner)] == ["known"]
    pull(joiner, leader, Pen("b", 2, True))
    assert ids(leader) == ids(joiner)
