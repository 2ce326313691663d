"""`meshq demo`: what meshq does, in half a minute and on one machine."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from meshq.cli import render
from meshq.cli.common import Command, Number
from meshq.cli.signals import end_like_ctrl_c
from meshq.errors import MeshqError, NoDaemon

if TYPE_CHECKING:
    from meshq.cli.demo_nodes import DemoNode, DemoNodes
    from meshq.cli.demo_view import Scene, View
    from meshq.client.aio import AsyncClient
    from meshq.core.reports import Status

SECONDS: Final = 10.0
NODES: Final = 3
NODES_MAX: Final = 9
# The nodes' slots are half busy, so that two out of three keep up.
TASKS_PER_NODE_S: Final = 8
TASK_S: Final = 0.15
STEP_S: Final = 0.1
LOOK_S: Final = 0.05
BUSY_S: Final = 1.0
MEET_S: Final = 60.0
FINISH_S: Final = 60.0
ANSWER_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of it. `run_twice` began more than once, `finished_twice` of these also ended more than once."""

    nodes: int
    seconds: float
    submitted: int
    finished: int
    lost: int
    run_twice: int
    finished_twice: int
    killed: str
    leader: str
    without_leader_s: float | None

    @property
    def is_well(self) -> bool:
        """Whether it was as it ought to be."""
        return self.lost == 0 and self.finished == self.submitted and self.without_leader_s is not None


@click.command(cls=Command)
@click.option(
    "--seconds", type=Number(2, 600), default=SECONDS, metavar="N", help="How long tasks come in.  [default: 10]"
)
@click.option("--nodes", type=Number(3, NODES_MAX, whole=True), default=NODES, metavar="N", help="[default: 3]")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON; how it goes, on stderr.")
def demo(seconds: float, nodes: int, as_json: bool) -> int:
    """Show what it does: three nodes here, a stream of tasks, a killed leader.

    The nodes are processes of their own in a temporary directory, and talk over this machine's loopback only. Half-way
    the leader is killed with SIGKILL. At the end stands what became of each task; all else is gone again. Exits with 1
    if a task was lost.

    \b
    Examples:
      meshq demo
      meshq demo --nodes 5 --seconds 30
      meshq demo --json
    """
    # Loaded here: help needs none of it.
    from meshq.cli import demo_nodes, demo_view

    scene = demo_view.Scene(planned=_steps(seconds) * _per_step(nodes))
    with demo_nodes.demo_nodes() as started, ExitStack() as stack:
        view: View
        if as_json or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
            view = demo_view.Lines(to_stderr=as_json)
        else:
            view = demo_view.Screen(stack.enter_context(demo_view.live()))
        result = asyncio.run(_Demo(started, scene, view, nodes, seconds).run())
    click.echo(json.dumps(asdict(result)) if as_json else f"\n{result_text(result)}")
    return 0 if result.is_well else 1


def result_text(result: Result) -> str:
    """The last screen."""
    twice = "no run was cut off"
    if result.run_twice:
        twice = "cut off by the kill, and begun again on another node"
    if result.finished_twice:
        twice = f"begun again after the kill; {result.finished_twice} ran to the end both times"
    without = "never again" if result.without_leader_s is None else render.duration(result.without_leader_s)
    follows = f"from the kill of {result.killed} until {result.leader} led" if result.leader else "no other node led"
    lines = [
        ("submitted", str(result.submitted), "tasks"),
        ("finished", str(result.finished), ""),
        ("lost", str(result.lost), ""),
        ("run twice", str(result.run_twice), twice),
        ("no leader", without, follows),
    ]
    return "\n".join(f"{label:11}{value:>8}  {told}".rstrip() for label, value, told in lines)


def _steps(seconds: float) -> int:
    return round(seconds / STEP_S)


def _per_step(nodes: int) -> int:
    return max(1, round(nodes * TASKS_PER_NODE_S * STEP_S))


