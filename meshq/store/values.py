"""The rows of `payloads` by name: whose they are, and which of them go. Plain functions of a connection.

A task's are named `TASK/args`, `TASK/result/...`, `TASK/checkpoint` and `TASK/clash/...`, the reports of merges
`merge/...`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from meshq.core.reports import MergeReport
from meshq.core.task import State
from meshq.store.database import Connection
from meshq.store.rows import UNREADABLE, as_json

REPORTS_MAX = 50
REPORT_PREFIX = "merge/"
CHECKPOINT = "/checkpoint"

_report_decoder = msgspec.msgpack.Decoder(MergeReport)


def checkpoint_ref(task: str) -> str:
    """The name of what a run of this task kept last, for the next one."""
    return f"{task}{CHECKPOINT}"


def body_of(conn: Connection, ref: str | None) -> bytes | None:
    """The value of this name; None where it is not here."""
    row = conn.execute("SELECT body FROM payloads WHERE ref = ?", (ref,)).fetchone()
    return bytes(row[0]) if row else None


def delete_of(conn: Connection, tasks: Iterable[str]) -> None:
    """Deletes all values of these tasks."""
    # "0" is what comes after "/".
    conn.executemany("DELETE FROM payloads WHERE ref > ? || '/' AND ref < ? || '0'", ((id_, id_) for id_ in tasks))


def delete_checkpoints(conn: Connection, tasks: Iterable[str]) -> None:
    """Deletes what runs of these tasks kept: no run comes after them."""
    refs = as_json(map(checkpoint_ref, tasks))
    conn.execute("DELETE FROM payloads WHERE ref IN (SELECT value FROM json_each(?))", (refs,))


def delete_late(conn: Connection, refs: Iterable[str]) -> None:
    """Deletes those of these values that came late: their task was purged meanwhile, or is done and needs no more."""
    tasks = {ref.partition("/")[0] for ref in refs}
    if tasks:
        states = conn.execute(
            "SELECT id, state FROM tasks WHERE id IN (SELECT value FROM json_each(?)) AND state IN ('purged', 'done')",
            (as_json(sorted(tasks)),),
        ).fetchall()
        delete_of(conn, [id_ for id_, state in states if state == State.PURGED])
        delete_checkpoints(conn, [id_ for id_, state in states if state == State.DONE])


def reports(conn: Connection) -> list[tuple[str, MergeReport]]:
    """The reports of merges with their names, newest first; one that can't be read is left out."""
    found: list[tuple[str, MergeReport]] = []
    for ref, body in conn.execute("SELECT ref, body FROM payloads WHERE ref > 'merge/' AND ref < 'merge0'"):
        try:
            found.append((ref, _report_decoder.decode(body)))
        except UNREADABLE:
            continue
    return sorted(found, key=lambda entry: (entry[1].at_ms, entry[0]), reverse=True)


def trim_reports(conn: Connection) -> None:
    """Keeps the newest REPORTS_MAX reports: every node comes to the same ones, in whatever order they come in."""
    old = [(ref,) for ref, _ in reports(conn)[REPORTS_MAX:]]
    conn.executemany("DELETE FROM payloads WHERE ref = ?", old)
