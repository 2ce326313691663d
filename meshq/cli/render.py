"""What the commands print: JSON for scripts, text for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from meshq.client.handle import Handle
from meshq.client.record import Record, Story
from meshq.core.ids import short
from meshq.core.reports import ClusterStory, MergeReport, NodeView, Standpoint, Status
from meshq.core.task import State
from meshq.core.texts import printable
from meshq.wire import values

WIDTH = 80
HANDLES_SHOWN_MAX = 10
NO_MAJORITY = "without a majority: another outcome may replace it"
SHOWN_STATES = (State.PENDING, State.RUNNING, State.DONE, State.FAILED, State.CANCELLED)


def submitted_json(handles: Sequence[Handle]) -> str:
    """`submit --json`: of several answers, the least safe one counts."""
    copies, majority, queued = safety(handles)
    return values.dumps(
        {"ids": [handle.id for handle in handles], "copies": copies, "majority": majority, "queued": queued}
    )


def record_json(record: Record, *, with_result: bool = True) -> str:
    """`result --json`, and without the result a line of `tasks --json`."""
    return values.dumps(record_map(record, with_result=with_result))


def record_map(record: Record, *, with_result: bool = True) -> dict[str, Any]:
    """The same, not written yet."""
    shown: dict[str, Any] = {"id": record.id, "name": record.name, "state": record.state}
    if with_result:
        shown["result"] = values.to_json(record.result)
    return shown | {
        "error": values.to_json(record.error), "attempt": record.attempt, "retry_of": record.retry_of,
        "owner": record.owner, "majority": record.majority, "batch": record.batch, "progress": record.progress,
        "ending": record.ending,
    }  # fmt: skip


def story_json(story: Story) -> str:
    """`explain ID --json`: the task as `result --json` has it, its changes and the outcomes that do not stand."""
    clashes = [
        asdict(clash) | {"result": values.to_json(clash.result), "error": values.to_json(clash.error)}
        for clash in story.clashes
    ]
    changes = [asdict(change) for change in story.changes]
    return values.dumps(record_map(story.task) | {"waits": story.waits, "changes": changes, "clashes": clashes})


def cluster_story_json(story: ClusterStory) -> str:
    """`explain --json`."""
    return json.dumps(asdict(story))


def status_json(status: Status) -> str:
    """`status --json`."""
    nodes = [
        {
            "id": node.id, "name": node.name, "role": node.role, "address": node.address, "heard_s": node.heard_s,
            "slots": node.slots, "running": node.running, "behind": node.behind, "paused": node.paused,
            "drained": node.drained,
        }
        for node in status.nodes
    ]  # fmt: skip
    return json.dumps(
        {
            "node": status.node, "leader": status.leader, "epoch": status.epoch, "majority": status.majority,
            "copies": status.copies, "split": status.split, "missing": list(status.missing),
            "nodes": nodes, "tasks": {state.value: status.tasks.get(state, 0) for state in SHOWN_STATES},
            "merge": None if status.merge is None else asdict(status.merge), "insecure": status.insecure,
        }
    )  # fmt: skip


def submitted_text(handles: Sequence[Handle]) -> str:
    """What was submitted, for people: the first ids, and how safe they are."""
    lines = [f"{short(handle.id)}  {handle.id}" for handle in handles[:HANDLES_SHOWN_MAX]]
    if len(handles) > HANDLES_SHOWN_MAX:
        lines.append(f"and {len(handles) - HANDLES_SHOWN_MAX} more (--json prints all)")
    return "\n".join([*lines, safety_text(handles)])


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
    if not majority:
        return f"kept on {copies_text(copies)}, without a majority"
    return f"kept on {'1 disk' if copies == 1 else f'{copies} disks'} (majority)"


def copies_text(copies: int) -> str:
    """On how many machines something is."""
    return "1 copy" if copies == 1 else f"{copies} copies"


def tasks_text(tasks: int) -> str:
    """A number of tasks."""
    return "1 task" if tasks == 1 else f"{tasks} tasks"


def node_names(nodes: Iterable[NodeView | Standpoint]) -> dict[str, str]:
    """What nodes are called, by their ids."""
    return {node.id if isinstance(node, NodeView) else node.node: line(node.name) for node in nodes}


def node_text(node: str, names: Mapping[str, str]) -> str:
    """A node by its name, as far as it is known, and its id."""
    return f"{names.get(node) or '?'} {short(node)}"


def nodes_text(nodes: Iterable[str], names: Mapping[str, str]) -> str:
    """Several of them."""
    return ", ".join(node_text(node, names) for node in nodes)


def held(status: Status) -> int:
    """How many tasks this copy, or that of the leader who was asked, holds."""
    return sum(status.tasks.get(state, 0) for state in SHOWN_STATES)


def missing_text(status: Status, names: Mapping[str, str]) -> str:
    """The machines that are waited for, and when each was heard last."""
    heard_s = {node.id: node.heard_s for node in status.nodes}
    return ", ".join(f"{node_text(node, names)} ({_ago(heard_s.get(node))})" for node in status.missing)


def _ago(heard_s: float | None) -> str:
    return "never heard" if heard_s is None else f"heard {duration(heard_s)} ago"


def merge_text(merge: MergeReport, names: Mapping[str, str]) -> str:
    """What came home when two parts of the cluster met again."""
    text = f"merged {tasks_text(merge.merged)} from {names.get(merge.node) or short(merge.node)}"
    text += f", {merge.twice} ran twice"
    if merge.twice:
        text += f", {merge.differed} of them differently"
    return f"{text}, 0 lost" if not merge.held else f"{text}, {merge.held} too old to be judged and put aside"


def record_head(record: Record) -> str:
    """A task for people, in a line; without what came out of it."""
    attempts = "not started yet" if record.attempt == 0 else f"attempt {record.attempt}"
    waits = "; waits on this machine's disk for a leader" if record.queued else ""
    ending = "; its run has not ended yet" if record.ending else ""
    return f"{short(record.id)}  {line(record.name)}: {record.state} ({attempts}){waits}{ending}{_progress(record)}"


def _progress(record: Record) -> str:
    if record.progress is None:
        return ""
    done, total, note = record.progress
    known = f"{done:.15g} of {total:.15g}" if total else f"{done:.15g}"
    return f"; {known} {line(note)}".rstrip()


def share(record: Record) -> str:
    """How much of a run is done, in at most four characters; empty where it does not say."""
    done, total, _ = record.progress or (0.0, 0.0, "")
    return f"{max(0.0, min(1.0, done / total)):.0%}" if total > 0 else ""


def record_text(record: Record, *, with_reason: bool = True) -> str:
    """A task for people: a line, another where it may change, and what came out of it."""
    lines = [record_head(record)]
    if record.finished and not record.majority:
        lines.append(f"({NO_MAJORITY})")
    if record.state == State.DONE:
        lines.append(values.dumps(values.to_json(record.result)))
    elif record.finished and with_reason:
        lines.append(line(record.reason))
    return "\n".join(lines)


def line(text: str) -> str:
    """The text on one line, without what would move a terminal's cursor."""
    return " ".join(printable(text).split())


def paragraph(text: str) -> str:
    """A text of several lines, none longer than a terminal is wide."""
    return click.wrap_text(line(text), WIDTH)


def size(size_bytes: int) -> str:
    """A size of a file."""
    for limit, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= limit:
            return f"{size_bytes / limit:.1f} {unit}"
    return f"{size_bytes} bytes"


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
