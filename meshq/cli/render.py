"""What the commands print: JSON for scripts, text for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from meshq.client.handle import Handle
from meshq.client.record import Record
from meshq.core.ids import short
from meshq.core.requests import Status
from meshq.core.task import State
from meshq.wire import values

SHOWN_STATES = (State.PENDING, State.RUNNING, State.DONE, State.FAILED, State.CANCELLED)


def submitted_json(handles: Sequence[Handle]) -> str:
    """`submit --json`: of several answers, the least safe one counts."""
    copies, majority, queued = safety(handles)
    return values.dumps(
        {"ids": [handle.id for handle in handles], "copies": copies, "majority": majority, "queued": queued}
    )


def record_json(record: Record, *, with_result: bool = True) -> str:
    """`result --json`, and without the result a line of `tasks --json`."""
    shown: dict[str, Any] = {"id": record.id, "name": record.name, "state": record.state}
    if with_result:
        shown["result"] = values.to_json(record.result)
    shown |= {"error": values.to_json(record.error), "attempt": record.attempt, "retry_of": record.retry_of}
    return values.dumps(shown)


def status_json(status: Status) -> str:
    """`status --json`."""
    nodes = [
        {
            "id": node.id, "name": node.name, "role": node.role, "address": node.address, "heard_s": node.heard_s,
            "slots": node.slots, "running": node.running, "behind": node.behind,
        }
        for node in status.nodes
    ]  # fmt: skip
    return json.dumps(
        {
            "node": status.node, "leader": status.leader, "epoch": status.epoch, "majority": status.majority,
            "nodes": nodes, "tasks": {state.value: status.tasks.get(state, 0) for state in SHOWN_STATES},
        }
    )  # fmt: skip


def safety(handles: Sequence[Handle]) -> tuple[int, bool, bool]:
    """On how many disks the least safe of them is, whether all are on a majority, whether one waits for a leader."""
    return (
        min((handle.copies for handle in handles), default=0),
        all(handle.majority for handle in handles),
        any(handle.queued for handle in handles),
    )


def safety_text(handles: Sequence[Handle]) -> str:
    """The same for people."""
    copies, majority, queued = safety(handles)
    if queued:
        return "kept on this machine's disk; delivered when a leader is found"
    disks = "1 disk" if copies == 1 else f"{copies} disks"
    return f"kept on {disks} (majority)" if majority else f"kept on {disks}, without a majority"


def record_text(record: Record, *, with_reason: bool = True) -> str:
    """A task for people: a line, and what came out of it."""
    attempts = "not started yet" if record.attempt == 0 else f"attempt {record.attempt}"
    waits = "; waits on this machine's disk for a leader" if record.queued else ""
    lines = [f"{short(record.id)}  {line(record.name)}: {record.state} ({attempts}){waits}"]
    if record.state == State.DONE:
        lines.append(values.dumps(values.to_json(record.result)))
    elif record.finished and with_reason:
        lines.append(line(record.reason))
    return "\n".join(lines)


def line(text: str) -> str:
    """The text on one line, without what would move a terminal's cursor."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def duration(seconds: float) -> str:
    """A length of time in at most five characters."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    for size, unit in ((1, "s"), (60, "m"), (3600, "h"), (86400, "d")):
        if seconds / size < 99.5 or unit == "d":
            return f"{seconds / size:.0f} {unit}"
    raise AssertionError("unreachable")


def count(number: int) -> str:
    """A count in at most six characters."""
    if number < 1_000_000:
        return str(number)
    return f"{number / 1e6:.1f}M" if number < 999_950_000 else f"{number / 1e9:.1f}G"
