"""What `meshq explain` shows to people, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from meshq.cli import render
from meshq.cli.render import WIDTH
from meshq.cli.tables import labelled, plain_table, since, when
from meshq.client.record import OtherOutcome, Story
from meshq.core.ids import short
from meshq.core.reports import Change, ClusterStory
from meshq.core.task import State
from meshq.wire import values

EVENTS_SHOWN = 20
VALUE_CHARS_MAX = 200
TIME_WIDTH = 8
DATE_WIDTH = 19


def cluster_view(story: ClusterStory) -> RenderableType:
    """Who leads and why, why no other node does, and what this node noted lately."""
    names = render.node_names(story.nodes)
    if story.leader is None:
        leader = Text("none", "bold red")
    else:
        leader = Text(f"{render.node_text(story.leader, names)}, epoch {story.epoch}, ")
        leader.append(
            "with a majority" if story.majority else "without a majority", "" if story.majority else "bold red"
        )
    parts: list[RenderableType] = [*labelled("leader", leader)]
    if story.since_ms is not None:
        parts += labelled("since", Text(f"{when(story.since_ms)}, {since(story.since_ms)}"))
    # Who goes on without a majority has nobody's vote.
    label = "follow" if story.leader is not None and not story.majority else "votes"
    parts += labelled(label, Text(render.nodes_text(story.votes, names) or "none"))
    if story.waits:
        parts += labelled("waits", Text(render.line(story.waits), "yellow"))
    table = plain_table(("NODE", 12), ("ID", 8), ("ROLE", 7), ("~WHY", WIDTH - 33))
    for node in sorted(story.nodes, key=lambda each: (each.node != story.leader, each.node)):
        mark = "*" if node.node == story.node else ""
        table.add_row(
            f"{render.line(node.name)[:11] or '?'}{mark}", short(node.node), node.role, render.line(node.why) or "-"
        )
    parts += [Text(), table]
    events = [(each.at_ms, render.line(each.text)) for each in story.events[-EVENTS_SHOWN:]]
    merges = [(each.at_ms, render.merge_text(each, names)) for each in story.merges]
    for title, rows in (("NOTED HERE", events), ("MERGED", merges)):
        if rows:
            parts += [Text(), _told(title, rows)]
    return Group(*parts)


def task_view(story: Story) -> RenderableType:
    """A task's changes, why it does not run, and the outcomes that do not stand."""
    task = story.task
    parts: list[RenderableType] = [_wrapped(render.record_head(task))]
    if task.finished and not task.majority:
        parts.append(_wrapped(f"({render.NO_MAJORITY})"))
    if task.finished and task.state != State.DONE:
        parts.append(_wrapped(render.line(task.reason)))
    if story.waits:
        parts += labelled("waits", Text(render.line(story.waits), "yellow"))
    if story.changes:
        parts += [Text(), _changes(story.changes)]
    if story.clashes:
        parts += [
            Text(),
            _wrapped("It also ran where the other part of the cluster did not see it; what came of that:"),
        ]
        parts += [_wrapped(_other(clash)) for clash in story.clashes]
    return Group(*parts)


def _changes(changes: Sequence[Change]) -> Table:
    times = [when(change.at_ms) for change in changes]
    width = _time_width(times)
    rest = WIDTH - width - 8 - 8 - 6 - 8 - 10
    table = plain_table(("WHEN", width), ("MOVE", 8), ("NODE", 8), (">EPOCH", 6), ("WORKER", 8), ("~CAUSE", rest))
    for at, change in zip(times, changes, strict=True):
        worker = short(change.worker) if change.worker else "-"
        cause = render.line(change.cause)
        table.add_row(at, render.line(change.move), short(change.node), str(change.epoch), worker, cause)
    return table


def _told(title: str, rows: Sequence[tuple[int, str]]) -> Table:
    times = [when(at_ms) for at_ms, _ in rows]
    width = _time_width(times)
    table = plain_table(("WHEN", width), (f"~{title}", WIDTH - width - 2))
    for at, (_, text) in zip(times, rows, strict=True):
        table.add_row(at, text)
    return table


def _other(clash: OtherOutcome) -> str:
    """One other outcome, in a sentence."""
    where = short(clash.worker) if clash.worker else "?"
    differs = "differently" if clash.differs else "the same"
    text = f"{when(clash.finished_ms)}  {clash.state} on {where}, epoch {clash.epoch}, {differs}"
    if not clash.differs:
        return text
    if clash.error:
        came = f"{clash.error.get('type', 'Error')}: {clash.error.get('message', '')}"
    else:
        came = values.dumps(values.to_json(clash.result))
    came = render.line(came)
    cut = came if len(came) <= VALUE_CHARS_MAX else f"{came[:VALUE_CHARS_MAX]} … (--json prints all)"
    return f"{text}: {cut}"


def _time_width(times: Sequence[str]) -> int:
    return TIME_WIDTH if all(len(at) <= TIME_WIDTH for at in times) else DATE_WIDTH


def _wrapped(text: str) -> Text:
    return Text(text, overflow="fold")
