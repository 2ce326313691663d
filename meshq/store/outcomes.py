"""How runs end: outcomes that workers hand in, and runs that end without one. `queue` offers these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from meshq.core import task as moves
from meshq.core.requests import Outcome
from meshq.core.task import FINISHED, OPEN, State, Task
from meshq.errors import Malformed
from meshq.store.database import Connection
from meshq.store.feed import Pen, read_seq, write_payload, write_tasks
from meshq.store.reads import get_many
from meshq.store.rows import pack

OUTCOME_KINDS = frozenset({"done", "failed", "crashed", "released"})


@dataclass(frozen=True, slots=True)
class FinishDone:
    """What outcomes did.

    Args:
        dropped: Those that counted for nothing: task -> `finished`, `unknown` or `not the present claim`.
        finished: The tasks that are finished now.
    """

    dropped: dict[str, str]
    finished: tuple[str, ...]


def release(conn: Connection, pen: Pen, ids: Iterable[str]) -> int:
    """Ends the runs of these tasks without an outcome, so that they wait again; those that don't run stay as they are.

    Returns:
        The last seq written; 0 where nothing changed.
    """
    running = [task for task in _tasks(conn, ids) if task.state == State.RUNNING]
    return write_tasks(conn, pen, [moves.released(task) for task in running])


def count_losses(conn: Connection, pen: Pen, ids: Iterable[str], losses_max: int, now_ms: int) -> tuple[str, ...]:
    """Counts that a node was lost which ran these tasks; finished ones stay as they are.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        ids: The tasks.
        losses_max: The loss that ends a task as failed.
        now_ms: The wall clock.

    Returns:
        Those that are failed now.
    """
    counted = [moves.lost(task) for task in _tasks(conn, ids) if task.state in OPEN]
    write_tasks(conn, pen, counted)
    reason = f"given up: the node that ran it was lost {losses_max} times"
    given_up = [task for task in counted if task.losses >= losses_max]
    write_tasks(
        conn, pen, [moves.failed(task, _error_with(task.error, "NodeLost", reason), now_ms) for task in given_up]
    )
    return tuple(task.id for task in given_up)


def _tasks(conn: Connection, ids: Iterable[str]) -> list[Task]:
    ids = list(dict.fromkeys(ids))
    found = get_many(conn, ids)
    return [found[id_] for id_ in ids if id_ in found]


def finish(
    conn: Connection,
    pen: Pen,
    outcomes: Sequence[Outcome],
    present: Callable[[Task, Outcome], bool],
    *,
    worker: str,
    crashes_max: int,
    now_ms: int,
    inline_bytes_max: int,
) -> FinishDone:
    """Takes in how runs ended. A success counts while its task is open; all else only from the present claim.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        outcomes: In the order in which they came.
        present: Whether an outcome is of the claim that its task has now.
        worker: The node that ran them.
        crashes_max: How many deaths of the child end a task as failed.
        now_ms: The wall clock.
        inline_bytes_max: Larger results become rows of their own.

    Raises:
        Malformed: An outcome is of no known kind; nothing was changed.
    """
    for outcome in outcomes:
        if outcome.kind not in OUTCOME_KINDS:
            raise Malformed(f"task {outcome.task}: {outcome.kind!r} is no kind of outcome")
    tasks = get_many(conn, [outcome.task for outcome in outcomes])
    changed: dict[str, Task] = {}
    dropped: dict[str, str] = {}
    for outcome in outcomes:
        task = changed.get(outcome.task) or tasks.get(outcome.task)
        if task is None:
            dropped[outcome.task] = "unknown"
        elif task.state not in OPEN:
            dropped[outcome.task] = "finished"
        elif outcome.kind == "done":
            changed[task.id] = _succeeded(conn, pen, task, outcome, worker, now_ms, inline_bytes_max)
        elif task.state == State.RUNNING and present(task, outcome):
            changed[task.id] = _ended(task, outcome, crashes_max, now_ms)
        else:
            dropped[outcome.task] = "not the present claim"
    write_tasks(conn, pen, list(changed.values()))
    return FinishDone(dropped, tuple(task.id for task in changed.values() if task.state in FINISHED))


def _succeeded(
    conn: Connection, pen: Pen, task: Task, outcome: Outcome, worker: str, now_ms: int, inline_bytes_max: int
) -> Task:
    if outcome.result is None or len(outcome.result) <= inline_bytes_max:
        return moves.succeeded(task, worker, outcome.result, None, now_ms)
    # Two leaders may both finish a task, so the value is named after this write and not after the task alone.
    ref = f"{task.id}/result/{pen.node}.{read_seq(conn, pen.node) + 1}"
    write_payload(conn, pen, ref, outcome.result)
    return moves.succeeded(task, worker, None, ref, now_ms)


def _ended(task: Task, outcome: Outcome, crashes_max: int, now_ms: int) -> Task:
    if outcome.kind == "released":
        return moves.released(task)
    crashed = outcome.kind == "crashed"
    error = outcome.error if outcome.error is not None else _error_with(None, "Failed", "the run failed")
    again_ms = now_ms + moves.retry_delay_ms(task)
    if crashed and task.crashes + 1 >= crashes_max:
        reason = f"given up: the process that ran it died {crashes_max} times"
        return moves.failed(task, _error_with(outcome.error, "Crashed", reason), now_ms, crashed=True)
    if outcome.final or not (crashed or task.failures < task.retries):
        return moves.failed(task, error, now_ms, crashed=crashed, raised=not crashed)
    return moves.retried(task, again_ms, error, crashed=crashed)


def _error_with(error: bytes | None, type_: str, reason: str) -> bytes:
    known: Any = None
    if error is not None:
        try:
            known = msgspec.msgpack.decode(error)
        except msgspec.DecodeError:
            known = None  # a worker's own words, which can't be read: the reason stands alone
    if not isinstance(known, dict) or not isinstance(known.get("message"), str):
        return pack({"type": type_, "message": reason, "traceback": ""})
    return pack({**known, "message": f"{known['message']} ({reason})"})
