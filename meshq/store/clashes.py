"""Tasks that ran twice: the outcome that lost is kept as a value, which is copied like any other.

Every node that meets both outcomes makes the same value, named after the run, so nobody needs to be told. A value
that was made for a run that stands in the end is passed over when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from meshq.core.reports import Clash
from meshq.core.task import COLUMNS
from meshq.store.database import Connection
from meshq.store.rows import UNREADABLE, as_json, pack
from meshq.store.values import body_of


class Run(msgspec.Struct, array_like=True, frozen=True):
    """An outcome of a task, as it is packed."""

    state: str
    worker: str | None
    attempt: int
    result: bytes | None
    result_ref: str | None
    error: bytes | None
    epoch: int
    finished_ms: int | None


@dataclass(frozen=True, slots=True)
class Lost:
    """An outcome that lost: the value that keeps it, and whether it differs from the one that won."""

    task: str
    row: tuple[Any, ...]
    differs: bool


CLASH = "/clash/"  # between the task's id and the run's digest, in the name of such a value
_PLACES = [COLUMNS.index(field) for field in Run.__struct_fields__]
_FIELDS = ", ".join(Run.__struct_fields__)
_KEY = slice(COLUMNS.index("rank"), COLUMNS.index("seq") + 1)  # as core.task.progress_key has it
_STAMP = [COLUMNS.index(column) for column in ("epoch", "version", "writer", "seq")]
_decoder = msgspec.msgpack.Decoder(Run)


def _run(row: Sequence[Any]) -> Run:
    return Run(*[row[place] for place in _PLACES])


def _outcome(conn: Connection, run: Run) -> tuple[str, bytes | None, bytes | None]:
    """What people are shown of a run: its state, result and error."""
    result = run.result if run.result_ref is None else body_of(conn, run.result_ref)
    return run.state, result, run.error


def _are_one(conn: Connection, run: Run, other: Run) -> bool:
    """Whether two rows tell of one run: two leaders may have taken in the same outcome, each at its own time."""
    if (run.worker, run.attempt) != (other.worker, other.attempt):
        return False
    return _outcome(conn, run) == _outcome(conn, other)


def lost(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> list[Lost]:
    """The outcomes that lose, where these finished tasks meet others that are here.

    Args:
        conn: Before the rows are merged.
        rows: Finished tasks, in COLUMNS, that are finished here too.
    """
    ids = as_json([row[0] for row in rows])
    select = f"SELECT {', '.join(COLUMNS)} FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
    here = {row[0]: row for row in conn.execute(select, (ids,))}
    found: list[Lost] = []
    for row in rows:
        loser, winner = sorted((row, here[row[0]]), key=lambda version: version[_KEY])
        run, other = _run(loser), _run(winner)
        if not _are_one(conn, run, other):
            name = hashlib.sha256(pack((run.state, run.worker, run.attempt, run.result, run.result_ref, run.error)))
            ref = f"{row[0]}{CLASH}{name.hexdigest()[:16]}"
            value = (ref, *[loser[place] for place in _STAMP], pack(run))
            found.append(Lost(row[0], value, _outcome(conn, run) != _outcome(conn, other)))
    return found


def unknown(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Those of these values that keep outcomes that lost, and that are not here yet."""
    told = [row for row in rows if CLASH in row[0]]
    if not told:
        return []
    refs = as_json([row[0] for row in told])
    select = "SELECT ref FROM payloads WHERE ref IN (SELECT value FROM json_each(?))"
    here = {ref for (ref,) in conn.execute(select, (refs,))}
    return [row for row in told if row[0] not in here]


def told(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> list[Lost]:
    """What another node kept, since it met both outcomes first: those that lost against what stands here.

    Args:
        conn: After the rows were merged.
        rows: Values that were `unknown` before.
    """
    found: list[Lost] = []
    for row in rows:
        task = row[0].split(CLASH)[0]
        stands = conn.execute(f"SELECT {_FIELDS} FROM tasks WHERE id = ? AND rank = 1", (task,)).fetchone()
        run = _read(row[-1])
        if stands is not None and run is not None and not _are_one(conn, run, Run(*stands)):
            found.append(Lost(task, row, _outcome(conn, run) != _outcome(conn, Run(*stands))))
    return found


def _read(body: bytes) -> Run | None:
    try:
        return _decoder.decode(body)
    except UNREADABLE:
        return None


def clashes(conn: Connection, task: str) -> tuple[Clash, ...]:
    """The outcomes of a task that lost, by the time at which they finished."""
    row = conn.execute(f"SELECT {_FIELDS} FROM tasks WHERE id = ? AND rank = 1", (task,)).fetchone()
    if row is None:
        return ()
    stands = Run(*row)
    known, found = [stands], []
    for (body,) in conn.execute(
        "SELECT body FROM payloads WHERE ref > ? || '/clash/' AND ref < ? || '/clash0'", (task, task)
    ).fetchall():
        run = _read(body)
        if run is not None and not any(_are_one(conn, run, other) for other in known):
            known.append(run)
            _, result, error = _outcome(conn, run)
            found.append(Clash(
                task=task, state=run.state, worker=run.worker, epoch=run.epoch, result=result, error=error,
                finished_ms=run.finished_ms, differs=_outcome(conn, run) != _outcome(conn, stands),
            ))  # fmt: skip
    return tuple(sorted(found, key=lambda clash: (clash.finished_ms or 0, clash.worker or "", clash.epoch)))
