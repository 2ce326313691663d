"""Many tasks in few requests: which go together, and what to say of those that have no answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from meshq.core.ids import short

TASKS_PER_REQUEST: Final = 10_000
PAYLOAD_BYTES_PER_REQUEST: Final = 4 << 20

# A task as it stands in the body of a submit.
Form = dict[str, Any]


def batches(tasks: Sequence[Form]) -> Iterator[Sequence[Form]]:
    """The same tasks, cut into what one request may carry."""
    begin, size = 0, 0
    for index, form in enumerate(tasks):
        full = index - begin == TASKS_PER_REQUEST or size + len(form["payload"]) > PAYLOAD_BYTES_PER_REQUEST
        if full and index > begin:
            yield tasks[begin:index]
            begin, size = index, 0
        size += len(form["payload"])
    if begin < len(tasks):
        yield tasks[begin:]


def may_take(ids: Sequence[str]) -> str:
    """What to say of tasks (at least one) whose submit had no answer."""
    first = short(ids[0])
    if len(ids) == 1:
        return f"it may still take the task {first}; see: meshq result {first}"
    return f"it may still take these {len(ids)} tasks, {first} to {short(ids[-1])}; see: meshq tasks"
