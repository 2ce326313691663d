"""Which of the waiting tasks a worker is given: by their places, within the bounds of their names, at a small cost."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from meshq.core.requests import Outcome, TaskSpec
from meshq.core.task import COLUMNS, Task, plain_order_ms
from meshq.store import claims, feed, queue
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection
from meshq.store.queue import Budget
from meshq.store.schema import QUEUE, migrate
from tests.unit.steps import Steps

PEN = Pen("a", 1, True)
ALL = {"a": 1 << 40, "b": 1 << 40}


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def spec(id_: str, **changes: Any) -> TaskSpec:
    return TaskSpec(**({"id": id_, "name": "n", "payload": b""} | changes))


def submit(conn: Connection, *specs: TaskSpec, now_ms: int = 1000, step_s: float = 60.0) -> None:
    queue.submit(conn, PEN, specs, now_ms, 1024, step_s=step_s)


def claim(conn: Connection, count: int = 99, names: tuple[str, ...] = ("n", "m"), **changes: Any) -> list[str]:
    options: dict[str, Any] = {"shown": ALL, "now_ms": 2000, "limit": 9999} | changes
    return [given.task.id for given in queue.claim(conn, PEN, "w", names, Budget(count), **options)]


def finish(conn: Connection, id_: str, kind: str = "done") -> None:
    outcome = Outcome(task=id_, epoch=1, attempt=1, kind=kind)
    queue.finish(
        conn, PEN, [outcome], lambda *_: True, worker="w", crashes_max=3, now_ms=9, inline_bytes_max=9,
        chance=lambda: 0.0,
    )  # fmt: skip


# -- places ----------------------------------------------------------------------------------------------


def test_names_bounds_and_delays_do_not_change_the_order(conn: Connection) -> None:
    rng = random.Random(7)
    made = []
    for number in range(300):
        options = {
            "name": rng.choice("nm"), "priority": rng.randint(-2, 2), "max_running": rng.choice((0, 500, 900)),
            "not_before_ms": rng.choice((0, 0, 1500)),
        }  # fmt: skip
        made.append((number, spec(f"{rng.getrandbits(40):010x}", **options)))
        submit(conn, made[-1][1], now_ms=1000 + number)
    expected = sorted(made, key=lambda entry: (1000 + entry[0] - 60_000 * entry[1].priority, entry[0]))
    assert claim(conn, 100) + claim(conn, 250) == [each.id for _, each in expected]


@pytest.mark.parametrize("few", [True, False])
def test_tasks_whose_time_has_come_keep_their_places_however_many_they_are(conn: Connection, few: bool) -> None:
    count = 40 if few else claims.DUE_SORTED_MAX + 40
    later = [spec(f"{n:05}", not_before_ms=5000 - n % 7, name="nm"[n % 2]) for n in range(count)]
    submit(conn, *later, spec("never", not_before_ms=1 << 50), spec("unknown", not_before_ms=1, name="x"))
    submit(conn, spec("now"))
    assert claim(conn, now_ms=4990) == ["now"]
    assert claim(conn, 20, now_ms=6000) == [each.id for each in later[:20]]
    assert claim(conn, 5, ("m",), now_ms=6000) == [each.id for each in later[20:30] if each.name == "m"]


def test_after_a_step_a_task_goes_before_newer_ones_of_the_next_priority(conn: Connection) -> None:
    submit(conn, spec("old"), now_ms=0, step_s=10.0)
    submit(conn, spec("above", priority=1), now_ms=9_999, step_s=10.0)
    submit(conn, spec("as old"), now_ms=0, step_s=10.0)
    submit(conn, spec("late", priority=1), now_ms=10_001, step_s=10.0)
    assert claim(conn) == ["above", "old", "as old", "late"]


# -- what version 1 does not know ------------------------------------------------------------------------


def test_a_task_of_version_1_has_the_place_that_its_priority_gives_it(conn: Connection) -> None:
    submit(conn, spec("older"), now_ms=39_000)
    submit(conn, spec("newer"), now_ms=41_000)
    source = memory_connection()
    submit(source, spec("1", priority=1), now_ms=100_000)
    for rows in feed.rows_beyond(source, {}, 1 << 20, 1):
        feed.apply(conn, rows, None)
    ((place, backoff, bound, kept_s),) = conn.execute(
        "SELECT order_ms, backoff, max_running, keep_s FROM tasks WHERE id = '1'"
    ).fetchall()
    assert (place, backoff, bound, kept_s) == (40_000, "exponential", 0, None)
    assert claim(conn) == ["older", "1", "newer"]


def test_version_1_is_told_nothing_of_the_new_columns(conn: Connection) -> None:
    submit(conn, spec("1", max_running=3, keep_s=1.0, backoff="linear"))
    (rows,) = feed.rows_beyond(conn, {}, 1 << 20, 1)
    ((_, *told),) = msgspec.msgpack.decode(rows.rows)
    assert len(told) == COLUMNS.index("story")
    (rows,) = feed.rows_beyond(conn, {}, 1 << 20, 2)
    ((_, *told),) = msgspec.msgpack.decode(rows.rows)
    assert told[-4:] == ["linear", 3, 1.0, 1000]


def test_among_older_replicas_a_row_is_written_as_they_keep_it(conn: Connection) -> None:
    given = spec("1", priority=2, max_running=3, keep_s=1.0, backoff="linear")
    old = replace(PEN, version=1)
    queue.submit(conn, old, [given], 1000, 9, step_s=5.0)
    untold = [("exponential", 0, None, plain_order_ms(1000, 2))]
    columns = "SELECT backoff, max_running, keep_s, order_ms FROM tasks"
    assert conn.execute(columns).fetchall() == untold
    submit(conn, replace(given, id="2"), step_s=5.0)
    assert conn.execute(f"{columns} WHERE id = '2'").fetchall() == [("linear", 3, 1.0, 1000 - 10_000)]
    feed.restamp(conn, replace(old, node="b", epoch=2), first=True)
    assert conn.execute(columns).fetchall() == untold * 2
    conn.execute("UPDATE tasks SET priority = 4611686018427387904, submitted_ms = -4611686018427387904, epoch = 2")
    feed.restamp(conn, replace(old, node="c", epoch=3), first=True)
    assert {place for _, _, _, place in conn.execute(columns)} == {plain_order_ms(-(1 << 62), 1 << 62)}


def test_a_database_of_before_gives_each_task_its_place() -> None:
    old = sqlite3.connect(":memory:", isolation_level=None)
    old.executescript("".join(QUEUE.migrations()[:3]) + "PRAGMA user_version = 3;")
    columns = [name for _, name, *_ in old.execute("PRAGMA table_info(tasks)")]
    rows = [(5_000, 0), (65_000, 1), (1_000, -3), (-(1 << 62), 1 << 62)]
    for number, (submitted_ms, priority) in enumerate(rows):
        task = Task(
            id=str(number), name="n", payload=b"", submitted_ms=submitted_ms, priority=priority, writer="a", seq=1
        )
        values = [getattr(task, column) for column in columns]
        old.execute(f"INSERT INTO tasks ({', '.join(columns)}) VALUES ({', '.join('?' * len(values))})", values)
    migrate(old, QUEUE, ":memory:")
    places = [place for (place,) in old.execute("SELECT order_ms FROM tasks ORDER BY id")]
    assert places == [plain_order_ms(*row) for row in rows] == [5_000, 5_000, 181_000, -(1 << 53)]
    assert claim(old) == ["3", "0", "1", "2"]
    old.close()


# -- bounds ----------------------------------------------------------------------------------------------


def test_only_so_many_of_a_name_run_as_each_task_itself_says(conn: Connection) -> None:
    submit(conn, spec("1", max_running=2), spec("2", max_running=1), spec("3", max_running=2), spec("4", max_running=3))
    submit(conn, spec("5"), spec("6", max_running=3), spec("m", name="m", max_running=1))
    # The second may run alone only; those after it need not wait for it. One without a bound counts all the same.
    assert claim(conn) == ["1", "3", "4", "5", "m"]
    assert claim(conn) == []
    for id_ in ("1", "3"):
        finish(conn, id_)
    assert claim(conn) == ["6"]
    for id_ in ("4", "5", "6"):
        finish(conn, id_)
    assert claim(conn) == ["2"]


def test_every_way_out_of_a_run_makes_room(conn: Connection) -> None:
    submit(conn, *(spec(str(n), max_running=1) for n in range(5)))
    assert claim(conn) == ["0"]
    finish(conn, "0", "failed")
    assert claim(conn) == ["1"]
    queue.cancel(conn, PEN, "1", 5)
    assert claim(conn) == ["2"]
    queue.release(conn, PEN, ["2"])
    assert claim(conn) == ["2"]
    queue.count_losses(conn, PEN, ["2"], 1, 5)
    assert claim(conn) == ["3"]


def test_a_retry_that_waits_does_not_count_and_is_bounded_like_any_other(conn: Connection) -> None:
    submit(conn, spec("1", max_running=1, retries=1, backoff_s=5.0), spec("2", max_running=1))
    assert claim(conn) == ["1"]
    finish(conn, "1", "failed")
    assert claim(conn) == ["2"]
    assert claim(conn, now_ms=9_000) == [], "its time has come, but its name is full"
    finish(conn, "2")
    assert claim(conn, now_ms=9_000) == ["1"]


def test_while_it_is_not_known_what_runs_nothing_with_a_bound_is_given(conn: Connection) -> None:
    submit(conn, spec("1", max_running=5), spec("2"), spec("3", max_running=5, not_before_ms=1))
    assert claim(conn, bounded=False) == ["2"]
    assert claim(conn) == ["1", "3"]


@pytest.mark.parametrize("what", ["full", "unknown", "delayed"])
def test_what_can_not_be_given_is_passed_over_as_a_whole(conn: Connection, what: str) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "full": {"max_running": 1}, "unknown": {"name": "x"}, "delayed": {"not_before_ms": 1 << 50}
    }  # fmt: skip
    submit(conn, *(spec(f"{n:05}", **kinds[what]) for n in range(5000)), spec("m", name="m"), spec("l", name="m"))
    if what == "full":
        assert claim(conn, 1) == ["00000"]
    steps = Steps(conn, 1000)
    assert claim(conn, 1) == ["m"]
    assert claim(conn, 9) == ["l"]
    assert claim(conn, 9) == []
    assert steps.count < 5


# -- checkpoints -----------------------------------------------------------------------------------------


def test_what_a_run_kept_comes_with_the_next_one_even_if_its_attempt_was_forgotten(conn: Connection) -> None:
    submit(conn, spec("1"), spec("2"))
    # As after a merge: the claim was known to one part only, and what the run kept came home.
    feed.write_payload(conn, PEN, "1/checkpoint", b"half")
    given = queue.claim(conn, PEN, "w", ["n"], Budget(9), shown=ALL, now_ms=2000, limit=9)
    assert [(each.task.id, each.task.attempt, each.checkpoint) for each in given] == [("1", 1, b"half"), ("2", 1, None)]


def test_no_more_is_given_at_once_than_an_answer_takes_checkpoints_included(conn: Connection) -> None:
    submit(conn, *(spec(f"{n:02}") for n in range(20)))
    for number in range(20):
        feed.write_payload(conn, PEN, f"{number:02}/checkpoint", b"x" * (1 << 20))
    assert [len(claim(conn)) for _ in range(4)] == [8, 8, 4, 0]
