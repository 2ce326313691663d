"""Any order of writes, pulls and merges between nodes ends in the same rows, and no vector ever claims too much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshq.core import task as moves
from meshq.core.membership import Roster
from meshq.core.messages import Rows
from meshq.core.quorum import covers
from meshq.core.task import OPEN, Task, progress_key
from meshq.errors import StaleEpoch
from meshq.store import feed, queue
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection

NODES = "abcd"
IDS = [f"task{n}" for n in range(6)]
TABLES = {"tasks": "id", "payloads": "ref", "roster": "one"}

node = st.sampled_from(NODES)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), node, st.sampled_from(IDS), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("value"), node, st.sampled_from(IDS)),
        st.tuples(st.just("roster"), node),
        st.tuples(st.just("ask"), node, node, st.sampled_from([1, 150, 600, 1 << 20])),
        st.tuples(st.just("pull"), node, node, st.booleans()),
        st.tuples(st.just("frames"), node, st.integers(1, 12), st.booleans()),
        st.tuples(st.just("restamp"), node),
        st.tuples(st.just("lead"), node),
        st.tuples(st.just("commit"), node),
    ),
    max_size=60,
)


class World:
    """Some nodes, and every version that was ever written."""

    def __init__(self) -> None:
        self.conns: dict[str, Connection] = {name: memory_connection() for name in NODES}
        self.pens: dict[str, Pen] = {name: Pen(name, 1, True) for name in NODES}
        self.frames: dict[str, list[Rows]] = {name: [] for name in NODES}
        self.written: dict[tuple[str, int], tuple[str, str, tuple[Any, ...]]] = {}
        self.epoch = 1

    def act(self, step: tuple[object, ...]) -> None:
        kind, name, *rest = step
        assert isinstance(name, str)
        conn, pen = self.conns[name], self.pens[name]
        conn.execute("BEGIN")
        try:
            self._do(str(kind), name, rest, conn, pen)
            conn.execute("COMMIT")
        except StaleEpoch:
            conn.execute("ROLLBACK")
        self._note(name)

    def _pull(self, kind: str, name: str, rest: list[object], conn: Connection, pen: Pen) -> None:
        match kind, *rest:
            case "ask", str(other), int(frame_bytes):
                # The vector is that of the moment of asking; the frames come later, or never.
                self.frames[name] = list(feed.rows_beyond(self.conns[other], feed.read_vector(conn), frame_bytes))
            case "pull", str(other), bool(leading):
                for rows in list(feed.rows_beyond(self.conns[other], feed.read_vector(conn), 400)):
                    feed.apply(conn, rows, pen if leading else None)
            case "frames", int(count), bool(leading):
                arrived, self.frames[name] = self.frames[name][:count], self.frames[name][count:]
                for rows in arrived:
                    feed.apply(conn, rows, pen if leading else None)
            case _:
                raise AssertionError(kind)

    def _do(self, kind: str, name: str, rest: list[object], conn: Connection, pen: Pen) -> None:
        match kind, *rest:
            case "write", str(id_), int(move), bool(majority):
                task = queue.get(conn, id_)
                if task is None or task.state in OPEN:
                    feed.write_tasks(conn, replace(pen, majority=majority), [changed(task, id_, move, name)])
            case "value", str(id_):
                feed.write_payload(conn, pen, f"{id_}/args", id_.encode() * 50)
            case ("roster",):
                roster = feed.read_roster(conn)
                feed.write_roster(conn, pen, replace(roster, genesis="g", version=roster.version + 1, members=(name,)))
            case ("restamp",):
                feed.restamp(conn, pen, first=True)
            case ("lead",):
                self.epoch += 1
                self.pens[name] = Pen(name, self.epoch, True)
            case ("commit",):
                # Committed by definition: everybody who counts holds it.
                held = [feed.read_vector(self.conns[other]).get(name, 0) for other in NODES]
                feed.merge_committed(conn, {name: min(held)})
            case _:
                self._pull(kind, name, rest, conn, pen)

    def _note(self, name: str) -> None:
        for table, key, row in rows_of(self.conns[name]):
            if row[-2] == name:
                self.written.setdefault((name, row[-1]), (table, key, row))

    def check(self) -> None:
        for name, conn in self.conns.items():
            vector = feed.read_vector(conn)
            here = {(table, key): row for table, key, row in rows_of(conn)}
            for (writer, seq), (table, key, row) in self.written.items():
                if seq <= vector.get(writer, 0):
                    assert (table, key) in here, f"{name} claims {writer}:{seq} and has no {key}"
                    assert here[table, key] >= row, f"{name} claims {writer}:{seq} of {key}"


def changed(task: Task | None, id_: str, move: int, worker: str) -> Task:
    if task is None:
        return Task(id=id_, name="n", payload=b"x" * 40)
    match move, task.state:
        case 0, _:
            return moves.succeeded(task, worker, worker.encode(), None, 1)
        case 1, _:
            return moves.cancelled(task, 2)
        case _, "pending":
            return moves.claimed(task, worker, 3)
        case _:
            return moves.released(task, 4)


def rows_of(conn: Connection) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Each row's table, name and key, which ends with its stamp."""
    found: list[tuple[str, str, tuple[Any, ...]]] = []
    for (id_,) in conn.execute("SELECT id FROM tasks"):
        task = queue.get(conn, id_)
        assert task is not None
        found.append(("tasks", id_, progress_key(task)))
    found += [("payloads", ref, tuple(key)) for ref, *key in conn.execute(
        "SELECT ref, epoch, version, writer, seq FROM payloads"
    )]  # fmt: skip
    roster = feed.read_roster(conn)
    return [*found, ("roster", "roster", roster.key)] if roster.writer else found


