"""What can be asked about tasks and the cluster, answered from this node's own copy and knowledge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from meshq.config import Config
from meshq.core.infos import Names
from meshq.core.limits import WAIT_S_MAX
from meshq.core.ports import Clock
from meshq.core.reports import NodeView, Status, TaskView, TaskViews
from meshq.core.requests import TaskQuery, TasksQuery, WaitQuery
from meshq.core.task import FINISHED, State
from meshq.node.elector import Elector
from meshq.node.leadership import Leadership
from meshq.node.peers import Peers
from meshq.node.reign import Reign
from meshq.node.replicator import Replicator
from meshq.node.waiters import Waiters
from meshq.store import queue
from meshq.store.database import Connection
from meshq.store.outbox import Outbox

RECHECK_S = 1.0
CENSUS_WAIT_S = 3.0  # for what workers know, right after a takeover
MERGE_SHOWN_MS = 3_600_000  # how long the status shows what merged last


def _views(
    ids: tuple[str, ...], owner: str, shown: Mapping[str, int], committed: Mapping[str, int], conn: Connection
) -> list[TaskView]:
    return queue.views(conn, ids, shown, committed, with_result=True, owner=owner)


def _shown(addresses: tuple[str, ...]) -> str:
    """The address that people are shown: an IPv4 one if there is any, since IPv6 ones are long and often local."""
    return next((address for address in addresses if not address.startswith("[")), addresses[0] if addresses else "")


class Views:
    """Reads.

    Args:
        replicator: This node's copy; nothing is shown as finished that is not committed.
        elector: Knows who leads.
        leadership: Knows the workers, where this node leads.
        peers: The other nodes.
        outbox: Tasks that wait here for a leader.
        waiters: Wakes those who wait for a task.
        clock: Lease clock and wall clock.
        config: Names and limits.
        myself: This node as the status shows it, with `behind` unknown.
    """

    def __init__(
        self,
        replicator: Replicator,
        elector: Elector,
        leadership: Leadership,
        peers: Peers,
        outbox: Outbox,
        waiters: Waiters,
        clock: Clock,
        config: Config,
        myself: Callable[[], NodeView],
    ) -> None:
        self._replicator = replicator
        self._elector = elector
        self._leadership = leadership
        self._peers = peers
        self._outbox = outbox
        self._waiters = waiters
        self._clock = clock
        self._config = config
        self._myself = myself

    # -- tasks -------------------------------------------------------------------------------------------

    async def task(self, query: TaskQuery) -> TaskView:
        """One task; waits up to `wait_s` until it is finished.

        Raises:
            NotFound, Ambiguous: The id fits no task, or several; or it was purged while this waited.
        """
        found = await self._replicator.database.read(lambda conn: queue.find(conn, query.id, query.owner))
        views = await self._finished((found,), query.owner, query.wait_s, here=True)
        if not views:
            raise queue.gone(found)
        return views[0]

    async def wait(self, query: WaitQuery) -> TaskViews:
        """Those of these tasks that are finished; waits up to `wait_s` for the first."""
        views = await self._finished(query.ids, query.owner, query.wait_s)
        return TaskViews(tasks=tuple(view for view in views if view.state in FINISHED))

    async def page(self, query: TasksQuery) -> TaskViews:
        """A page of tasks, newest first."""
        shown, committed = self._replicator.shown(), dict(self._replicator.committed)
        found = await self._replicator.database.read(lambda conn: queue.page(conn, query, shown, committed))
        return TaskViews(tasks=tuple(map(self._live, found.tasks)), next=found.next)

    async def _finished(self, ids: tuple[str, ...], owner: str, wait_s: float, *, here: bool = False) -> list[TaskView]:
        """The tasks, as soon as one is finished or the wait is over; or none is here any more, where they were."""
        deadline = self._clock.boot_s() + min(wait_s, WAIT_S_MAX)
        with self._waiters.on(ids) as event:
            while True:
                event.clear()
                shown, committed = self._replicator.shown(), dict(self._replicator.committed)
                views = await self._replicator.database.read(partial(_views, ids, owner, shown, committed))
                left_s = deadline - self._clock.boot_s()
                if left_s <= 0 or (here and not views) or any(view.state in FINISHED for view in views):
                    return [self._live(view) for view in views]
                try:
                    async with asyncio.timeout(min(left_s, RECHECK_S)):
                        await event.wait()
                except TimeoutError:
                    pass  # rows that a pull brought wake nobody

    def _live(self, view: TaskView) -> TaskView:
        """The same, with what only its leader knows: how far its run is, and whether one that was called off ended."""
        reign = self._leadership.reign
        if reign is None or view.worker is None:
            return view
        claims = reign.dispatcher.claims
        if view.state == State.RUNNING:
            claim = claims.of(view.id)
            return view if claim is None or claim.progress is None else replace(view, progress=claim.progress)
        if view.state != State.CANCELLED:
            return view
        unheard = view.worker not in claims.workers and not reign.dispatcher.census_over
        ending = unheard or claims.is_ending(view.id, view.worker, self._clock.boot_s())
        return replace(view, ending=ending)

    async def ended(self, view: TaskView, wait_s: float) -> TaskView:
        """As leader: a task that was called off, once its run has ended or the wait is over."""
        reign = self._leadership.reign
        deadline = self._clock.boot_s() + min(wait_s, WAIT_S_MAX)
        while True:
            view = self._live(view)
            left_s = deadline - self._clock.boot_s()
            if not view.ending or left_s <= 0 or reign is None or self._leadership.reign is not reign:
                return view
            heard = reign.dispatcher.heard
            await heard.after(heard.count, min(left_s, RECHECK_S))

    async def names(self, reign: Reign) -> Names:
        """As leader: the tasks that can be submitted; right after a takeover the workers have time to tell them."""
        dispatcher, deadline = reign.dispatcher, self._clock.boot_s() + CENSUS_WAIT_S
        while not dispatcher.all_told() and (left_s := deadline - self._clock.boot_s()) > 0:
            await dispatcher.census.after(dispatcher.census.count, left_s)
        return Names(names=tuple(dispatcher.claims.names(self._clock.boot_s())))

    async def page_with_queued(self, query: TasksQuery) -> TaskViews:
        """As `page`; what waits in this node's outbox comes first, on the first page."""
        found = await self.page(query)
        if query.after is not None or query.state not in (None, State.PENDING):
            return found
        specs = [spec for _, spec in await self._outbox.submits(query.limit)]
        fit = [
            spec.id
            for spec in specs
            if query.name in (None, spec.name) and query.batch in (None, spec.batch) and query.owner in ("", spec.owner)
        ]
        views = await self._outbox.submit_views(fit)
        return TaskViews(tasks=(*reversed(views), *found.tasks), next=found.next)

    async def queued(self, query: TaskQuery) -> TaskView | None:
        """A task that waits in this node's outbox; None where it is not there either."""
        found = await self._outbox.submit_views(await self._outbox.find(query.id, 1, query.owner))
        return found[0] if found else None

    # -- the cluster -------------------------------------------------------------------------------------

    async def status(self) -> Status:
        """The cluster, as this node sees it."""
        leader, kind = self._elector.leader(), self._elector.kind()
        mine = self._myself()
        now_ms = self._clock.wall_ms()
        nodes = [self._node(node, leader) for node in self._peers.around_here() if node in self._peers.book]
        nodes.append(self._with_role(mine, leader))
        counts, reports = await self._replicator.database.read(
            lambda conn: (queue.counts(conn), queue.reports(conn, 1))
        )
        queued = await self._outbox.count_submits()
        if leader is None:
            counts["pending"] += queued
        reign = self._leadership.reign
        return Status(
            node=self._replicator.me,
            leader=leader,
            epoch=self._elector.lease.epoch if leader and not kind else self._elector.promised_epoch,
            majority=leader is not None and not kind,
            nodes=tuple(sorted(nodes, key=lambda view: view.id)),
            tasks=counts,
            per_minute=reign.dispatcher.per_minute() if reign else 0,
            queued=queued,
            copies=self._replicator.copies_here(),
            split=str(kind),
            missing=tuple(self._peers.missing()) if kind or leader is None else (),
            merge=reports[0] if reports and now_ms - reports[0].at_ms < MERGE_SHOWN_MS else None,
            insecure=self._config.insecure,
        )

    def _node(self, node: str, leader: str | None) -> NodeView:
        peer = self._peers.book[node]
        reign = self._leadership.reign
        worker = reign.dispatcher.claims.workers.get(node) if reign else None
        hello = peer.hello
        view = NodeView(
            id=node,
            name=peer.name,
            role="",
            address=_shown(peer.addresses),
            heard_s=self._peers.heard_s(node),
            slots=worker.slots if worker else (hello.slots if hello else 0),
            running=worker.running if worker else (hello.running if hello else 0),
            behind=self._replicator.behind(node) if reign else None,
            paused=reign.dispatcher.paused(node) if reign else "",
            drained=worker is not None and worker.drained,
        )
        return self._with_role(view, leader)

    def _with_role(self, view: NodeView, leader: str | None) -> NodeView:
        members = self._replicator.roster.members
        peer = self._peers.book.get(view.id)
        votes = self._config.replica != "never" if peer is None else bool(peer.hello and peer.hello.votes)
        if view.id == leader:
            role = "leader"
        elif view.id in members:
            role = "replica"
        elif votes and len(members) < self._config.replicas and (peer is None or self._elector.alive(view.id)):
            role = "learner"
        else:
            role = "worker"
        behind = 0 if view.id == leader else None if role == "worker" else view.behind
        return replace(view, role=role, behind=behind)
