"""The feed of rows: every write with its stamp, the one upsert that never goes back, and pulls.

Plain functions of a connection, each called inside a transaction. Keys and vectors are those of PROTOCOL.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any

from meshq.core import quorum
from meshq.core.membership import NOBODY, Roster
from meshq.core.messages import Rows
from meshq.core.reports import MergeReport
from meshq.core.task import ADDED, COLUMNS, State, Task, plain_order_ms
from meshq.errors import InvariantBroken, StaleEpoch
from meshq.store import clashes, fullcopy, stories, values
from meshq.store.clusters import dissolve
from meshq.store.database import Connection
from meshq.store.rows import Unpacked, as_json, pack, pack_frame, pack_members, roster_of, unpack_frame
from meshq.store.statements import (
    BEYOND,
    PAYLOAD_KEY,
    RESTAMP,
    ROSTER_COLUMNS,
    ROSTER_KEY,
    TABLES,
    TASK_KEY,
    TOPS,
    UPSERT_PAYLOADS,
    UPSERT_ROSTER,
    UPSERT_TASKS,
    names,
)
from meshq.store.vectors import (
    drop,
    merge_committed,
    merge_vector,
    read_committed,
    read_dropped,
    read_seq,
    read_vector,
    take_seqs,
    top_epoch,
)

__all__ = [
    "PAYLOAD_KEY", "ROSTER_KEY", "TASK_KEY", "Applied", "Pen", "apply", "dissolve", "merge_committed", "read_committed",
    "read_dropped", "read_roster", "read_seq", "read_vector", "restamp", "rows_beyond", "take_seqs", "top_epoch",
    "upsert_payloads", "upsert_roster", "upsert_tasks", "write_payload", "write_report", "write_roster", "write_tasks",
]  # fmt: skip

_task_row = attrgetter(*COLUMNS)
_STATE = COLUMNS.index("state")
_STORY = COLUMNS.index("story") - COLUMNS.index("seq") - 1  # among the columns behind the stamp
_UNTOLD = tuple(column.default for column in fields(Task) if column.name in ADDED[:-1])


@dataclass(frozen=True, slots=True)
class Pen:
    """As whom a leader writes.

    Args:
        node: Its id.
        epoch: The epoch that it leads.
        majority: Whether a majority is behind it; what is finished under it then is marked so.
        version: The protocol version that all replicas speak; with 1 the columns that version 2 added are written as
            they are where nobody told them, since some replicas could not keep them.
    """

    node: str
    epoch: int
    majority: bool
    version: int = 2


@dataclass(frozen=True, slots=True)
class Applied:
    """What a frame of pulled rows changed.

    Args:
        changed: How many rows were newer than what was here.
        roster_changed: Whether the roster is one of them.
        epoch: The highest epoch in the frame; beyond a leader's own it says that this leader was deposed.
        vector, committed, dropped: What holds now, after a last frame; empty before.
        tasks: The tasks that are among the changed rows.
        twice: How many tasks turned out to have run twice.
        differed: How many of those ended differently.
        full: Whether a full copy is complete now.
        held: How many tasks were put aside then.
    """

    changed: int
    roster_changed: bool
    epoch: int
    vector: dict[str, int]
    committed: dict[str, int]
    dropped: dict[str, int] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    twice: int = 0
    differed: int = 0
    full: bool = False
    held: int = 0


# -- writes ----------------------------------------------------------------------------------------------


def _upsert(conn: Connection, sql: str, rows: Iterable[tuple[Any, ...]]) -> int:
    before = conn.total_changes
    conn.executemany(sql, rows)
    return conn.total_changes - before


def _check_written(pen: Pen, changed: int, epochs: Sequence[int], what: str) -> None:
    if changed == len(epochs):
        return
    newest = max(epochs)
    if newest > pen.epoch:
        raise StaleEpoch(f"epoch {pen.epoch} is over: a row here is of epoch {newest}")
    raise InvariantBroken(f"{len(epochs) - changed} of {len(epochs)} {what} did not go forward in epoch {pen.epoch}")


def upsert_tasks(conn: Connection, tasks: Sequence[Task]) -> int:
    """Keeps those of these tasks, stamped already, that are newer than what is here; tells how many that were."""
    return _upsert(conn, UPSERT_TASKS, map(_task_row, tasks))


def write_tasks(conn: Connection, pen: Pen, tasks: Sequence[Task]) -> int:
    """Writes new versions of tasks under the pen's stamp, and returns the last seq, or 0 for no tasks.

    Those that are finished get the mark of the majority, if one is behind the pen; the moves in their stories get the
    pen's epoch and node.

    Raises:
        StaleEpoch: A task was written in a later epoch.
        InvariantBroken: A version is not newer than what is here.
    """
    if not tasks:
        return 0
    first = take_seqs(conn, pen.node, len(tasks))
    stamp = stories.stamp(pen.epoch, pen.node)
    rows = []
    for seq, task in enumerate(tasks, first):
        id_, rank, majority, _, version, _, _, *rest = _task_row(task)
        if rank == 1 and pen.majority:
            majority = 1
        if pen.version > 1:
            rest[_STORY] = stories.completed(task.story, stamp)
        else:
            rest[_STORY:] = _untold(task)
        rows.append((id_, rank, majority, pen.epoch, version, pen.node, seq, *rest))
    changed = _upsert(conn, UPSERT_TASKS, rows)
    _check_written(pen, changed, [task.epoch for task in tasks], "tasks")
    return first + len(tasks) - 1


def _untold(task: Task) -> tuple[Any, ...]:
    """The added columns as a node has them that version 1 told the others."""
    return (*_UNTOLD, plain_order_ms(task.submitted_ms, task.priority))


def upsert_payloads(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Keeps those of these payload rows, in PAYLOAD_COLUMNS, that are newer than what is here."""
    return _upsert(conn, UPSERT_PAYLOADS, rows)


