"""Tables for people, 80 columns wide whatever the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from meshq.cli.render import (
    SHOWN_STATES,
    WIDTH,
    copies_text,
    count,
    duration,
    held,
    line,
    merge_text,
    missing_text,
    node_names,
    node_text,
    nodes_text,
    share,
    tasks_text,
)
from meshq.client.record import Record
from meshq.core.ids import short
from meshq.core.reports import NodeView, Status
from meshq.core.task import State

LABEL_WIDTH = 9


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
    """Tasks, one a line; whose they are only where one is of a credential."""
    records = list(records)
    owned = any(record.owner for record in records)
    name = (("NAME", 11), ("OWNER", 10)) if owned else (("NAME", 23),)
    table = plain_table(("ID", 8), *name, ("STATE", 12), (">TRY", 4), ("WORKER", 8), (">AGE", 6), (">TOOK", 7))
    for record in records:
        took_s = (
            None
            if record.started_ms is None or record.finished_ms is None
            else (record.finished_ms - record.started_ms) / 1000
        )
        table.add_row(
            short(record.id),
            Text(line(record.name)),
            *((Text(line(record.owner or "-")),) if owned else ()),
            Text(_state(record), _COLOURS.get(record.state, "")),
            str(record.attempt),
            short(record.worker or "-"),
            _age(record),
            "-" if took_s is None else duration(took_s),
        )
    return table


def failed_table(records: Iterable[Record]) -> Table:
    """Failed tasks, one a line, with what they failed with."""
    table = plain_table(("ID", 8), ("NAME", 18), (">TRY", 3), (">AGE", 5), ("ERROR", 38))
    for record in records:
        table.add_row(
            short(record.id), Text(line(record.name)), str(record.attempt), _age(record), Text(record.reason, "red")
        )
    return table


def _age(record: Record) -> str:
    """How long ago it was submitted."""
    return duration(time.time() - record.submitted_ms / 1000) if record.submitted_ms else "-"


def _state(record: Record) -> str:
    if record.ending:
        return "cancelled …"
    if record.state == State.RUNNING:
        return f"{record.state} {share(record)}".rstrip()
    return f"{record.state}*" if record.finished and not record.majority else record.state


def status_view(status: Status) -> RenderableType:
    """The cluster: some lines, and a table of its nodes."""
    names = node_names(status.nodes)
    counts = ", ".join(f"{status.tasks.get(state, 0)} {state}" for state in SHOWN_STATES)
    lines = [
        *labelled("leader", _leader(status, names)),
        *_insecure(status),
        *_without_majority(status, names),
        *labelled("tasks", Text(counts)),
        *labelled("", Text(f"{status.per_minute} finished in the last minute")),
    ]
    if status.queued:
        lines += labelled("", Text(f"{status.queued} on this machine's disk wait for a leader", "yellow"))
    if status.merge is not None:
        lines += labelled("healed", Text(f"{merge_text(status.merge, names)}: meshq explain"))
    paused = [
        Text(f"{node_text(node.id, names)} is drained and gets no work: meshq resume {short(node.id)}", "yellow")
        for node in status.nodes
        if node.drained
    ]
    paused += [
        Text(f"{node_text(node.id, names)} gets no work: {line(node.paused)}", "yellow")
        for node in status.nodes
        if node.paused and not node.drained
    ]
    return Group(*lines, Text(), nodes_table(status), *([Text(), *paused] if paused else []))


def _leader(status: Status, names: dict[str, str]) -> Text:
    if status.leader is None:
        return Text("none: submitted tasks wait on the disk of the node that took them", "bold red")
    leader = Text(f"{_cut(names.get(status.leader, '?'), 24)} {short(status.leader)}, ")
    if status.majority:
        return leader.append(f"epoch {status.epoch}, with a majority")
    kind = f" ({status.split})" if status.split else ""
    return leader.append(f"without a majority, {copies_text(status.copies)}{kind}", "bold red")


def _insecure(status: Status) -> list[Text]:
    return labelled("insecure", Text("no key: anyone on this network can run tasks", "red")) if status.insecure else []


def _without_majority(status: Status, names: dict[str, str]) -> Iterator[Text]:
    """For whom it waits, and what can be done if they never come."""
    if not status.missing:
        return
    runs = status.split == "cold" and status.leader is not None
    cold = "; tasks from before wait for them too, new ones run" if runs else ""
    yield from labelled("waits", Text(f"for {missing_text(status, names)}{cold}"))
    if status.split == "cold":
        others = nodes_text(status.missing, names)
        text = (
            f"if they never come back: meshq recover makes this machine's copy the cluster, {tasks_text(held(status))}"
        )
        copies = "a new copy" if len(status.missing) == 1 else "new copies"
        yield from labelled("", Text(f"{text}; {others} would join it as {copies}"))


def labelled(label: str, text: Text) -> list[Text]:
    """A fact, with its name before the first line."""
    wrapped = text.wrap(console(), WIDTH - LABEL_WIDTH)
    for part in wrapped:
        part.rstrip()
    names = [label, *[""] * len(wrapped)]
    return [Text(f"{name:{LABEL_WIDTH}}") + part for name, part in zip(names, wrapped, strict=False)]


def nodes_table(status: Status) -> Table:
    """The nodes, the leader first; `*` marks the one that answers."""
    table = plain_table(
        ("NODE", 12), ("ID", 8), ("ROLE", 7), ("ADDRESS", 21), (">HEARD", 5), (">SLOTS", 9), (">BEHIND", 6)
    )
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


def when(at_ms: int | None) -> str:
    """A time of day; with the date where that is not today's."""
    if at_ms is None:
        return "-"
    at = time.localtime(at_ms / 1000)
    today = time.strftime("%Y-%m-%d", at) == time.strftime("%Y-%m-%d")
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", at)


def since(at_ms: int) -> str:
    """How long ago that was."""
    return f"{duration(time.time() - at_ms / 1000)} ago"


def plain_table(*columns: tuple[str, int]) -> Table:
    """A table without lines. A column whose name begins with `>` is of numbers; one with `~` may go on below."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True)
    for title, width in columns:
        table.add_column(
            title.lstrip(">~"), width=width, no_wrap=not title.startswith("~"),
            overflow="fold" if title.startswith("~") else "ellipsis",
            justify="right" if title.startswith(">") else "left",
        )  # fmt: skip
    return table


def _cut(text: str, cells: int) -> str:
    cut = Text(text)
    cut.truncate(cells, overflow="ellipsis")
    return cut.plain
