"""From what a task left in the cluster to what a future raises."""

from __future__ import annotations

import builtins
from typing import Any, Final

from meshq.client.record import Record
from meshq.errors import MeshqError, TaskFailed, UnknownTask
from meshq.tasks.call import Address

_MADE_BADLY: Final = (TypeError, ValueError, AttributeError)


class RemoteTraceback(Exception):
    """The cause of an exception that a function raised on another machine: where it did.

    Args:
        text: The traceback there.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


def exception_of(record: Record) -> Exception:
    """What to raise for a task that ended without a result: the built-in exception that it raised, else TaskFailed."""
    error = record.error or {}
    found = _built_in(str(error.get("type", "")), error.get("args"), str(error.get("message", "")))
    if found is None:
        found = TaskFailed(record.reason, error=record.error, task_id=record.id, state=record.state)
    if text := error.get("traceback"):
        found.__cause__ = RemoteTraceback(str(text))
    return found


def _built_in(name: str, args: Any, message: str) -> Exception | None:
    kind = vars(builtins).get(name)
    if not isinstance(kind, type) or not issubclass(kind, Exception):
        # SystemExit, too, ended the call there, and is not to end the program here.
        return None
    try:
        made = kind(*args) if isinstance(args, (tuple, list)) else kind(message)
    except _MADE_BADLY:
        return None
    return made


def refusal(error: MeshqError, where: Address | None) -> MeshqError:
    """What to raise for a call that the cluster did not take.

    Args:
        error: What it answered.
        where: The function that was to be called; None where it is a task.
    """
    if where is None or not isinstance(error, UnknownTask):
        return error
    return UnknownTask(
        f'no machine of the cluster lets {where} be called: write allow = ["{where.module}:*"] into the configuration '
        f'of those that shall run it (or allow = ["{where}"], for this function alone), and start them again'
    )
