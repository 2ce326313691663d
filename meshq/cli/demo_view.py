"""What `meshq demo` shows: a live view on a terminal, else lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from meshq.cli.demo_nodes import DemoNode
from meshq.cli.tables import console, plain_table
from meshq.core.reports import Status

LINE_EVERY_S: Final = 1.0
BAR_CELLS: Final = 40


@dataclass(slots=True)
class Scene:
    """How far the demo is.

    Args:
        planned: How many tasks there will be.
        nodes: Its nodes, those that were killed among them.
        status: What the cluster said last.
        submitted, finished: Tasks.
        told: What happened: after how many seconds, and what.
    """

    planned: int
    nodes: Sequence[DemoNode] = ()
    status: Status | None = None
    submitted: int = 0
    finished: int = 0
    told: list[tuple[float, str]] = field(default_factory=list)
    began_s: float = field(default_factory=time.monotonic)

    @property
    def leader(self) -> str:
        """The name of the node that leads, as far as it is known; empty where none does."""
        status = self.status
        if status is None or status.leader is None or not status.majority:
            return ""
        name = next((node.name for node in status.nodes if node.id == status.leader), "")
        return name if any(node.name == name and node.lives for node in self.nodes) else ""

    def now_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.began_s


class View(Protocol):
    """Shows a scene."""

    def show(self, scene: Scene) -> None:
        """It may have changed."""

    def tell(self, scene: Scene, text: str) -> None:
        """Something happened."""


class Lines:
    """A line a second, and one for each thing that happens.

    Args:
        to_stderr: Whether stdout is for something else.
    """

    def __init__(self, *, to_stderr: bool) -> None:
        self._to_stderr = to_stderr
        self._next_s = 0.0

    def show(self, scene: Scene) -> None:
        """A line, unless there was one just now."""
        if scene.status is None or scene.now_s() < self._next_s or not scene.submitted:
            return
        self._next_s = scene.now_s() + LINE_EVERY_S
        leader = f"{scene.leader} leads" if scene.leader else "no leader"
        self._write(scene, f"{scene.submitted} submitted, {scene.finished} finished; {leader}")

    def tell(self, scene: Scene, text: str) -> None:
        """A line of its own."""
        scene.told.append((scene.now_s(), text))
        self._write(scene, text)

    def _write(self, scene: Scene, text: str) -> None:
        click.echo(f"{scene.now_s():5.1f} s  {text}", err=self._to_stderr)
        sys.stdout.flush()


class Screen:
    """A live view.

    Args:
        live: Draws it.
    """

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, scene: Scene) -> None:
        """Draws it anew."""
        self._live.update(scene_view(scene), refresh=True)

    def tell(self, scene: Scene, text: str) -> None:
        """One more line at its end."""
        scene.told.append((scene.now_s(), text))
        self.show(scene)


def live() -> Live:
    """The terminal's part that a `Screen` draws in."""
    return Live(console=console(), auto_refresh=False, vertical_overflow="crop")


def scene_view(scene: Scene) -> RenderableType:
    """The nodes, the tasks, and what happened."""
    filled = BAR_CELLS * min(scene.finished, scene.planned) // max(1, scene.planned)
    bar = Text("#" * filled, "green") + Text("-" * (BAR_CELLS - filled))
    tasks = Text("tasks  [") + bar + Text(f"] {scene.finished} of {scene.planned} finished")
    # Each is one line, so that the view has the same height wherever it is drawn.
    told = [Text(f"{at_s:5.1f} s  {text}", overflow="ellipsis", no_wrap=True) for at_s, text in scene.told]
    return Group(_nodes(scene), Text(), tasks, Text(), *told)


def _nodes(scene: Scene) -> Table:
    table = plain_table(("NODE", 9), (">PID", 8), ("", 1), ("STATE", 10), (">RUNNING", 8))
    views = {} if scene.status is None else {view.name: view for view in scene.status.nodes}
    for node in scene.nodes:
        view = views.get(node.name)
        state, style = "starts", ""
        if not node.lives:
            state, style = "killed", "bold red"
        elif node.name == scene.leader:
            state, style = "leader", "bold green"
        elif view is not None:
            state = "replica" if view.role == "leader" else view.role
        running = f"{view.running}/{view.slots}" if view is not None and node.lives else "-"
        table.add_row(Text(node.name, style), str(node.pid), "", Text(state, style), running)
    return table
