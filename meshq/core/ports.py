"""What the node asks of the world: each port has a real part and a simulated twin."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from typing import Any, Protocol

from meshq.core.infos import TaskInfo
from meshq.core.requests import (
    Get,
    Got,
    Heartbeat,
    HeartbeatAnswer,
    Job,
    Outcome,
    ResultsTaken,
    RunProgress,
    SubmitResult,
)


class Clock(Protocol):
    """Time and chance."""

    def boot_s(self) -> float:
        """Seconds on a clock that counts on in suspend: for leases and claims."""

    def run_s(self) -> float:
        """Seconds on a clock that stands still in suspend: for how long a task ran."""

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch: for display, delays and schedules only."""

    def random(self) -> float:
        """A random number in [0, 1)."""

    def random_bits(self, count: int) -> int:
        """That many random bits, for ids."""


class Transport(Protocol):
    """Messages to other nodes, by their id. Raises `Unreachable`, or the error that a `Refused` names."""

    def connected(self) -> Collection[str]:
        """The nodes to which a link is open now, sorted."""

    def version_of(self, node: str) -> int:
        """The protocol version agreed with this node, the lowest of its links; `Unreachable` where none is open."""

    async def request(self, to: str, message: Any, *, timeout_s: float, bulk: bool = False) -> Any:
        """One message and its one answer; `bulk` takes the link that large copies use."""

    def stream(self, to: str, message: Any, *, idle_s: float) -> AsyncGenerator[Any, None]:
        """One message and the parts of its answer; `idle_s` is the longest wait for a part."""


class Handler(Protocol):
    """What a node does with messages of others."""

    async def answer(self, sender: str, message: Any) -> Any:
        """The answer to one message; a MeshqError that it raises goes back as `Refused`."""

    def stream(self, sender: str, message: Any) -> AsyncIterator[Any]:
        """The parts of the answer to a `Pull`."""


class Pool(Protocol):
    """The children that run tasks, one for each slot."""

    @property
    def slots(self) -> int:
        """How many tasks run at once."""

    async def start(self) -> tuple[TaskInfo, ...]:
        """Starts the children and tells which tasks they know."""

    def put(self, jobs: Sequence[Job]) -> None:
        """Takes runs; those beyond the free slots wait in order."""

    def held(self) -> tuple[Job, ...]:
        """All runs that were put and have no outcome yet."""

    def free(self) -> int:
        """How many slots have nothing to do."""

    def running(self) -> int:
        """How many slots run something."""

    def kill(self, tasks: Collection[str]) -> None:
        """Ends these runs, with their process groups, or drops them unbegun. They get no outcome."""

    def progress(self) -> tuple[RunProgress, ...]:
        """What held runs have told of how far they are, the newest of each."""

    def drain(self, on: bool) -> None:
        """From now on, what is not begun, and what is put, comes back as `released`; or not any more."""

    async def outcomes(self) -> list[Outcome]:
        """The outcomes since the last call, and before a run's own what it kept; waits until there is at least one."""

    async def close(self, drain_s: float) -> None:
        """Takes no more, drops what is unbegun as `released`, lets the rest run up to `drain_s`, then kills it."""


class TaskLogs(Protocol):
    """What tasks printed on this node: the last of each task's, at offsets that only grow."""

    def add(self, task: str, data: bytes) -> None:
        """Takes what a run of this task printed. It never waits and never fails."""

    async def read(self, task: str, after: int, wait_s: float) -> tuple[bytes, int, int]:
        """What was printed from the byte `after` on; waits up to `wait_s` for something.

        Returns the bytes, the offset behind them, and how many bytes between `after` and the first of them are gone.
        """


class Work(Protocol):
    """The leader as a worker sees it, wherever it is."""

    async def get(self, request: Get) -> Got:
        """Asks for runs."""

    async def heartbeat(self, request: Heartbeat) -> HeartbeatAnswer:
        """Names all runs."""

    async def submit_result(self, request: SubmitResult) -> ResultsTaken:
        """Hands in outcomes."""


class Results(Protocol):
    """The part of the outbox that keeps outcomes on disk until a leader has them."""

    async def put_results(self, outcomes: Sequence[Outcome], boot: str) -> None:
        """Keeps them; returns when they are on disk."""

    async def results(self, limit: int) -> list[tuple[int, str, Outcome]]:
        """The oldest of them: entry number, boot of the run, outcome."""

    async def drop(self, entries: Sequence[int]) -> None:
        """Forgets these entries."""