class _Demo:
    def __init__(self, nodes: DemoNodes, scene: Scene, view: View, count: int, seconds: float) -> None:
        self._nodes, self._scene, self._view = nodes, scene, view
        self._count, self._seconds = count, seconds
        self._ledger = nodes.folder / "runs"
        self._ids: list[str] = []
        self._done: set[str] = set()
        self._killed = self._leader = ""
        self._killed_s = 0.0
        self._without_s: float | None = None
        self._leader_works = asyncio.Event()
        scene.nodes = nodes.all

    async def run(self) -> Result:
        end_like_ctrl_c()
        await self._start()
        leader = self._scene.leader
        self._tell(f"{self._count} nodes have met; {leader} leads")
        # Tasks come in by another node than the one that is to be killed, as from another machine.
        entry = next(node for node in self._nodes.all if node.name != leader)
        async with _client(entry) as client, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch(client))
            killing = tasks.create_task(self._kill())
            await self._submit(client)
            await self._finish(client)
            await killing
            watching.cancel()
        return self._result()

    async def _start(self) -> None:
        self._tell(f"{self._count} nodes start on this machine, in {self._nodes.folder}")
        first = self._nodes.start()
        async with _client(first) as client:
            status = await self._until(client, lambda status: status.leader is not None)
            address = next(node.address for node in status.nodes if node.id == status.node)
            if not address:
                raise NoDaemon("the demo's nodes can't reach each other: this machine's loopback (127.0.0.1) is down")
            for _ in range(self._count - 1):
                self._nodes.start((address,))
            await self._until(client, self._have_met)

    def _have_met(self, status: Status) -> bool:
        ready = [node for node in status.nodes if node.role in ("leader", "replica") and node.slots]
        return status.majority and len(ready) == self._count

    async def _until(self, client: AsyncClient, is_there: Callable[[Status], bool]) -> Status:
        end_s = _now_s() + MEET_S
        while _now_s() < end_s:
            for node in self._nodes.all:
                node.check()
            status = await _answer(client.status)
            if status is not None:
                self._scene.status = status
                if is_there(status):
                    return status
            self._view.show(self._scene)
            await asyncio.sleep(LOOK_S)
        raise NoDaemon(f"the demo's nodes did not meet within {MEET_S:g} s")

    async def _submit(self, client: AsyncClient) -> None:
        self._tell(f"tasks come in, {_per_step(self._count) / STEP_S:.0f} a second")
        began_s, number = _now_s(), 0
        for step in range(_steps(self._seconds)):
            calls = [[number + more, TASK_S, str(self._ledger)] for more in range(_per_step(self._count))]
            handles = await client.submit_many("demo", calls)
            number += len(calls)
            self._ids += [handle.id for handle in handles]
            self._scene.submitted = len(self._ids)
            await asyncio.sleep(max(0.0, began_s + (step + 1) * STEP_S - _now_s()))

    async def _finish(self, client: AsyncClient) -> None:
        """Waits for all, and counts what each became."""
        async for record in client.as_completed(self._ids, timeout_s=FINISH_S):
            if record.state == "done":
                self._done.add(record.id)
        self._scene.finished = len(self._done)
        self._view.show(self._scene)

    async def _kill(self) -> None:
        await asyncio.sleep(self._seconds / 2)
        with suppress(TimeoutError):
            async with asyncio.timeout(BUSY_S):
                await self._leader_works.wait()
        node = next(node for node in self._nodes.all if node.name == self._scene.leader)
        node.kill()
        self._killed_s, self._killed = _now_s(), node.name
        self._tell(f"{node.name}, the leader, is killed: kill -9 {node.pid}")

    def _note_work(self, status: Status) -> None:
        """So that the kill comes in the middle of a run."""
        if any(node.id == status.leader and node.running for node in status.nodes):
            self._leader_works.set()
        else:
            self._leader_works.clear()

    async def _watch(self, client: AsyncClient) -> None:
        while True:
            status = await _answer(client.status)
            if status is not None:
                self._scene.status = status
                self._scene.finished = max(self._scene.finished, status.tasks.get("done", 0))
                self._note_work(status)
            leader = self._scene.leader
            if self._killed and not self._leader and leader:
                self._leader, self._without_s = leader, _now_s() - self._killed_s
                self._tell(f"{leader} leads, {render.duration(self._without_s)} after the kill")
            self._view.show(self._scene)
            await asyncio.sleep(LOOK_S)

    def _tell(self, text: str) -> None:
        self._view.tell(self._scene, text)

    def _result(self) -> Result:
        begun, ended = _runs(self._ledger)
        return Result(
            nodes=self._count, seconds=self._seconds, submitted=len(self._ids), finished=len(self._done),
            lost=len(set(self._ids) - self._done), run_twice=_several(begun), finished_twice=_several(ended),
            killed=self._killed, leader=self._leader, without_leader_s=self._without_s,
        )  # fmt: skip


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _client(node: DemoNode) -> AsyncClient:
    from meshq.client.aio import AsyncClient

    return AsyncClient(node.data_dir, connect_timeout_s=ANSWER_S)


async def _answer(asked: Callable[[], Awaitable[Status]]) -> Status | None:
    """What is answered; None where nobody answers at the moment."""
    try:
        return await asked()
    except MeshqError:
        return None


def _runs(ledger: Path) -> tuple[Counter[str], Counter[str]]:
    """How often each task began, and how often it ended, by what the runs themselves wrote down."""
    lines: Sequence[str] = ledger.read_text("ascii").splitlines() if ledger.exists() else []
    words = [line.split() for line in lines]
    return (
        Counter(number for word, number in words if word == "begin"),
        Counter(number for word, number in words if word == "end"),
    )


def _several(counts: Counter[str]) -> int:
    return sum(times > 1 for times in counts.values())
