"""Tasks that ran twice: both outcomes are known everywhere, whatever the order in which copies meet."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshq.core.reports import Clash
from meshq.core.task import Task
from meshq.store import feed, queue
from meshq.store.database import Connection
from meshq.store.feed import Applied, Pen
from meshq.store.inline import memory_connection

NODES = "abcd"


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def finished(id_: str = "1", worker: str = "w", **changes: Any) -> Task:
    values = {"rank": 1, "state": "done", "version": 2, "attempt": 1, "worker": worker, "finished_ms": 5}
    return Task(**{"id": id_, "name": "n", "result": b"of " + worker.encode(), **values, **changes})


def holding(node: str, *tasks: Task, epoch: int = 1, majority: bool = False) -> Connection:
    """A copy in which this node, alone in a split, finished these tasks."""
    conn = memory_connection()
    feed.write_tasks(conn, Pen(node, epoch, majority), tasks)
    return conn


def pull(source: Connection, target: Connection, pen: Pen | None = None) -> Applied:
    frames = list(feed.rows_beyond(source, feed.read_vector(target), 1 << 20))
    return [feed.apply(target, rows, pen) for rows in frames][-1]


def told(conn: Connection, id_: str = "1") -> list[tuple[str | None, bytes | None, bool]]:
    return [(clash.worker, clash.result, clash.differs) for clash in queue.clashes(conn, id_)]


def stands(conn: Connection, id_: str = "1") -> str | None:
    task = queue.get(conn, id_)
    assert task is not None
    return task.worker


def test_the_outcome_that_loses_is_kept_whichever_comes_first() -> None:
    lower = holding("a", finished(worker="w1", finished_ms=7))
    higher = holding("b", finished(worker="w2"))
    for first, second in ((lower, higher), (higher, lower)):
        other = memory_connection()
        pull(first, other)
        applied = pull(second, other)
        assert (applied.twice, applied.differed) == (1, 1)
        assert stands(other) == "w2"
        assert queue.clashes(other, "1") == (
            Clash(
                task="1", state="done", worker="w1", epoch=1, result=b"of w1", error=None, finished_ms=7, differs=True
            ),
        )  # fmt: skip
        assert pull(second, other).twice == 0


def test_a_leader_counts_what_the_other_side_found_out_first() -> None:
    leader = holding("a", finished(worker="w1"), finished("2", worker="w1"), epoch=2, majority=True)
    other = holding("b", finished(worker="w2"), finished("2", worker="w2", result=b"of w1"))
    assert pull(leader, other).twice == 2
    applied = pull(other, leader, Pen("a", 2, True))
    assert (applied.twice, applied.differed, applied.tasks) == (2, 1, ())
    assert told(leader) == [("w2", b"of w2", True)]
    assert pull(other, leader, Pen("a", 2, True)).twice == 0


@pytest.mark.parametrize("changes", [
    {"state": "failed", "error": b"e", "result": None}, {"error": b"e"}, {"result": b"other"}, {"result": None},
])  # fmt: skip
def test_outcomes_differ_in_state_result_or_error(changes: dict[str, Any]) -> None:
    conn = holding("a", finished(worker="w"))
    assert pull(holding("b", finished(worker="w", **changes)), conn).differed == 1
    assert [clash.differs for clash in queue.clashes(conn, "1")] == [True]


def test_two_runs_with_the_same_end_ran_twice_and_do_not_differ() -> None:
    conn = holding("a", finished(worker="w1", result=b"same"))
    applied = pull(holding("b", finished(worker="w2", result=b"same")), conn)
    assert (applied.twice, applied.differed) == (1, 0)
    assert told(conn) == [("w1", b"same", False)]


def test_one_run_that_two_leaders_took_in_ran_once() -> None:
    conn = holding("a", finished(finished_ms=5))
    applied = pull(holding("b", finished(finished_ms=8)), conn)
    assert (applied.changed, applied.twice, told(conn)) == (1, 0, [])


def test_large_results_are_compared_by_what_they_are() -> None:
    def large(node: str, body: bytes, worker: str) -> Connection:
        conn = memory_connection()
        feed.write_payload(conn, Pen(node, 1, False), f"1/result/{node}.1", body)
        task = finished(worker=worker, result=None, result_ref=f"1/result/{node}.1")
        feed.write_tasks(conn, Pen(node, 1, False), [task])
        return conn

    same, once = large("a", b"x" * 2000, "w1"), large("a", b"x" * 2000, "w2")
    assert pull(large("b", b"x" * 2000, "w2"), same).differed == 0
    assert told(same) == [("w1", b"x" * 2000, False)]
    assert pull(large("b", b"x" * 2000, "w2"), once).twice == 0
    assert pull(large("c", b"y" * 2000, "w2"), once).differed == 1
    assert told(once) == [("w2", b"x" * 2000, True)]


def test_rows_that_only_moved_on_are_no_clash(conn: Connection) -> None:
    feed.write_tasks(conn, Pen("a", 1, False), [Task(id="1", name="n"), finished("2")])
    other = memory_connection()
    pull(conn, other)
    feed.write_tasks(conn, Pen("a", 1, False), [finished("1")])
    feed.restamp(conn, Pen("b", 2, True), first=True)
    applied = pull(conn, other)
    assert (sorted(applied.tasks), applied.twice) == (["1", "2"], 0)
    assert told(other) == told(other, "2") == []


def test_a_leader_stamps_what_lost_so_that_everybody_gets_it() -> None:
    leader, follower = holding("a", finished(worker="w1"), majority=True), memory_connection()
    pull(leader, follower)
    away = holding("b", finished(worker="w2"), finished("2", worker="w2"), epoch=5)
    # This follower holds all that the split wrote, and so would never be sent a row under the split's stamp again.
    pull(away, follower)
    feed.merge_committed(leader, {"b": 9})
    applied = pull(away, leader, Pen("a", 6, True))
    assert applied.twice == 1
    assert pull(leader, follower).twice == 0
    for conn in (leader, follower):
        assert (stands(conn), told(conn)) == ("w1", [("w2", b"of w2", True)])
        assert conn.execute("SELECT epoch, writer FROM payloads").fetchall() == [(6, "a")]


def test_what_lost_and_wins_in_the_end_is_no_clash_any_more() -> None:
    first, second = holding("a", finished(worker="w1")), holding("b", finished(worker="w2"))
    pull(second, first)
    assert told(first) == [("w1", b"of w1", True)]
    accepted = holding("c", finished(worker="w1"), epoch=2, majority=True)
    assert pull(accepted, first).twice == 1
    assert (stands(first), told(first)) == ("w1", [("w2", b"of w2", True)])


def test_a_value_that_cannot_be_read_is_passed_over(conn: Connection) -> None:
    feed.write_tasks(conn, Pen("a", 1, True), [finished()])
    for number, body in enumerate((b"", b"\xc1", b"\x91\x01")):
        feed.write_payload(conn, Pen("a", 1, True), f"1/clash/{number}", body)
    assert queue.clashes(conn, "1") == ()


def test_three_outcomes_meet_in_any_order() -> None:
    sources = [holding(node, finished(worker=f"w{n}"), epoch=n) for n, node in enumerate("abc", 1)]
    for order in permutations(sources):
        conn = memory_connection()
        for source in order:
            pull(source, conn)
        assert (stands(conn), told(conn)) == ("w3", [("w1", b"of w1", True), ("w2", b"of w2", True)])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("finish"), st.sampled_from(NODES), st.integers(0, 2), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("pull"), st.sampled_from(NODES), st.sampled_from(NODES), st.booleans()),
        st.tuples(st.just("lead"), st.sampled_from(NODES)),
    ),
    max_size=40,
)


class World:
    """Copies that finish tasks apart from each other, and meet."""

    def __init__(self) -> None:
        self.conns = {name: memory_connection() for name in NODES}
        self.pens = {name: Pen(name, 1, False) for name in NODES}
        self.epoch = 1

    def act(self, step: tuple[Any, ...]) -> None:
        match step:
            case "finish", name, number, worker, majority:
                task = queue.get(self.conns[name], f"{number}")
                if task is None or task.rank == 0:
                    pen = replace(self.pens[name], majority=majority)
                    feed.write_tasks(self.conns[name], pen, [finished(f"{number}", worker=f"w{worker}")])
            case "pull", name, other, leading:
                pull(self.conns[other], self.conns[name], self.pens[name] if leading else None)
            case _, name:
                self.epoch += 1
                self.pens[name] = Pen(name, self.epoch, True)

    def seen(self, conn: Connection) -> list[tuple[Any, ...]]:
        ids = [id_ for (id_,) in conn.execute("SELECT id FROM tasks ORDER BY id")]
        return [(id_, stands(conn, id_), sorted(told(conn, id_), key=str)) for id_ in ids]


@settings(max_examples=150, deadline=None)
@given(steps, st.permutations(NODES))
def test_in_whatever_order_copies_meet_all_know_the_same_tasks_and_clashes(
    done: list[tuple[Any, ...]], order: list[str]
) -> None:
    world = World()
    runs: dict[str, set[str | None]] = {}
    for step in done:
        world.act(step)
        for conn in world.conns.values():
            for id_, worker in conn.execute("SELECT id, worker FROM tasks"):
                runs.setdefault(id_, set()).add(worker)
    for _ in range(2):
        for asker in order:
            for answerer in order:
                pull(world.conns[answerer], world.conns[asker])
    seen = [world.seen(conn) for conn in world.conns.values()]
    assert all(found == seen[0] for found in seen)
    # Nothing that ever stood anywhere is forgotten.
    assert {id_: {winner, *(worker for worker, _, _ in lost)} for id_, winner, lost in seen[0]} == runs
