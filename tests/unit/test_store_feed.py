"""Stamps, the upsert that never goes back, re-stamping, and pulls."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from meshq.core.membership import NOBODY, Roster
from meshq.core.messages import Rows
from meshq.core.task import COLUMNS, State, Task, claimed, progress_key, succeeded
from meshq.errors import InvariantBroken, Malformed, StaleEpoch
from meshq.store import feed, queue
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection
from meshq.store.rows import PayloadRow, RosterRow, TaskRow
from meshq.store.statements import PAYLOAD_COLUMNS, ROSTER_COLUMNS
from tests.unit.steps import Steps

A = Pen("a", 1, True)
B = Pen("b", 2, True)
ROSTER = Roster(genesis="g", members=("a", "b", "c"))


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def a_task(id_: str, **changes: Any) -> Task:
    return Task(**({"id": id_, "name": "primes", "payload": b"x"} | changes))


def there(conn: Connection, id_: str) -> Task:
    task = queue.get(conn, id_)
    assert task is not None
    return task


def stamp(task: Task) -> tuple[int, int, str, int]:
    return (task.epoch, task.version, task.writer, task.seq)


def pull(source: Connection, target: Connection, pen: Pen | None = None, frame_bytes: int = 1 << 20) -> None:
    for rows in list(feed.rows_beyond(source, feed.read_vector(target), frame_bytes)):
        feed.apply(target, rows, pen)


def frame(*rows: list[Any], last: bool = True, vector: Mapping[str, int] | None = None) -> Rows:
    return Rows(rows=msgspec.msgpack.encode(rows), last=last, vector=dict(vector or {}), committed={})


def packed_task(**changes: Any) -> list[Any]:
    task = replace(a_task("t", writer="x", seq=1), **changes)
    return ["task", *(getattr(task, column) for column in COLUMNS)]


# -- stamps and the upsert -------------------------------------------------------------------------------


def test_seqs_are_never_given_twice(conn: Connection) -> None:
    assert [feed.take_seqs(conn, "a", 3), feed.take_seqs(conn, "a", 1), feed.take_seqs(conn, "b", 2)] == [1, 4, 1]
    assert feed.read_vector(conn) == {"a": 4, "b": 2}
    assert (feed.read_seq(conn, "a"), feed.read_seq(conn, "z")) == (4, 0)


def test_a_write_stamps_each_row_with_the_next_seq(conn: Connection) -> None:
    assert feed.write_tasks(conn, A, [a_task("1"), a_task("2")]) == 2
    assert feed.write_tasks(conn, A, [a_task("3")]) == 3
    assert [stamp(there(conn, id_)) for id_ in "123"] == [(1, 0, "a", 1), (1, 0, "a", 2), (1, 0, "a", 3)]
    assert feed.write_tasks(conn, A, []) == 0


@pytest.mark.parametrize("majority", [True, False])
def test_only_what_finishes_under_a_majority_is_marked(conn: Connection, majority: bool) -> None:
    pen = replace(A, majority=majority)
    feed.write_tasks(conn, pen, [a_task("1")])
    assert there(conn, "1").majority == 0
    feed.write_tasks(conn, pen, [succeeded(there(conn, "1"), "w", b"r", None, 9)])
    assert there(conn, "1").majority == majority


def test_the_greatest_key_stays_whatever_the_order() -> None:
    states = [State.PENDING, State.DONE, State.PURGED]
    versions = [
        a_task(
            "t", rank=rank, state=states[rank].value, majority=majority, epoch=epoch, version=version, writer=writer,
            seq=seq, result=f"{rank}{majority}{epoch}{version}{writer}{seq}".encode(),
        )
        for rank in (0, 1, 2) for majority in (0, 1) for epoch in (1, 2) for version in (0, 3)
        for writer in ("a", "b") for seq in (1, 2)
    ]  # fmt: skip
    greatest = max(versions, key=progress_key)
    for seed in range(20):
        conn = memory_connection()
        random.Random(seed).shuffle(versions)
        best: Task | None = None
        for version in versions:
            newer = best is None or progress_key(version) > progress_key(best)
            assert feed.upsert_tasks(conn, [version]) == newer
            best = version if newer else best
            assert there(conn, "t") == best
        assert best == greatest


def test_a_write_that_changes_nothing_is_a_broken_invariant(conn: Connection) -> None:
    feed.write_tasks(conn, A, [a_task("1", version=5)])
    with pytest.raises(InvariantBroken):
        feed.write_tasks(conn, A, [a_task("2"), there(conn, "1"), a_task("1", version=4)])


def test_a_writer_of_an_older_epoch_is_told_so(conn: Connection) -> None:
    feed.write_tasks(conn, B, [a_task("1")])
    with pytest.raises(StaleEpoch, match="epoch 1 is over"):
        feed.write_tasks(conn, A, [claimed(there(conn, "1"), "w", 5)])
    feed.write_roster(conn, B, ROSTER)
    with pytest.raises(StaleEpoch):
        feed.write_roster(conn, A, ROSTER.with_member("d"))


def test_the_order_of_arrival_survives_later_versions(conn: Connection) -> None:
    feed.write_tasks(conn, A, [a_task("9"), a_task("1")])
    feed.write_tasks(conn, A, [replace(there(conn, "9"), version=1)])
    assert [id_ for (id_,) in conn.execute("SELECT id FROM tasks ORDER BY rowid")] == ["9", "1"]


def test_a_roster_is_read_as_it_was_written(conn: Connection) -> None:
    assert feed.read_roster(conn) == NOBODY
    written = feed.write_roster(conn, A, ROSTER)
    assert written == replace(ROSTER, epoch=1, writer="a", seq=1)
    assert feed.read_roster(conn) == written
    assert feed.upsert_roster(conn, written) == 0
    assert feed.write_roster(conn, A, written.with_member("d")).members == ("a", "b", "c", "d")


def test_committed_only_rises(conn: Connection) -> None:
    feed.merge_committed(conn, {"a": 5, "b": 1})
    feed.merge_committed(conn, {"a": 3, "b": 2, "c": 7})
    assert feed.read_committed(conn) == {"a": 5, "b": 2, "c": 7}


# -- re-stamping -----------------------------------------------------------------------------------------


def test_everything_not_known_committed_is_stamped_anew_in_its_old_order(conn: Connection) -> None:
    feed.write_roster(conn, A, ROSTER)
    feed.write_tasks(conn, A, [a_task("committed"), a_task("2"), a_task("1")])
    done = succeeded(there(conn, "1"), "w", b"r", None, 9)
    feed.write_tasks(conn, A, [done])
    feed.write_payload(conn, A, "p", b"body")
    feed.merge_committed(conn, {"a": 2})
    before = {id_: there(conn, id_) for id_ in ("committed", "1", "2")}
    last = feed.restamp(conn, B, first=True)
    after = {id_: there(conn, id_) for id_ in before}
    assert after["committed"] == before["committed"]
    assert [stamp(after[id_]) for id_ in "21"] == [(2, 1, "b", 2), (2, 2, "b", 3)]
    for id_ in "12":
        assert progress_key(after[id_]) > progress_key(before[id_])
    assert (after["1"].majority, after["1"].result) == (1, b"r")
    assert conn.execute("SELECT * FROM payloads").fetchall() == [("p", 2, 1, "b", 1, b"body")]
    roster = feed.read_roster(conn)
    assert (roster.epoch, roster.version, roster.writer, roster.seq) == (2, 1, "b", 4)
    assert last == 4 == feed.read_vector(conn)["b"]


@pytest.mark.parametrize("majority", [False, True])
def test_what_a_split_finished_is_accepted_by_a_majority_that_takes_it_in(conn: Connection, majority: bool) -> None:
    split = Pen("a", 1, False)
    feed.write_tasks(conn, split, [a_task("1"), a_task("open")])
    feed.write_tasks(conn, split, [succeeded(there(conn, "1"), "w", b"r", None, 9)])
    feed.restamp(conn, replace(B, majority=majority), first=True)
    assert (there(conn, "1").majority, there(conn, "1").writer) == (majority, "b")
    assert (there(conn, "open").majority, there(conn, "open").writer) == (0, "b")


def test_an_outcome_that_was_accepted_under_a_majority_stays_so_in_a_split(conn: Connection) -> None:
    feed.write_tasks(conn, A, [a_task("1", rank=1, state="done")])
    feed.restamp(conn, replace(B, majority=False), first=True)
    assert (there(conn, "1").majority, there(conn, "1").writer) == (1, "b")


def test_own_rows_of_an_earlier_epoch_are_stamped_anew_and_those_of_this_one_stay(conn: Connection) -> None:
    feed.write_tasks(conn, A, [a_task("old")])
    feed.write_roster(conn, A, ROSTER)
    again = replace(A, epoch=5)
    feed.write_tasks(conn, again, [a_task("new")])
    assert feed.restamp(conn, again, first=False) == 5
    assert stamp(there(conn, "old")) == (5, 1, "a", 4)
    assert stamp(there(conn, "new")) == (5, 0, "a", 3)
    assert feed.read_roster(conn).seq == 5
    assert feed.restamp(conn, again, first=False) == 5
    assert feed.restamp(conn, again, first=True) == 6, "the roster, in any case"


def test_a_committed_roster_is_stamped_anew_only_with_the_first_write(conn: Connection) -> None:
    roster = feed.write_roster(conn, A, ROSTER)
    feed.merge_committed(conn, {"a": 1})
    feed.restamp(conn, B, first=False)
    assert feed.read_roster(conn) == roster
    feed.restamp(conn, B, first=True)
    assert feed.read_roster(conn) == replace(roster, epoch=2, version=1, writer="b", seq=1)


# -- pulls -----------------------------------------------------------------------------------------------


def test_a_pull_brings_everything_and_the_next_one_only_the_rest(conn: Connection) -> None:
    other = memory_connection()
    feed.write_roster(conn, A, ROSTER)
    feed.write_payload(conn, A, "p", b"body")
    feed.write_tasks(conn, A, [a_task("1"), a_task("2")])
    feed.merge_committed(conn, {"a": 3})
    pull(conn, other)
    for table in ("tasks", "payloads", "roster", "vector", "committed"):
        assert other.execute(f"SELECT * FROM {table}").fetchall() == conn.execute(f"SELECT * FROM {table}").fetchall()
    (nothing,) = feed.rows_beyond(conn, feed.read_vector(other), 1 << 20)
    assert msgspec.msgpack.decode(nothing.rows) == []
    feed.write_tasks(conn, A, [replace(there(conn, "1"), version=1)])
    (rows,) = feed.rows_beyond(conn, feed.read_vector(other), 1 << 20)
    assert [row[1] for row in msgspec.msgpack.decode(rows.rows)] == ["1"]
    assert feed.apply(other, rows, None).changed == 1


def test_rows_of_each_writer_are_sent_even_of_one_that_the_answerer_does_not_vouch_for(conn: Connection) -> None:
    feed.upsert_tasks(conn, [a_task("1", writer="x", seq=7), a_task("2", writer="y", seq=3)])
    (rows,) = feed.rows_beyond(conn, {"x": 7, "y": 2}, 1 << 20)
    assert [row[1] for row in msgspec.msgpack.decode(rows.rows)] == ["2"]
    assert rows.vector == {}


def test_frames_are_small_and_bring_values_before_tasks_before_the_roster(conn: Connection) -> None:
    feed.write_roster(conn, A, ROSTER)
    feed.write_tasks(conn, A, [a_task(str(n), payload=b"x" * 300) for n in range(20)])
    feed.write_payload(conn, B, "p", b"y" * 5000)
    frames = list(feed.rows_beyond(conn, {}, 2000))
    kinds = [[row[0] for row in msgspec.msgpack.decode(rows.rows)] for rows in frames]
    assert kinds[0] == ["payload"]
    assert [kind for frame in kinds for kind in frame] == ["payload", *["task"] * 20, "roster"]
    assert all(len(rows.rows) <= 2010 for rows in frames[1:])
    assert [rows.last for rows in frames] == [False] * (len(frames) - 1) + [True]


def test_vectors_are_taken_over_with_the_last_frame_only(conn: Connection) -> None:
    other = memory_connection()
    feed.write_tasks(conn, A, [a_task(str(n)) for n in range(20)])
    feed.merge_committed(conn, {"a": 20})
    frames = list(feed.rows_beyond(conn, {}, 500))
    for rows in frames[:-1]:
        applied = feed.apply(other, rows, None)
        assert (applied.vector, applied.committed) == ({}, {})
        assert (rows.vector, rows.committed) == ({}, {})
        assert (feed.read_vector(other), feed.read_committed(other)) == ({}, {})
    assert feed.apply(other, frames[-1], None).vector == {"a": 20}
    assert (feed.read_vector(other), feed.read_committed(other)) == ({"a": 20}, {"a": 20})


def test_a_vector_in_a_frame_that_is_not_the_last_counts_for_nothing(conn: Connection) -> None:
    feed.apply(conn, frame(packed_task(), last=False, vector={"x": 9}), None)
    assert feed.read_vector(conn) == {}


def test_a_pull_lowers_no_vector(conn: Connection) -> None:
    feed.take_seqs(conn, "a", 9)
    feed.apply(conn, frame(vector={"a": 4, "b": 2}), None)
    assert feed.read_vector(conn) == {"a": 9, "b": 2}


def test_a_leader_stamps_what_it_pulled_in_the_same_call(conn: Connection) -> None:
    other = memory_connection()
    feed.write_roster(conn, A, ROSTER)
    feed.write_payload(conn, A, "p", b"body")
    feed.write_tasks(conn, A, [a_task("committed"), a_task("open")])
    feed.merge_committed(conn, {"a": 3})
    (rows,) = feed.rows_beyond(conn, {}, 1 << 20)
    applied = feed.apply(other, rows, B)
    assert applied.roster_changed
    assert applied.vector == {"a": 4, "b": 1}
    assert stamp(there(other, "committed")) == (1, 0, "a", 3)
    assert stamp(there(other, "open")) == (2, 1, "b", 1)
    assert feed.apply(other, rows, B).changed == 0
    assert feed.read_seq(other, "b") == 1, "what is known already is not stamped once more"


def test_a_deposed_leader_leaves_rows_of_a_later_epoch_alone_and_learns_of_it(conn: Connection) -> None:
    other = memory_connection()
    feed.write_tasks(conn, B, [a_task("1")])
    (rows,) = feed.rows_beyond(conn, {}, 1 << 20)
    assert feed.apply(other, rows, A).epoch == 2
    assert stamp(there(other, "1")) == (2, 0, "b", 1)


@pytest.mark.parametrize(
    "rows",
    [
        frame(["song", 1, 2]),
        frame(["task", "t"]),
        frame(packed_task(seq="one")),
        frame(packed_task(seq=0)),
        frame(packed_task(seq=(1 << 64) - 1)),
        frame(packed_task(state="sleeping")),
        frame(packed_task(state="done", rank=0)),
        frame(packed_task(payload="text")),
        frame(packed_task(backoff_s=float("nan"))),
        frame(packed_task(id="")),
        frame(packed_task(id="x" * 1000)),
        frame(["payload", "p", 1, 0, "x", 1, None]),
        frame(["roster", "g", b"\xc1", 0, 1, 0, "x", 1]),
        frame(vector={"x": -1}),
        Rows(rows=b"\xc1", last=True, vector={}, committed={}),
        Rows(rows=b"", last=True, vector={}, committed={}),
    ],
)
def test_a_frame_that_cannot_be_read_changes_nothing(conn: Connection, rows: Rows) -> None:
    before = conn.total_changes
    with pytest.raises(Malformed):
        feed.apply(conn, rows, A)
    assert conn.total_changes == before


def test_a_later_version_may_add_columns(conn: Connection) -> None:
    feed.apply(conn, frame([*packed_task(), "of the future"]), None)
    assert there(conn, "t").seq == 1


def test_the_rows_on_the_wire_are_those_of_the_tables(conn: Connection) -> None:
    assert TaskRow.__struct_fields__ == COLUMNS
    assert PayloadRow.__struct_fields__ == PAYLOAD_COLUMNS
    assert RosterRow.__struct_fields__ == ROSTER_COLUMNS
    columns = [name for _, name, *_ in conn.execute("PRAGMA table_info(tasks)")]
    assert tuple(columns) == COLUMNS


def test_looking_for_more_never_scans_the_rows(conn: Connection) -> None:
    feed.write_tasks(conn, A, [a_task(f"{n:05}") for n in range(5000)])
    feed.write_tasks(conn, B, [a_task("b")])
    steps = Steps(conn, 100)
    (nothing,) = feed.rows_beyond(conn, {"a": 5000, "b": 1}, 1 << 20)
    assert msgspec.msgpack.decode(nothing.rows) == []
    assert steps.count < 20
