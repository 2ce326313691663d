"""How runs end: outcomes that workers hand in, and runs that end without one. `queue` offers these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from meshq.core import task as moves
from meshq.core.ids import short
from meshq.core.limits import CHECKPOINT_BYTES_MAX
from meshq.core.requests import Outcome
from meshq.core.task import FINISHED, OPEN, State, Task
from meshq.errors import Malformed
from meshq.store import stories, values
from meshq.store.database import Connection
from meshq.store.feed import Pen, read_seq, write_payload, write_tasks
from meshq.store.reads import get_many
from meshq.store.rows import UNREADABLE, pack

OUTCOME_KINDS = frozenset({"done", "failed", "crashed", "released", "kept"})
CHILD_DIED = "child died"  # how the causes of crashes begin


@dataclass(frozen=True, slots=True)
class FinishDone:
    """What outcomes did.

    Args:
        dropped: Those that counted for nothing: task -> `finished`, `unknown` or `not the present claim`.
        finished: The tasks that are finished now.
    """

    dropped: dict[str, str]
    finished: tuple[str, ...]


def release(conn: Connection, pen: Pen, ids: Iterable[str], now_ms: int = 0, cause: str = "released") -> int:
    """Ends the runs of these tasks without an outcome, so that they wait again; those that don't run stay as they are.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        ids: The tasks.
        now_ms: The wall clock.
        cause: Why, for their stories.

    Returns:
        The last seq written; 0 where nothing changed.
    """
    running = [task for task in _tasks(conn, ids) if task.state == State.RUNNING]
    return write_tasks(conn, pen, [moves.released(task, now_ms, cause) for task in running])


def count_losses(
    conn: Connection, pen: Pen, ids: Iterable[str], losses_max: int, now_ms: int, worker: str = ""
) -> tuple[str, ...]:
    """Counts that a node was lost which ran these tasks; finished ones stay as they are.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        ids: The tasks.
        losses_max: The loss that ends a task as failed.
        now_ms: The wall clock.
        worker: The node that was lost, for their stories.

    Returns:
        Those that are failed now.
    """
    counted: list[Task] = []
    for task in _tasks(conn, ids):
        if task.state in OPEN:
            lost = worker or task.worker
            cause = f"worker {short(lost)} lost" if lost else "its worker was lost"
            task = moves.lost(task, now_ms, f"{cause}, {task.losses + 1} of at most {losses_max - 1}")
            if task.losses >= losses_max:
                where = _nodes_of(task, moves.Move.LOSE, lost)
                reason = f"given up: the node that ran it was lost {task.losses} times{where}; {_by_hand(task)}"
                task = moves.failed(task, _error_with(task.error, "NodeLost", reason), now_ms, "too many losses")
            counted.append(task)
    write_tasks(conn, pen, counted)
    return tuple(task.id for task in counted if task.state == State.FAILED)


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
    chance: Callable[[], float],
) -> FinishDone:
    """Takes in how runs ended, and what they kept on their way.

    A success counts while its task is open; all else only from the present claim.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        outcomes: In the order in which they came.
        present: Whether an outcome is of the claim that its task has now.
        worker: The node that ran them.
        crashes_max: How many deaths of the child end a task as failed.
        now_ms: The wall clock.
        inline_bytes_max: Larger results become rows of their own.
        chance: Random numbers in [0, 1), for the waits before retries.

    Raises:
        Malformed: An outcome is of no known kind, or what it kept is missing or too large; nothing was changed.
    """
    for outcome in outcomes:
        _check(outcome)
    tasks = get_many(conn, [outcome.task for outcome in outcomes])
    changed: dict[str, Task] = {}
    dropped: dict[str, str] = {}
    kept: dict[str, bytes] = {}
    for outcome in outcomes:
        task = changed.get(outcome.task) or tasks.get(outcome.task)
        reason = "unknown" if task is None else _why_dropped(task, outcome, present)
        if task is not None and not reason:
            if outcome.kind == "kept":
                kept[task.id] = outcome.checkpoint or b""
            elif outcome.kind == "done":
                changed[task.id] = _succeeded(conn, pen, task, outcome, worker, now_ms, inline_bytes_max)
            else:
                changed[task.id] = _ended(task, outcome, crashes_max, now_ms, chance)
        # How a run ended says what became of its outcomes, and not what it kept on its way.
        if outcome.kind != "kept" or outcome.task not in changed:
            dropped.pop(outcome.task, None)
            if reason:
                dropped[outcome.task] = reason
    write_tasks(conn, pen, list(changed.values()))
    done = [task.id for task in changed.values() if task.state == State.DONE]
    for id_, checkpoint in kept.items():
        if id_ not in done:
            write_payload(conn, pen, values.checkpoint_ref(id_), checkpoint)
    values.delete_checkpoints(conn, done)
    return FinishDone(dropped, tuple(task.id for task in changed.values() if task.state in FINISHED))


def _check(outcome: Outcome) -> None:
    if outcome.kind not in OUTCOME_KINDS:
        raise Malformed(f"task {outcome.task}: {outcome.kind!r} is no kind of outcome")
    if outcome.kind != "kept":
        return
    if outcome.checkpoint is None:
        raise Malformed(f"task {outcome.task}: an outcome of the kind kept has to bring a checkpoint")
    if len(outcome.checkpoint) > CHECKPOINT_BYTES_MAX:
        size = len(outcome.checkpoint)
        raise Malformed(f"task {outcome.task}: a checkpoint of {size} bytes; at most {CHECKPOINT_BYTES_MAX} are kept")


def _why_dropped(task: Task, outcome: Outcome, present: Callable[[Task, Outcome], bool]) -> str:
    """Why an outcome counts for nothing; empty where it counts."""
    if task.state not in OPEN:
        return "finished"
    if outcome.kind == "done":
        return ""
    return "" if task.state == State.RUNNING and present(task, outcome) else "not the present claim"


def _succeeded(
    conn: Connection, pen: Pen, task: Task, outcome: Outcome, worker: str, now_ms: int, inline_bytes_max: int
) -> Task:
    if outcome.result is None or len(outcome.result) <= inline_bytes_max:
        return moves.succeeded(task, worker, outcome.result, None, now_ms, _cause_of_success(task, worker))
    # Two leaders may both finish a task, so the value is named after this write and not after the task alone.
    ref = f"{task.id}/result/{pen.node}.{read_seq(conn, pen.node) + 1}"
    write_payload(conn, pen, ref, outcome.result)
    return moves.succeeded(task, worker, None, ref, now_ms, _cause_of_success(task, worker))


def _cause_of_success(task: Task, worker: str) -> str:
    return "succeeded" if task.worker == worker else "succeeded; another worker's claim stood"


def _ended(task: Task, outcome: Outcome, crashes_max: int, now_ms: int, chance: Callable[[], float]) -> Task:
    if outcome.kind == "released":
        return moves.released(task, now_ms, "released by a drain")
    if outcome.kind == "crashed":
        return _crashed(task, outcome, crashes_max, now_ms, chance)
    error = outcome.error if outcome.error is not None else _error_with(None, "Failed", "the run failed")
    raised = f"raised {_type_of(error)}"
    if outcome.final or task.failures >= task.retries:
        why = "that is final" if outcome.final else "retries used up" if task.retries else "no retries"
        return moves.failed(task, error, now_ms, f"{raised}, {why}", raised=True)
    wait_ms = moves.retry_delay_ms(task, chance())
    cause = f"{raised}, retry {task.failures + 1} of {task.retries} in {wait_ms / 1000:g} s"
    return moves.retried(task, now_ms + wait_ms, error, now_ms, cause)


def _crashed(task: Task, outcome: Outcome, crashes_max: int, now_ms: int, chance: Callable[[], float]) -> Task:
    crashes = task.crashes + 1
    if crashes >= crashes_max:
        where = _nodes_of(task, moves.Move.RETRY, task.worker, CHILD_DIED)
        reason = f"given up: the process that ran it died {crashes} times{where}; {_by_hand(task)}"
        error = _error_with(outcome.error, "Crashed", reason)
        return moves.failed(task, error, now_ms, f"child died {crashes} times", crashed=True)
    error = outcome.error if outcome.error is not None else _error_with(None, "Failed", "the run failed")
    if outcome.final:
        return moves.failed(task, error, now_ms, "child died, that is final", crashed=True)
    wait_ms = moves.retry_delay_ms(task, chance())
    cause = f"{CHILD_DIED}, {crashes} of at most {crashes_max - 1} times, again in {wait_ms / 1000:g} s"
    return moves.retried(task, now_ms + wait_ms, error, now_ms, cause, crashed=True)


def _nodes_of(task: Task, move: moves.Move, last: str | None, cause: str = "") -> str:
    """Where this happened to a task, by its story and the last time, for people; empty where it is not known."""
    told = [
        change.worker for change in stories.read(task.story) if change.move == move and change.cause.startswith(cause)
    ]
    nodes = dict.fromkeys(short(node) for node in (*told, last) if node)
    return f", on {', '.join(nodes)}" if nodes else ""


def _by_hand(task: Task) -> str:
    return f"run it again with: meshq retry {task.id}"


def _fields_of(error: bytes | None) -> dict[str, Any]:
    """What an error says of itself; nothing where it can't be read, for it is a worker's own words."""
    try:
        fields = None if error is None else msgspec.msgpack.decode(error)
    except UNREADABLE:
        fields = None
    return fields if isinstance(fields, dict) else {}


def _type_of(error: bytes) -> str:
    type_ = _fields_of(error).get("type")
    return type_[:80] if isinstance(type_, str) and type_ else "an error"


def _error_with(error: bytes | None, type_: str, reason: str) -> bytes:
    known = _fields_of(error)
    if not isinstance(known.get("message"), str):
        return pack({"type": type_, "message": reason, "traceback": ""})
    return pack({**known, "message": f"{known['message']} ({reason})"})
