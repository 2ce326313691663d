"""From the node's answers to what stands in a body: maps of natural values, nothing packed."""

from __future__ import annotations

from typing import Any

import msgspec

from meshq.core.requests import Got, Job, TaskView, TaskViews
from meshq.errors import Malformed, StoreError
from meshq.wire import values


def plain(answer: Any) -> dict[str, Any]:
    """An answer as the map of its fields.

    Raises:
        StoreError: A value that was stored packed can't be read.
    """
    match answer:
        case TaskView():
            return task(answer)
        case TaskViews():
            return {"tasks": [task(view) for view in answer.tasks], "next": answer.next}
        case Got():
            return {"epoch": answer.epoch, "jobs": [job(run) for run in answer.jobs]}
    fields: dict[str, Any] = _listed(msgspec.to_builtins(answer))
    return fields


def task(view: TaskView) -> dict[str, Any]:
    """A task as people see it, the fields that matter most first."""
    fields: dict[str, Any] = msgspec.to_builtins(view, builtin_types=(bytes,))
    first = {
        "id": view.id, "name": view.name, "state": view.state,
        "result": _unpacked(view.result, "result", view.id), "error": _unpacked(view.error, "error", view.id),
        "attempt": view.attempt, "retry_of": view.retry_of,
    }  # fmt: skip
    return first | {name: value for name, value in fields.items() if name not in first}


def job(run: Job) -> dict[str, Any]:
    """A run as the leader gives it out."""
    try:
        args, kwargs = values.unpack_arguments(run.payload)
    except Malformed as error:
        raise StoreError(f"the arguments of task {run.id} can't be read: {error}") from error
    return {
        "id": run.id, "name": run.name, "epoch": run.epoch, "attempt": run.attempt, "args": args, "kwargs": kwargs,
        "timeout_s": run.timeout_s,
    }  # fmt: skip


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