def dump(conn: Connection) -> list[list[tuple[object, ...]]]:
    return [conn.execute(f"SELECT * FROM {table} ORDER BY {key}").fetchall() for table, key in TABLES.items()]


def pull(world: World, asker: str, answerer: str) -> None:
    vector = feed.read_vector(world.conns[asker])
    for rows in list(feed.rows_beyond(world.conns[answerer], vector, 400)):
        feed.apply(world.conns[asker], rows, None)


@settings(max_examples=150, deadline=None)
@given(steps, st.permutations(NODES))
def test_all_orders_end_in_the_same_rows(done: list[tuple[object, ...]], order: list[str]) -> None:
    world = World()
    for step in done:
        world.act(step)
        world.check()
    for _ in range(2):
        for asker in order:
            for answerer in order:
                pull(world, asker, answerer)
    world.check()
    dumps = [dump(conn) for conn in world.conns.values()]
    assert all(found == dumps[0] for found in dumps)
    for conn in world.conns.values():
        assert all(covers(feed.read_vector(other), feed.read_vector(conn)) for other in world.conns.values())


def test_a_leader_that_pulls_and_stamps_converges_with_its_followers() -> None:
    world = World()
    for step in [
        ("write", "a", "task0", 0, False), ("value", "a", "task0"), ("roster", "a"), ("write", "b", "task0", 0, True),
        ("write", "b", "task0", 0, True), ("write", "a", "task0", 2, True), ("lead", "c"),
        ("ask", "c", "a", 1), ("frames", "c", 99, True), ("ask", "c", "b", 1), ("frames", "c", 99, True),
    ]:  # fmt: skip
        world.act(step)
        world.check()
    for name in "abd":
        pull(world, name, "c")
    assert all(dump(conn) == dump(world.conns["c"]) for conn in world.conns.values())
    task = queue.get(world.conns["a"], "task0")
    assert task is not None
    assert (task.state, task.result, task.writer, task.epoch) == ("done", b"b", "c", 2)
    assert feed.read_roster(world.conns["d"]) == Roster(
        genesis="g", members=("a",), epoch=2, version=2, writer="c", seq=feed.read_roster(world.conns["c"]).seq
    )
