"""Tables for people, 80 columns wide whatever the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from meshq.cli.render import SHOWN_STATES, count, duration, line
from meshq.client.record import Record
from meshq.core.ids import short
from meshq.core.requests import NodeView, Status
from meshq.core.task import State

WIDTH = 80


class _Console(Console):
    """Rich would exit with 1 where the reader went away; that is for the command to decide."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


_COLOURS: dict[str, str] = {State.RUNNING: "cyan", State.DONE: "green", State.FAILED: "red", State.CANCELLED: "yellow"}


def console(*, stderr: bool = False) -> Console:
    """A console of this width. Colours only on a terminal, and never with NO_COLOR."""
    return _Console(width=WIDTH, stderr=stderr, highlight=False, emoji=False, markup=False, soft_wrap=False)


def tasks_table(records: Iterable[Record]) -> Table:
    """Tasks, one a line."""
    table = _table(("ID", 8), ("NAME", 26), ("STATE", 9), (">TRY", 4), ("WORKER", 8), (">AGE", 6), (">TOOK", 7))
    now_ms = time.time() * 1000
    for record in records:
        took_s = (
            None
            if record.started_ms is None or record.finished_ms is None
            else (record.finished_ms - record.started_ms) / 1000
        )
        table.add_row(
            short(record.id),
            Text(line(record.name)),
            Text(record.state, _COLOURS.get(record.state, "")),
            str(record.attempt),
            short(record.worker or "-"),
            duration((now_ms - record.submitted_ms) / 1000) if record.submitted_ms else "-",
            "-" if took_s is None else duration(took_s),
        )
    return table


def status_view(status: Status) -> RenderableType:
    """The cluster: two or three lines, and a table of its nodes."""
    names = {node.id: line(node.name) for node in status.nodes}
    if status.leader is None:
        leader = Text("leader   none: submitted tasks wait on the disk of the node that took them", "bold red")
    else:
        majority = "with a majority" if status.majority else "WITHOUT A MAJORITY"
        leader = Text(f"leader   {_cut(names.get(status.leader, '?'), 24)} {short(status.leader)}, ")
        leader.append(f"epoch {status.epoch}, ").append(majority, "" if status.majority else "bold red")
    counts = ", ".join(f"{status.tasks.get(state, 0)} {state}" for state in SHOWN_STATES)
    lines = [leader, Text(f"tasks    {counts}"), Text(f"         {status.per_minute} finished in the last minute")]
    if status.queued:
        lines.append(Text(f"         {status.queued} on this machine's disk wait for a leader", "yellow"))
    for text in lines:
        text.truncate(WIDTH, overflow="ellipsis")
    return Group(*lines, Text(), nodes_table(status))


def nodes_table(status: Status) -> Table:
    """The nodes, the leader first; `*` marks the one that answers."""
    table = _table(("NODE", 12), ("ID", 8), ("ROLE", 7), ("ADDRESS", 21), (">HEARD", 5), (">SLOTS", 9), (">BEHIND", 6))
    for node in sorted(status.nodes, key=lambda each: (each.role != "leader", each.id)):
        table.add_row(*_node_row(node, status.node))
    return table


def _node_row(node: NodeView, me: str) -> tuple[Text, ...]:
    is_leader = node.role == "leader"
    style = "bold" if is_leader else ""
    name = line(node.name) or "?"
    return (
        Text(f"{_cut(name, 11)}*" if node.id == me else name, style),
        Text(short(node.id)),
        Text(node.role, "bold green" if is_leader else ""),
        Text(line(node.address) or "-"),
        Text("never" if node.heard_s is None else duration(node.heard_s)),
        Text(f"{node.running}/{node.slots}"),
        Text("?" if node.behind is None else count(node.behind)),
    )


def _table(*columns: tuple[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True)
    for title, width in columns:
        table.add_column(
            title.lstrip(">"), width=width, no_wrap=True, overflow="ellipsis",
            justify="right" if title.startswith(">") else "left",
        )  # fmt: skip
    return table


def _cut(text: str, cells: int) -> str:
    cut = Text(text)
    cut.truncate(cells, overflow="ellipsis")
    return cut.plain
