"""A task's story: every change with node, epoch and cause, kept short, and nothing that older nodes can't keep."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import msgspec
import pytest

from meshq.core.membership import Roster
from meshq.core.reports import Change
from meshq.core.requests import ClaimRef, Outcome, TaskSpec
from meshq.core.task import STORY_BYTES_MAX, released
from meshq.core.task import claimed as claimed_task
from meshq.store import feed, queue, stories
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection
from meshq.store.queue import Budget
from meshq.store.schema import QUEUE, migrate

A = Pen("a", 3, True)
ERROR = msgspec.msgpack.encode({"type": "ValueError", "message": "no", "traceback": ""})


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def story(conn: Connection, id_: str = "1") -> tuple[Change, ...]:
    task = queue.get(conn, id_)
    assert task is not None
    return stories.read(task.story)


def causes(conn: Connection, id_: str = "1") -> list[tuple[str, str]]:
    return [(change.move, change.cause) for change in story(conn, id_)]


def submit(conn: Connection, pen: Pen = A, **changes: object) -> None:
    given = {"id": "1", "name": "n", "payload": b"p", "retries": 2, "backoff_s": 2.0} | changes
    queue.submit(conn, pen, [msgspec.convert(given, TaskSpec)], 1000, 1024)


def claim(conn: Connection, pen: Pen = A, worker: str = "w", now_ms: int = 2000) -> list[queue.Given]:
    return queue.claim(conn, pen, worker, ["n"], Budget(9), shown={"a": 1 << 40, "b": 1 << 40}, now_ms=now_ms, limit=9)


def finish(conn: Connection, kind: str, pen: Pen = A, *, worker: str = "w", error: bytes | None = None) -> None:
    outcome = Outcome(task="1", epoch=3, attempt=1, kind=kind, result=b"r", error=error)
    queue.finish(
        conn, pen, [outcome], lambda *_: True, worker=worker, crashes_max=3, now_ms=3000, inline_bytes_max=99,
        chance=lambda: 0.0,
    )  # fmt: skip


def test_a_story_tells_every_change_with_its_node_epoch_and_cause(conn: Connection) -> None:
    submit(conn)
    claim(conn)
    finish(conn, "failed", error=ERROR)
    later = Pen("b", 4, True)
    claim(conn, later, "w2", now_ms=9000)
    finish(conn, "done", later, worker="w2")
    assert story(conn) == (
        Change(at_ms=1000, move="submit", epoch=3, node="a", cause="submitted"),
        Change(at_ms=2000, move="claim", epoch=3, node="a", worker="w", cause="claimed"),
        Change(at_ms=3000, move="retry", epoch=3, node="a", worker="w", cause="raised ValueError, retry 1 of 2 in 2 s"),
        Change(at_ms=9000, move="claim", epoch=4, node="b", worker="w2", cause="claimed"),
        Change(at_ms=3000, move="succeed", epoch=4, node="b", worker="w2", cause="succeeded"),
    )


def test_each_way_to_end_a_run_says_why(conn: Connection) -> None:
    submit(conn, retries=0, backoff_s=0.0, retry_of="ffffffff00000000")
    claim(conn)
    finish(conn, "released")
    claim(conn)
    queue.release(conn, A, ["1"], 4000, "claim ran out")
    queue.adopt(conn, A, [ClaimRef(task="1", epoch=2, attempt=2)], "w", 5000)
    queue.count_losses(conn, A, ["1"], 5, 5000, worker="node-that-died-12345678")
    finish(conn, "crashed")
    claim(conn, now_ms=9000)
    finish(conn, "failed", error=b"\xc1")
    assert causes(conn) == [
        ("submit", "submitted, as another run of 00000000"), ("claim", "claimed"), ("release", "released by a drain"),
        ("claim", "claimed"), ("release", "claim ran out"), ("adopt", "adopted after a takeover"),
        ("lose", "worker 12345678 lost, 1 of at most 4"), ("retry", "child died, 1 of at most 2 times, again in 0 s"),
        ("claim", "claimed"), ("fail", "raised an error, no retries"),
    ]  # fmt: skip


def test_a_task_given_up_tells_both_moves_that_were_written_at_once(conn: Connection) -> None:
    submit(conn)
    claim(conn)
    assert queue.count_losses(conn, A, ["1"], 1, 5000) == ("1",)
    assert [(change.move, change.epoch, change.node) for change in story(conn)[2:]] == [
        ("lose", 3, "a"), ("fail", 3, "a"),
    ]  # fmt: skip
    queue.submit(conn, A, [TaskSpec(id="2", name="n", payload=b"")], 1, 9)
    queue.cancel(conn, A, "2", 7000)
    assert causes(conn, "2") == [("submit", "submitted"), ("cancel", "cancelled")]


def test_retries_used_up_crashes_and_a_final_failure_say_so(conn: Connection) -> None:
    submit(conn, retries=1, backoff_s=0.0)
    for _ in range(2):
        claim(conn, now_ms=9000)
        finish(conn, "failed", error=ERROR)
    assert causes(conn)[-1] == ("fail", "raised ValueError, retries used up")
    other = memory_connection()
    submit(other, backoff_s=0.0)
    for _ in range(3):
        claim(other, now_ms=9000)
        finish(other, "crashed")
    assert causes(other)[-1] == ("fail", "child died 3 times")


def test_a_success_of_another_worker_than_the_one_that_has_it_is_told(conn: Connection) -> None:
    submit(conn)
    claim(conn)
    finish(conn, "done", worker="w9")
    assert causes(conn)[-1] == ("succeed", "succeeded; another worker's claim stood")


def test_a_story_is_copied_with_its_row_and_being_stamped_anew_adds_nothing(conn: Connection) -> None:
    other = memory_connection()
    submit(conn)
    claim(conn)
    (rows,) = feed.rows_beyond(conn, {}, 1 << 20)
    feed.apply(other, rows, Pen("b", 9, True))
    assert story(other) == story(conn) != ()


def test_a_long_story_keeps_its_beginning_and_its_newest_changes(conn: Connection) -> None:
    submit(conn)
    for turn in range(300):
        task = queue.get(conn, "1")
        assert task is not None
        assert len(task.story) <= STORY_BYTES_MAX
        moved = claimed_task(task, f"worker{turn:026}", turn) if turn % 2 == 0 else released(task, turn, f"turn {turn}")
        feed.write_tasks(conn, A, [moved])
    first, gap, *newest = story(conn)
    assert first.move == "submit"
    assert (gap.move, gap.cause) == (stories.LEFT_OUT, f"{300 - len(newest)} changes left out")
    assert len(newest) > 20
    assert [change.at_ms for change in newest] == list(range(300 - len(newest), 300))


def test_what_cannot_be_read_is_left_out() -> None:
    good = b"\x1esubmit\x1f7\x1f\x1fwhy\x1f2\x1fa\x1d"
    for bad in (
        b"", b"\xff\xfe", b"\x1e\x1f\x1f\x1d", b"\x1esubmit\x1fx\x1f\x1fwhy\x1f2\x1fa\x1d",
        b"\x1esubmit\x1f7\x1f\x1fwhy\x1f-1\x1fa\x1d", b"\x1esubmit\x1f" + b"9" * 5000 + b"\x1f\x1fwhy\x1f2\x1fa\x1d",
        b"\x1esubmit\x1f7\x1f\x1fnever written",
    ):  # fmt: skip
        assert stories.read(good + bad) == (
            Change(at_ms=7, move="submit", epoch=2, node="a", cause="why"),
        )  # fmt: skip


# -- older nodes -----------------------------------------------------------------------------------------


def test_among_older_replicas_no_story_is_written_and_none_is_left(conn: Connection) -> None:
    submit(conn)
    submit(conn, id="2", name="not claimed")
    old = replace(A, epoch=4, version=1)
    claim(conn, old)
    assert story(conn) == ()
    assert causes(conn, "2") == [("submit", "submitted")]
    feed.restamp(conn, replace(old, node="b"), first=True)
    assert story(conn) == story(conn, "2") == ()


def test_an_asker_of_version_1_gets_rows_as_it_knows_them(conn: Connection) -> None:
    submit(conn)
    feed.write_roster(conn, A, replace(feed.read_roster(conn), genesis="g", members=("a",), absorbed=("x",), into="y"))
    for version, sizes in ((1, {"task": 31, "roster": 8}), (2, {"task": 37, "roster": 10})):
        (rows,) = feed.rows_beyond(conn, {}, 1 << 20, version)
        assert {row[0]: len(row) for row in msgspec.msgpack.decode(rows.rows)} == sizes
        other = memory_connection()
        assert feed.apply(other, rows, None).changed == 2
        assert bool(story(other)) is (version == 2)
        assert (feed.read_roster(other).absorbed, feed.read_roster(other).into) == (
            (("x",), "y") if version == 2 else ((), "")
        )


def test_a_database_of_version_1_is_brought_up_with_all_that_it_holds() -> None:
    old = sqlite3.connect(":memory:", isolation_level=None)
    old.executescript(QUEUE.migrations()[0] + "PRAGMA user_version = 1;")
    new = memory_connection()
    submit(new)
    feed.write_roster(new, A, Roster(genesis="g", members=("a",)))
    for table in ("tasks", "roster"):
        columns = ", ".join(name for _, name, *_ in old.execute(f"PRAGMA table_info({table})"))
        for row in new.execute(f"SELECT {columns} FROM {table}"):
            old.execute(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})", row)
    migrate(old, QUEUE, ":memory:")
    task = queue.get(new, "1")
    assert task is not None
    assert queue.get(old, "1") == replace(task, story=b"")
    assert feed.read_roster(old) == feed.read_roster(new)
    assert [move for move, _ in causes(old)] == []
    claim(old)
    assert [move for move, _ in causes(old)] == ["claim"]
    old.close()
