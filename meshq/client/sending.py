"""Many tasks in few requests: which go together, and what to say of those that have no answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from meshq.core.ids import short
from meshq.core.limits import BATCH_TASKS_MAX

TASKS_PER_REQUEST: Final = BATCH_TASKS_MAX
PAYLOAD_BYTES_PER_REQUEST: Final = 4 << 20

# A slow iterable is not waited for longer than this before what it gave is submitted.
PULL_S: Final = 0.1
# How many tasks a daemon keeps in a second at the least, so that a large submit is not taken for a daemon that hangs.
KEPT_PER_S: Final = 2000

T = TypeVar("T")
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


def pulled(items: Iterator[T], clock: Callable[[], float]) -> list[T]:
    """What goes into the next request: what the iterator gives in a short time, at least one; none where it is over.

    Args:
        items: Is read as far as that.
        clock: Seconds, from any beginning.
    """
    end_s, found = clock() + PULL_S, list[T]()
    for item in items:
        found.append(item)
        if len(found) == TASKS_PER_REQUEST or clock() >= end_s:
            break
    return found