def write_payload(conn: Connection, pen: Pen, ref: str, body: bytes) -> int:
    """Writes a large value under the pen's stamp, and returns its seq.

    Raises:
        StaleEpoch: A value of this name was written in a later epoch.
    """
    # One may be here although its task is not: of a pull that broke off.
    found = conn.execute("SELECT epoch, version FROM payloads WHERE ref = ?", (ref,)).fetchone() or (0, -1)
    seq = take_seqs(conn, pen.node, 1)
    changed = upsert_payloads(conn, [(ref, pen.epoch, found[1] + 1, pen.node, seq, body)])
    _check_written(pen, changed, [found[0]], "values")
    return seq


def write_report(conn: Connection, pen: Pen, report: MergeReport, key: str) -> int:
    """Keeps a report of a merge, in place of an earlier one of this key, and returns its seq; the oldest go."""
    seq = write_payload(conn, pen, values.REPORT_PREFIX + key, pack(report))
    values.trim_reports(conn)
    return seq


def read_roster(conn: Connection) -> Roster:
    """The roster that is here; membership.NOBODY where there is none.

    Raises:
        CorruptDatabase: It is of an epoch that is none, or its lists can't be read.
    """
    row = conn.execute(f"SELECT {names(ROSTER_COLUMNS)} FROM roster").fetchone()
    return roster_of(dict(zip(ROSTER_COLUMNS, row, strict=True))) if row else NOBODY


def upsert_roster(conn: Connection, roster: Roster) -> int:
    """Keeps the roster, stamped already, if it is newer than what is here; 1 if so."""
    row = (
        roster.genesis, pack_members(roster.members), *roster.key, pack_members(roster.absorbed), roster.into,
    )  # fmt: skip
    return _upsert(conn, UPSERT_ROSTER, [row])


def write_roster(conn: Connection, pen: Pen, roster: Roster) -> Roster:
    """Writes a roster under the pen's stamp, and returns it as it is now.

    Raises:
        StaleEpoch: The present one was written in a later epoch.
        InvariantBroken: It is not newer than the present one.
    """
    present = read_roster(conn)
    stamped = replace(roster, epoch=pen.epoch, writer=pen.node, seq=take_seqs(conn, pen.node, 1))
    _check_written(pen, upsert_roster(conn, stamped), [present.epoch], "rosters")
    return stamped


