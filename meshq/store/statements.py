"""The statements of the feed, which are the same for several tables and are put together once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshq.core.limits import PRIORITY_MAX, TIME_MS_MAX
from meshq.core.task import ADDED, COLUMNS, PLAIN_STEP_S, Backoff

PAYLOAD_COLUMNS = ("ref", "epoch", "version", "writer", "seq", "body")
ROSTER_COLUMNS = (
    "genesis", "members", "recovery", "epoch", "version", "writer", "seq", "absorbed", "into_genesis",
)  # fmt: skip
TASK_KEY = ("rank", "majority", "epoch", "version", "writer", "seq")
PAYLOAD_KEY = ("epoch", "version", "writer", "seq")
ROSTER_KEY = ("recovery", "epoch", "version", "writer", "seq")
TABLES = ("payloads", "tasks", "roster")  # payloads first: a pull that breaks off leaves no task without its value


def names(columns: Iterable[str], prefix: str = "") -> str:
    """A list of columns."""
    return ", ".join(prefix + column for column in columns)


def _conflict(table: str, on: str, changed: Sequence[str], key: Sequence[str]) -> str:
    return (
        f"ON CONFLICT ({on}) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in changed)}"
        f" WHERE ({names(key, 'excluded.')}) > ({names(key, table + '.')})"
    )


_TASK_CONFLICT = _conflict("tasks", "id", COLUMNS[1:], TASK_KEY)
UPSERT_TASKS = f"INSERT INTO tasks ({names(COLUMNS)}) VALUES ({names('?' * len(COLUMNS))}) {_TASK_CONFLICT}"
UPSERT_PAYLOADS = (
    f"INSERT INTO payloads ({names(PAYLOAD_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)"
    f" {_conflict('payloads', 'ref', PAYLOAD_COLUMNS[1:], PAYLOAD_KEY)}"
)
UPSERT_ROSTER = (
    f"INSERT INTO roster (one, {names(ROSTER_COLUMNS)}) VALUES (1, {names('?' * len(ROSTER_COLUMNS))})"
    f" {_conflict('roster', 'one', ROSTER_COLUMNS, ROSTER_KEY)}"
)

# -- pulls -----------------------------------------------------------------------------------------------


def _writers(table: str) -> str:
    # Steps from writer to writer along the index: as many look-ups as there are writers, however many rows.
    return (
        f"WITH RECURSIVE writers (writer) AS (SELECT min(writer) FROM {table} UNION ALL"
        f" SELECT (SELECT min(writer) FROM {table} WHERE writer > writers.writer)"
        " FROM writers WHERE writers.writer IS NOT NULL)"
    )


TOPS = {
    table: f"{_writers(table)} SELECT writer, (SELECT max(seq) FROM {table} AS t WHERE t.writer = writers.writer)"
    " FROM writers WHERE writer IS NOT NULL"
    for table in TABLES
}


def _beyond(table: str, kind: str, columns: Sequence[str]) -> str:
    return f"SELECT '{kind}', {names(columns)} FROM {table} WHERE writer = ? AND seq > ? ORDER BY seq"


# By protocol version: the columns that version 2 added stand last, and version 1 would not know what to do with them.
BEYOND = {
    version: {
        "tasks": _beyond("tasks", "task", task_columns),
        "payloads": _beyond("payloads", "payload", PAYLOAD_COLUMNS),
        "roster": _beyond("roster", "roster", roster_columns),
    }
    for version, task_columns, roster_columns in (
        (
            1,
            tuple(column for column in COLUMNS if column not in ADDED),
            ROSTER_COLUMNS[: ROSTER_COLUMNS.index("absorbed")],
        ),
        (2, COLUMNS, ROSTER_COLUMNS),
    )
}

# -- re-stamping -----------------------------------------------------------------------------------------

# Rows that are not known committed and that this leader has not stamped in this epoch. One of a later epoch is left
# alone: its writer deposed us.
_UNCOMMITTED = """
  FROM writers CROSS JOIN {table} AS t
    ON t.writer = writers.writer
   AND t.seq > coalesce((SELECT seq FROM committed WHERE committed.writer = writers.writer), 0)
 WHERE t.epoch <= :epoch AND NOT (t.writer = :node AND t.epoch = :epoch)"""
_NUMBERED = ":first - 1 + row_number() OVER (ORDER BY t.epoch, t.writer, t.seq)"


def _restamp(table: str, columns: Sequence[str], conflict: str, same: dict[str, str]) -> tuple[str, str]:
    values = {column: f"t.{column}" for column in columns}
    values |= {"epoch": ":epoch", "version": "t.version + 1", "writer": ":node", "seq": _NUMBERED} | same
    rows = _UNCOMMITTED.format(table=table)
    insert = f"INSERT INTO {table} ({names(columns)}) SELECT {', '.join(values.values())} {rows} {conflict}"
    return f"{_writers(table)} SELECT count(*) {rows}", f"{_writers(table)} {insert}"


# As core.task.plain_order_ms.
_PLAIN_ORDER_MS = (
    f"max(-{TIME_MS_MAX}, min({TIME_MS_MAX},"
    f" t.submitted_ms - max(-{PRIORITY_MAX}, min({PRIORITY_MAX}, t.priority)) * {int(PLAIN_STEP_S * 1000)}))"
)
# The added columns as a node has them that version 1 told the others.
_UNTOLD = {
    "story": "x''", "owner": "''", "backoff": f"'{Backoff.EXPONENTIAL}'", "max_running": "0", "keep_s": "NULL",
    "order_ms": _PLAIN_ORDER_MS,
}  # fmt: skip
# For each table: how many rows there are to be written again, and how they are.
RESTAMP = {
    # A payload's body stays where it is: only its stamp moves.
    "payloads": _restamp(
        "payloads", PAYLOAD_COLUMNS, _conflict("payloads", "ref", PAYLOAD_KEY, PAYLOAD_KEY), {"body": "x''"}
    ),
    # An outcome that a majority's leader takes in is accepted under that majority from then on.
    "tasks": _restamp(
        "tasks", COLUMNS, _TASK_CONFLICT,
        {
            "majority": "CASE WHEN t.rank = 1 THEN max(t.majority, :majority) ELSE t.majority END",
            **{column: f"CASE WHEN :whole THEN t.{column} ELSE {untold} END" for column, untold in _UNTOLD.items()},
        },
    ),
}  # fmt: skip
