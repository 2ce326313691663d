"""The feed of rows: every write with its stamp, the one upsert that never goes back, and pulls.

Plain functions of a connection, each called inside a transaction. Keys and vectors are those of PROTOCOL.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from meshq.core.membership import NOBODY, Roster
from meshq.core.messages import Rows
from meshq.core.task import COLUMNS, Task
from meshq.errors import InvariantBroken, StaleEpoch
from meshq.store.database import Connection
from meshq.store.rows import pack, pack_frame, pack_members, unpack_frame, unpack_members

PAYLOAD_COLUMNS = ("ref", "epoch", "version", "writer", "seq", "body")
ROSTER_COLUMNS = ("genesis", "members", "recovery", "epoch", "version", "writer", "seq")
TASK_KEY = ("rank", "majority", "epoch", "version", "writer", "seq")
PAYLOAD_KEY = ("epoch", "version", "writer", "seq")
ROSTER_KEY = ("recovery", "epoch", "version", "writer", "seq")
TABLES = ("payloads", "tasks", "roster")  # payloads first: a pull that breaks off leaves no task without its value


def _names(columns: Iterable[str], prefix: str = "") -> str:
    return ", ".join(prefix + column for column in columns)


def _conflict(table: str, on: str, changed: Sequence[str], key: Sequence[str]) -> str:
    return (
        f"ON CONFLICT ({on}) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in changed)}"
        f" WHERE ({_names(key, 'excluded.')}) > ({_names(key, table + '.')})"
    )


_TASK_CONFLICT = _conflict("tasks", "id", COLUMNS[1:], TASK_KEY)
_UPSERT_TASKS = f"INSERT INTO tasks ({_names(COLUMNS)}) VALUES ({_names('?' * len(COLUMNS))}) {_TASK_CONFLICT}"
_UPSERT_PAYLOADS = (
    f"INSERT INTO payloads ({_names(PAYLOAD_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)"
    f" {_conflict('payloads', 'ref', PAYLOAD_COLUMNS[1:], PAYLOAD_KEY)}"
)
_UPSERT_ROSTER = (
    f"INSERT INTO roster (one, {_names(ROSTER_COLUMNS)}) VALUES (1, ?, ?, ?, ?, ?, ?, ?)"
    f" {_conflict('roster', 'one', ROSTER_COLUMNS, ROSTER_KEY)}"
)


def _writers(table: str) -> str:
    # Steps from writer to writer along the index: as many look-ups as there are writers, however many rows.
    return (
        f"WITH RECURSIVE writers (writer) AS (SELECT min(writer) FROM {table} UNION ALL"
        f" SELECT (SELECT min(writer) FROM {table} WHERE writer > writers.writer)"
        " FROM writers WHERE writers.writer IS NOT NULL)"
    )


_TOPS = {
    table: f"{_writers(table)} SELECT writer, (SELECT max(seq) FROM {table} AS t WHERE t.writer = writers.writer)"
    " FROM writers WHERE writer IS NOT NULL"
    for table in TABLES
}
_BEYOND = {
    "tasks": f"SELECT 'task', {_names(COLUMNS)} FROM tasks WHERE writer = ? AND seq > ? ORDER BY seq",
    "payloads": f"SELECT 'payload', {_names(PAYLOAD_COLUMNS)} FROM payloads WHERE writer = ? AND seq > ? ORDER BY seq",
    "roster": f"SELECT 'roster', {_names(ROSTER_COLUMNS)} FROM roster WHERE writer = ? AND seq > ?",
}

# Rows that are not known committed and that this leader has not stamped in this epoch. One of a later epoch is left
# alone: its writer deposed us.
_UNCOMMITTED = """
  FROM writers CROSS JOIN {table} AS t
    ON t.writer = writers.writer
   AND t.seq > coalesce((SELECT seq FROM committed WHERE committed.writer = writers.writer), 0)
 WHERE t.epoch <= :epoch AND NOT (t.writer = :node AND t.epoch = :epoch)"""
_NUMBERED = ":first - 1 + row_number() OVER (ORDER BY t.epoch, t.writer, t.seq)"


def _restamp_sql(table: str, columns: Sequence[str], conflict: str, same: dict[str, str]) -> tuple[str, str]:
    values = {column: f"t.{column}" for column in columns}
    values |= {"epoch": ":epoch", "version": "t.version + 1", "writer": ":node", "seq": _NUMBERED} | same
    rows = _UNCOMMITTED.format(table=table)
    insert = f"INSERT INTO {table} ({_names(columns)}) SELECT {', '.join(values.values())} {rows} {conflict}"
    return f"{_writers(table)} SELECT count(*) {rows}", f"{_writers(table)} {insert}"


_RESTAMP = {
    # A payload's body stays where it is: only its stamp moves.
    "payloads": _restamp_sql(
        "payloads", PAYLOAD_COLUMNS, _conflict("payloads", "ref", PAYLOAD_KEY, PAYLOAD_KEY), {"body": "x''"}
    ),
    "tasks": _restamp_sql("tasks", COLUMNS, _TASK_CONFLICT, {}),
}
_MERGE = (
    "INSERT INTO {table} (writer, seq) VALUES (?, ?)"
    " ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq WHERE excluded.seq > {table}.seq"
)

_task_row = attrgetter(*COLUMNS)


@dataclass(frozen=True, slots=True)
class Pen:
    """As whom a leader writes.

    Args:
        node: Its id.
        epoch: The epoch that it leads.
        majority: Whether a majority is behind it; what is finished under it then is marked so.
    """

    node: str
    epoch: int
    majority: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """What a frame of pulled rows changed.

    Args:
        changed: How many rows were newer than what was here.
        roster_changed: Whether the roster is one of them.
        epoch: The highest epoch in the frame; beyond a leader's own it says that this leader was deposed.
        vector, committed: What holds now, after a last frame; empty before.
    """

    changed: int
    roster_changed: bool
    epoch: int
    vector: dict[str, int]
    committed: dict[str, int]


# -- vectors ---------------------------------------------------------------------------------------------


def read_vector(conn: Connection) -> dict[str, int]:
    """For each writer: this node holds every version up to there, or a later one."""
    return dict(conn.execute("SELECT writer, seq FROM vector ORDER BY writer"))


def read_committed(conn: Connection) -> dict[str, int]:
    """For each writer: every version up to there is known to be on a majority."""
    return dict(conn.execute("SELECT writer, seq FROM committed ORDER BY writer"))


def merge_committed(conn: Connection, committed: Mapping[str, int]) -> None:
    """Raises the committed vector to what this one says, where that is more."""
    conn.executemany(_MERGE.format(table="committed"), committed.items())


def read_seq(conn: Connection, node: str) -> int:
    """The last seq that this node took; 0 before the first."""
    row = conn.execute("SELECT seq FROM vector WHERE writer = ?", (node,)).fetchone()
    return int(row[0]) if row else 0


def take_seqs(conn: Connection, node: str, count: int) -> int:
    """Takes the node's next seqs, which are never given again, and returns the first."""
    last = read_seq(conn, node)
    if count:
        conn.execute(_MERGE.format(table="vector"), (node, last + count))
    return last + 1


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
    return _upsert(conn, _UPSERT_TASKS, map(_task_row, tasks))