def restamp(conn: Connection, pen: Pen, *, first: bool) -> int:
    """Writes every row that is not known committed once more under the pen's stamp, in their old order.

    What is finished among them is accepted under the pen's majority, if it has one.

    Args:
        pen: Rows that it stamped in this epoch are left as they are.
        first: With the first write of an epoch the roster is written again in any case.

    Returns:
        The last seq that the node took, now or before.

    Raises:
        StaleEpoch: The roster was written in a later epoch.
    """
    for table, (count_sql, insert_sql) in RESTAMP.items():
        stamp = {"epoch": pen.epoch, "node": pen.node, "majority": int(pen.majority), "whole": pen.version > 1}
        (count,) = conn.execute(count_sql, stamp).fetchone()
        if count == 0:
            continue
        seq = take_seqs(conn, pen.node, count)
        before = conn.total_changes
        conn.execute(insert_sql, stamp | {"first": seq})
        _check_written(pen, conn.total_changes - before, [pen.epoch] * count, table)
    roster = read_roster(conn)
    if roster.writer and (first or _is_uncommitted(conn, pen, roster)):
        write_roster(conn, pen, replace(roster, version=roster.version + 1))
    return read_seq(conn, pen.node)


def _is_uncommitted(conn: Connection, pen: Pen, roster: Roster) -> bool:
    if (roster.writer, roster.epoch) == (pen.node, pen.epoch) or roster.epoch > pen.epoch:
        return False
    return roster.seq > read_committed(conn).get(roster.writer, 0)


# -- pulls -----------------------------------------------------------------------------------------------


def _tops(conn: Connection, table: str) -> list[tuple[str, int]]:
    return conn.execute(TOPS[table]).fetchall()


def _packed_beyond(conn: Connection, vector: Mapping[str, int], version: int) -> Iterator[bytes]:
    for table in TABLES:
        for writer, top in _tops(conn, table):
            if top > vector.get(writer, 0):
                yield from map(pack, conn.execute(BEYOND[version][table], (writer, vector.get(writer, 0))))


def rows_beyond(conn: Connection, vector: Mapping[str, int], frame_bytes: int, version: int = 2) -> Iterator[Rows]:
    """All rows with a stamp beyond this vector, in frames, as steps for `Database.stream`.

    All rows there are, as a full copy, for an asker that may lack tombstones that were dropped here. Its frames all
    carry the vector, and the first one is empty.

    Args:
        conn: On one snapshot until the last frame was taken.
        vector: What the asker holds.
        frame_bytes: No frame is larger, except one with a single row that is.
        version: The protocol version that the asker speaks.
    """
    mine, dropped = read_vector(conn), read_dropped(conn)
    full = quorum.is_stale(vector, dropped)
    name = mine if full else {}
    if full:
        yield Rows(rows=pack_frame([]), last=False, vector=name, committed={}, full=True, dropped=dropped)
    frame: list[bytes] = []
    size = 0
    for row in _packed_beyond(conn, {} if full else vector, version):
        if frame and size + len(row) > frame_bytes:
            yield Rows(rows=pack_frame(frame), last=False, vector=name, committed={}, full=full)
            frame, size = [], 0
        frame.append(row)
        size += len(row)
    yield Rows(
        rows=pack_frame(frame), last=True, vector=mine, committed=read_committed(conn), full=full, dropped=dropped
    )


