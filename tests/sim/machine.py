"""A simulated machine: its clocks and its disk outlive its processes."""

from __future__ import annotations

from meshq.config import Config
from meshq.node.node import Node
from tests.sim.disk import Disk
from tests.sim.host import SimPool
from tests.sim.loop import Process, Timeline


class Machine:
    """A machine.

    Args:
        node: Its node's id.
        name: What people call it.
        config: Its settings.
        timeline: Its clocks.
        disk: What it keeps.

    `wall_ahead_ms` is by how much its wall clock is wrong. `gone` is one that never comes back, its disk neither.
    """

    def __init__(self, node: str, name: str, config: Config, timeline: Timeline, disk: Disk) -> None:
        self.node = node
        self.name = name
        self.config = config
        self.timeline = timeline
        self.disk = disk
        self.printed: dict[str, bytes] = {}
        self.wall_ahead_ms = 0
        self.process: Process | None = None
        self.running: Node | None = None
        self.pool: SimPool | None = None
        self.starts = 0
        self.boot = ""
        self.stopping = False
        self.gone = False

    @property
    def up(self) -> bool:
        """Whether a process runs, be it paused or asleep."""
        return self.process is not None and not self.process.dead

    @property
    def awake(self) -> bool:
        """Whether a process runs, and is neither paused nor asleep."""
        return self.process is not None and not self.process.halted

    @property
    def serves(self) -> bool:
        """Whether a client on this machine finds its daemon."""
        return self.awake and self.running is not None and not self.stopping