def write_tasks(conn: Connection, pen: Pen, tasks: Sequence[Task]) -> int:
    """Writes new versions of tasks under the pen's stamp, and returns the last seq, or 0 for no tasks.

    Those that are finished get the mark of the majority, if one is behind the pen.

    Raises:
        StaleEpoch: A task was written in a later epoch.
        InvariantBroken: A version is not newer than what is here.
    """
    if not tasks:
        return 0
    first = take_seqs(conn, pen.node, len(tasks))
    rows = []
    for seq, task in enumerate(tasks, first):
        id_, rank, majority, _, version, _, _, *rest = _task_row(task)
        if rank == 1 and pen.majority:
            majority = 1
        rows.append((id_, rank, majority, pen.epoch, version, pen.node, seq, *rest))
    changed = _upsert(conn, _UPSERT_TASKS, rows)
    _check_written(pen, changed, [task.epoch for task in tasks], "tasks")
    return first + len(tasks) - 1


def upsert_payloads(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Keeps those of these payload rows, in PAYLOAD_COLUMNS, that are newer than what is here."""
    return _upsert(conn, _UPSERT_PAYLOADS, rows)


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


def read_roster(conn: Connection) -> Roster:
    """The roster that is here; membership.NOBODY where there is none."""
    row = conn.execute(f"SELECT {_names(ROSTER_COLUMNS)} FROM roster").fetchone()
    if row is None:
        return NOBODY
    values = dict(zip(ROSTER_COLUMNS, row, strict=True))
    return Roster(**values | {"members": unpack_members(values["members"])})


def upsert_roster(conn: Connection, roster: Roster) -> int:
    """Keeps the roster, stamped already, if it is newer than what is here; 1 if so."""
    row = (roster.genesis, pack_members(roster.members), *roster.key)
    return _upsert(conn, _UPSERT_ROSTER, [row])


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

    Args:
        pen: Rows that it stamped in this epoch are left as they are.
        first: With the first write of an epoch the roster is written again in any case.

    Returns:
        The last seq that the node took, now or before.

    Raises:
        StaleEpoch: The roster was written in a later epoch.
    """
    for table, (count_sql, insert_sql) in _RESTAMP.items():
        values = {"epoch": pen.epoch, "node": pen.node}
        (count,) = conn.execute(count_sql, values).fetchone()
        if count == 0:
            continue
        seq = take_seqs(conn, pen.node, count)
        before = conn.total_changes
        conn.execute(insert_sql, values | {"first": seq})
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
    return conn.execute(_TOPS[table]).fetchall()


def _packed_beyond(conn: Connection, vector: Mapping[str, int]) -> Iterator[bytes]:
    for table in TABLES:
        for writer, top in _tops(conn, table):
            if top > vector.get(writer, 0):
                yield from map(pack, conn.execute(_BEYOND[table], (writer, vector.get(writer, 0))))


def rows_beyond(conn: Connection, vector: Mapping[str, int], frame_bytes: int) -> Iterator[Rows]:
    """All rows with a stamp beyond this vector, in frames, as steps for `Database.stream`.

    Args:
        conn: On one snapshot until the last frame was taken.
        vector: What the asker holds.
        frame_bytes: No frame is larger, except one with a single row that is.
    """
    frame: list[bytes] = []
    size = 0
    for row in _packed_beyond(conn, vector):
        if frame and size + len(row) > frame_bytes:
            yield Rows(rows=pack_frame(frame), last=False, vector={}, committed={})
            frame, size = [], 0
        frame.append(row)
        size += len(row)
    yield Rows(rows=pack_frame(frame), last=True, vector=read_vector(conn), committed=read_committed(conn))


def apply(conn: Connection, rows: Rows, pen: Pen | None) -> Applied:
    """Keeps the rows of one frame of a pull that are newer than what is here; with the last, takes the vectors over.

    Args:
        conn: In one transaction.
        rows: The frame.
        pen: A leader's, who stamps what it pulled and does not know committed; None for everybody else.

    Raises:
        Malformed: The frame can't be read; nothing was changed.
    """
    unpacked = unpack_frame(rows)
    changed = upsert_payloads(conn, unpacked.payloads) + _upsert(conn, _UPSERT_TASKS, unpacked.tasks)
    roster = _upsert(conn, _UPSERT_ROSTER, unpacked.roster)
    if rows.last:
        merge_committed(conn, rows.committed)
        conn.executemany(_MERGE.format(table="vector"), rows.vector.items())
    if pen is not None and (changed + roster or rows.last):
        restamp(conn, pen, first=False)
    return Applied(
        changed=changed + roster,
        roster_changed=roster > 0,
        epoch=unpacked.epoch,
        vector=read_vector(conn) if rows.last else {},
        committed=read_committed(conn) if rows.last else {},
    )