def apply(conn: Connection, rows: Rows, pen: Pen | None, *, now_ms: int = 0, source: str = "") -> Applied:
    """Keeps the rows of one frame of a pull that are newer than what is here; with the last, takes the vectors over.

    Args:
        conn: In one transaction.
        rows: The frame.
        pen: A leader's, who stamps what it pulled and does not know committed; None for everybody else.
        now_ms: The wall clock, noted with what a full copy puts aside.
        source: The node that answered, noted with it too.

    Raises:
        Malformed: The frame can't be read; nothing was changed.
    """
    unpacked = unpack_frame(rows)
    if fullcopy.begins(rows):
        fullcopy.begin(conn, rows.vector)
    copy = fullcopy.under_way(conn)
    merged, applied = _merge(conn, unpacked, pen, copy is not None)
    held, done = 0, rows.last
    if rows.last and rows.full:
        # One that another copy overtook, or whose beginning is not known, vouches for nothing.
        done = fullcopy.is_of(copy, rows.vector)
        held = fullcopy.end(conn, rows.vector, now_ms, source) if done else 0
    if done:
        merge_committed(conn, rows.committed)
        merge_vector(conn, rows.vector)
        drop(conn, rows.dropped)
    if pen is not None and (merged or rows.last):
        restamp(conn, pen, first=False)
    return replace(
        applied,
        vector=read_vector(conn) if rows.last else {},
        committed=read_committed(conn) if rows.last else {},
        dropped=read_dropped(conn) if rows.last else {},
        full=rows.full and done,
        held=held,
    )


def _merge(conn: Connection, unpacked: Unpacked, pen: Pen | None, shown: bool) -> tuple[int, Applied]:
    """Merges rows, and all that follows from it for other rows; tells how many changed."""
    told = clashes.unknown(conn, unpacked.payloads)
    changed = upsert_payloads(conn, unpacked.payloads)
    here: dict[str, tuple[Any, ...]] = {}
    if unpacked.tasks:
        ids = as_json([row[0] for row in unpacked.tasks])
        select = f"SELECT id, {names(TASK_KEY)} FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
        here = {id_: tuple(key) for id_, *key in conn.execute(select, (ids,))}
    newer, other = [], []
    for row in unpacked.tasks:
        key, present = row[1:7], here.get(row[0])
        if present is None or key > present:
            newer.append(row)
        if present is not None and row[1] == present[0] == 1 and key != present:
            other.append(row)
    lost = _keep_lost(conn, pen, clashes.lost(conn, other)) if other else []
    changed += _upsert(conn, UPSERT_TASKS, newer)
    mine = {one.row[0] for one in lost}
    lost += clashes.told(conn, [row for row in told if row[0] not in mine])
    if shown:
        fullcopy.shown(conn, [row[0] for row in unpacked.tasks])
    values.delete_of(conn, [row[0] for row in newer if row[1] == 2])
    values.delete_checkpoints(conn, [row[0] for row in newer if row[_STATE] == State.DONE])
    values.delete_late(conn, [row[0] for row in unpacked.payloads])
    if any(row[0].startswith(values.REPORT_PREFIX) for row in unpacked.payloads):
        values.trim_reports(conn)
    roster = _upsert(conn, UPSERT_ROSTER, unpacked.roster)
    applied = Applied(
        changed=changed + roster, roster_changed=roster > 0, epoch=unpacked.epoch, vector={}, committed={},
        tasks=tuple(dict.fromkeys(row[0] for row in newer)),
        twice=len(lost), differed=sum(one.differs for one in lost),
    )  # fmt: skip
    return changed + roster, applied


def _keep_lost(conn: Connection, pen: Pen | None, lost: Sequence[clashes.Lost]) -> list[clashes.Lost]:
    """Keeps the outcomes that lost; those that were not here before.

    A leader stamps them itself, so that everybody gets them; without one they keep the stamp of the row that lost.
    """
    refs = as_json([one.row[0] for one in lost])
    known = {
        ref
        for (ref,) in conn.execute("SELECT ref FROM payloads WHERE ref IN (SELECT value FROM json_each(?))", (refs,))
    }
    new = [one for one in lost if one.row[0] not in known]
    if pen is None:
        upsert_payloads(conn, [one.row for one in lost])
    elif new:
        first = take_seqs(conn, pen.node, len(new))
        upsert_payloads(conn, [
            (ref, pen.epoch, version + 1, pen.node, seq, body)
            for seq, (ref, _, version, _, _, body) in enumerate((one.row for one in new), first)
        ])  # fmt: skip
    return new
