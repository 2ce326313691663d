"""From the node's answers to what stands in a body: maps of natural values, nothing packed."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from typing import Any

import msgspec

from meshq.core.reports import Clash, Log, TaskStory, TaskView, TaskViews
from meshq.core.requests import Got, Job
from meshq.errors import Malformed, StoreError
from meshq.wire import values


def size_bytes(answer: Any) -> int:
    """How large the packed values in an answer are."""
    match answer:
        case TaskView() | Clash():
            return len(answer.result or b"") + len(answer.error or b"")
        case TaskViews():
            return sum(map(size_bytes, answer.tasks))
        case TaskStory():
            return sum(map(size_bytes, (answer.task, *answer.clashes)))
        case Got():
            return sum(len(run.payload) + len(run.checkpoint or b"") for run in answer.jobs)
        case Log():
            return len(answer.text)
    return 0


def plain(answer: Any, without: Collection[str] = (), *, as_text: bool = False) -> dict[str, Any]:
    """An answer as the map of its fields.

    Args:
        answer: Any.
        without: Fields of tasks in a list that are left out.
        as_text: Whether a log is shown as text, for who can't read bytes.

    Raises:
        StoreError: A value that was stored packed can't be read.
    """
    match answer:
        case TaskView():
            return task(answer)
        case TaskViews():
            tasks = [task(view) for view in answer.tasks]
            shown = [{name: value for name, value in each.items() if name not in without} for each in tasks]
            return {"tasks": shown, "next": answer.next}
        case TaskStory():
            return {
                "task": task(answer.task), "changes": msgspec.to_builtins(list(answer.changes)),
                "waits": answer.waits, "clashes": [clash(other) for other in answer.clashes],
            }  # fmt: skip
        case Got():
            return {"epoch": answer.epoch, "jobs": [job(run) for run in answer.jobs]}
        case Log():
            return log(answer, as_text=as_text)
    fields: dict[str, Any] = _listed(msgspec.to_builtins(answer))
    return fields


def task(view: TaskView) -> dict[str, Any]:
    """A task as people see it, the fields that matter most first."""
    fields: dict[str, Any] = _listed(msgspec.to_builtins(view, builtin_types=(bytes,)))
    first = {
        "id": view.id, "name": view.name, "state": view.state,
        "result": _unpacked(view.result, "result", view.id), "error": _unpacked(view.error, "error", view.id),
        "attempt": view.attempt, "retry_of": view.retry_of,
    }  # fmt: skip
    return first | {name: value for name, value in fields.items() if name not in first}


def clash(other: Clash) -> dict[str, Any]:
    """Another outcome of a task, with its values in place."""
    fields: dict[str, Any] = msgspec.to_builtins(other, builtin_types=(bytes,))
    return fields | {
        "result": _unpacked(other.result, "other result", other.task),
        "error": _unpacked(other.error, "other error", other.task),
    }


def job(run: Job) -> dict[str, Any]:
    """A run as the leader gives it out."""
    try:
        args, kwargs = values.unpack_arguments(run.payload)
    except Malformed as error:
        raise StoreError(f"the arguments of task {run.id} can't be read: {error}") from error
    return {
        "id": run.id, "name": run.name, "epoch": run.epoch, "attempt": run.attempt, "args": args, "kwargs": kwargs,
        "timeout_s": run.timeout_s, "checkpoint": run.checkpoint,
    }  # fmt: skip


def log(part: Log, *, as_text: bool) -> dict[str, Any]:
    """A part of what a task printed: bytes, or text, which ends with a whole character where it can."""
    fields: dict[str, Any] = msgspec.to_builtins(part, builtin_types=(bytes,))
    if not as_text:
        return fields
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(part.text)
    begun, _ = decoder.getstate()
    if not text:
        # A half character alone, to which nothing came: it is no character.
        return fields | {"text": decoder.decode(b"", final=True)}
    return fields | {"text": text, "next": part.next - len(begun)}


def _listed(fields: Any) -> Any:
    """Lists for the tuples of a message: those have a type of their own on the wire, which is for users' values."""
    if isinstance(fields, dict):
        return {name: _listed(value) for name, value in fields.items()}
    return [_listed(item) for item in fields] if isinstance(fields, (tuple, list)) else fields


def _unpacked(data: bytes | None, what: str, task_id: str) -> Any:
    if data is None:
        return None
    try:
        return values.unpack(data)
    except Malformed as error:
        raise StoreError(f"the {what} of task {task_id} can't be read: {error}") from error
