"""What is asked of one node, wherever it is asked: what its tasks printed, and whether it takes work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from meshq.core.limits import WAIT_S_MAX
from meshq.core.messages import Done
from meshq.core.ports import Clock, TaskLogs, Transport
from meshq.core.reports import Log
from meshq.core.requests import Drain, LogHere, LogQuery
from meshq.core.task import FINISHED, Move
from meshq.errors import InvariantBroken, NoLeader, NotFound, Unreachable
from meshq.node import journal
from meshq.node.forward import forwarded
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.node.waiters import Waiters
from meshq.store import meta, queue, stories
from meshq.store.database import Connection

# What an answer may take beyond the wait that was asked for; less than the hop to the leader may.
HOP_S = 3.0
RECHECK_S = 1.0
DRAINED = "drained"
_BEGINS = (Move.CLAIM.value, Move.ADOPT.value)


class Errands:
    """One node's part in these, and the leader's.

    Args:
        replicator: Says where a task ran, and keeps that this node is drained.
        peers: The other nodes' names.
        waiters: Wakes those who wait for a task.
        transport: To the other nodes.
        clock: The lease clock.
        logs: What this node's tasks printed; None where nobody keeps that.
        drain: Takes this node's worker out of the work, or with False back.
    """

    def __init__(
        self,
        replicator: Replicator,
        peers: Peers,
        waiters: Waiters,
        transport: Transport,
        clock: Clock,
        logs: TaskLogs | None,
        drain: Callable[[bool], None],
    ) -> None:
        self._replicator = replicator
        self._peers = peers
        self._waiters = waiters
        self._transport = transport
        self._clock = clock
        self._logs = logs
        self._drain = drain

    async def load(self) -> None:
        """A node that was drained before a restart is so after it."""
        if await self._replicator.database.read(lambda conn: meta.get(conn, DRAINED)) is not None:
            self._drain(True)
            journal.tell("drained", "drained: no work is taken; `meshq resume` ends that")

    async def here(self, request: LogHere | Drain) -> Log | Done:
        """What another node asks of this very one.

        Raises:
            NotFound: It keeps nothing of what tasks print; or the request is for another node.
            StoreError: It can't be kept that this node is drained.
        """
        if isinstance(request, LogHere):
            return await self._read(request)
        if request.node != self._replicator.me:
            raise NotFound(f"this is {self._called(self._replicator.me)}, not {request.node[:40]!r}")
        await self._take_work(not request.resume)
        return Done()

    # -- drained -----------------------------------------------------------------------------------------

    async def drain(self, request: Drain) -> Done:
        """Drains or resumes the node that a person named, be it this one.

        Raises:
            NotFound, Ambiguous: No node is called so, or several.
            Unreachable: It does not answer.
        """
        me = self._replicator.me
        node = self._peers.find(request.node) if request.node else me
        named = replace(request, node=node)
        if node == me:
            await self.here(named)
            return Done()
        try:
            await forwarded(self._transport, node, named, timeout_s=HOP_S)
        except Unreachable as error:
            what = "resumed" if request.resume else "drained"
            raise Unreachable(f"{self._called(node)} does not answer, and can't be {what} now") from error
        return Done()

    async def _take_work(self, drained: bool) -> None:
        def keep(conn: Connection) -> None:
            if drained:
                meta.put(conn, DRAINED, "yes")
            else:
                meta.delete(conn, DRAINED)

        await self._replicator.database.write(keep)
        self._drain(drained)
        if drained:
            journal.tell("drained", "drained: what runs here goes on, and no new work is taken; see `meshq resume`")
        else:
            journal.tell("resumed", "resumed: work is taken again")

    # -- what tasks printed ------------------------------------------------------------------------------

    async def printed(self, query: LogQuery) -> Log:
        """As leader: what a task printed, told by the node that ran it last.

        Raises:
            NotFound: The id fits no task; or that node does not answer, or keeps nothing.
            Ambiguous: The id fits several.
        """
        deadline = self._clock.boot_s() + min(query.wait_s, WAIT_S_MAX)
        task = await self._replicator.database.read(lambda conn: queue.find(conn, query.id, query.owner))
        with self._waiters.on((task,)) as woken:
            while True:
                woken.clear()
                node, finished = await self._replicator.database.read(lambda conn: _where(conn, task))
                left_s = 0.0 if finished else max(0.0, deadline - self._clock.boot_s())
                # Looked at again soon: the task may go to another node meanwhile, or be finished.
                found = await self._told(node, LogHere(id=task, after=query.after, wait_s=min(left_s, RECHECK_S)))
                over = finished or self._clock.boot_s() >= deadline
                # A log that ends before is another one, of a later attempt.
                if found is not None and (over or found.text or found.lost or found.next < query.after):
                    return replace(found, ended=finished and not found.text)
                if found is None and over:
                    where = self._called(node or "")
                    raise NotFound(f"what task {task} printed is kept by {where}, which does not answer")
                if node is None or found is None:
                    await _pause(woken, min(left_s, RECHECK_S))

    async def _told(self, node: str | None, request: LogHere) -> Log | None:
        """What this node answers; nothing was printed where there is none. None where it does not answer."""
        if node is None:
            return Log(task=request.id, node="", text=b"", next=request.after)
        if node == self._replicator.me:
            return await self._read(request)
        try:
            answer = await forwarded(self._transport, node, request, timeout_s=HOP_S + request.wait_s)
        except NoLeader:
            return None
        if not isinstance(answer, Log):
            raise InvariantBroken(f"a LogHere was answered with a {type(answer).__name__}")
        return answer

    async def _read(self, request: LogHere) -> Log:
        if self._logs is None:
            raise NotFound(f"{self._called(self._replicator.me)} keeps nothing of what its tasks print")
        text, following, lost = await self._logs.read(request.id, request.after, min(request.wait_s, WAIT_S_MAX))
        return Log(task=request.id, node=self._replicator.me, text=text, next=following, lost=lost)

    def _called(self, node: str) -> str:
        return self._peers.name_of(node)


def _where(conn: Connection, task: str) -> tuple[str | None, bool]:
    """The node that ran a task last, if it ever ran, and whether the task is finished."""
    row = queue.get(conn, queue.find(conn, task))
    if row is None:
        raise NotFound(f"there is no task {task}")
    finished = row.state in FINISHED
    if row.worker is not None:
        return row.worker, finished
    ran = [change.worker for change in stories.read(row.story) if change.move in _BEGINS]
    return (ran[-1] if ran else None), finished


async def _pause(woken: asyncio.Event, wait_s: float) -> None:
    """Until there is something to look at, or so long."""
    try:
        async with asyncio.timeout(max(0.0, wait_s)):
            await woken.wait()
    except TimeoutError:
        pass
