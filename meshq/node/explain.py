"""The story of a task and of the cluster: what happened, who says so, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable

from meshq.config import Config
from meshq.core.ids import short
from meshq.core.ports import Clock
from meshq.core.quorum import majority
from meshq.core.reports import ClusterStory, Event, Standpoint, TaskStory
from meshq.core.requests import TaskQuery, TaskStoryQuery
from meshq.core.split import Kind
from meshq.core.task import FINISHED, State, Task
from meshq.node.elector import Elector
from meshq.node.leadership import Leadership
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.node.views import Views
from meshq.store import queue, stories

REPORTS_SHOWN = 10


class Explain:
    """Answers `meshq explain`.

    Args:
        replicator: This node's copy.
        elector: The lease, as this node sees it.
        leadership: The workers, where this node leads.
        peers: What the other nodes say.
        views: The task itself.
        clock: Lease clock and wall clock.
        config: Durations and numbers.
        recent: What this node told people lately.
    """

    def __init__(
        self,
        replicator: Replicator,
        elector: Elector,
        leadership: Leadership,
        peers: Peers,
        views: Views,
        clock: Clock,
        config: Config,
        recent: Callable[[], tuple[Event, ...]],
    ) -> None:
        self._replicator = replicator
        self._elector = elector
        self._leadership = leadership
        self._peers = peers
        self._views = views
        self._clock = clock
        self._config = config
        self._recent = recent

    # -- a task ------------------------------------------------------------------------------------------

    async def task(self, query: TaskStoryQuery) -> TaskStory:
        """What happened to one task.

        Raises:
            NotFound, Ambiguous: The id fits no task, or several.
        """
        view = await self._views.task(TaskQuery(id=query.id, owner=query.owner))
        row, clashes = await self._replicator.database.read(
            lambda conn: (queue.get(conn, view.id), queue.clashes(conn, view.id))
        )
        changes = stories.read(row.story) if row is not None else ()
        waits = self._waits(row) if row is not None and view.state not in FINISHED else ""
        return TaskStory(task=view, changes=changes, waits=waits, clashes=clashes)

    def _waits(self, row: Task) -> str:
        reign = self._leadership.reign
        if reign is None:
            return "no leader is known here: nothing is handed out"
        if row.state != State.PENDING:
            if row.state in FINISHED:
                return f"it is {row.state}, and waits until {self._majority()} have that on disk"
            return "" if reign.dispatcher.claims.of(row.id) else "its worker has not spoken since the last takeover"
        left_s = (row.not_before_ms - self._clock.wall_ms()) / 1000
        if left_s > 0:
            return f"it is to start in {left_s:.0f} s, {'after a failure' if row.failures else 'as asked'}"
        if self._replicator.shown().get(row.writer, 0) < row.seq:
            return f"it waits until {self._majority()} have it on disk"
        return reign.dispatcher.why_waiting(row)

    def _majority(self) -> str:
        count = len(self._replicator.roster.members)
        return f"{majority(count)} of {count} replicas"

    # -- the cluster -------------------------------------------------------------------------------------

    async def cluster(self) -> ClusterStory:
        """Who leads and why, as this node sees it."""
        leader, lease = self._elector.leader(), self._elector.lease
        kind = self._elector.kind()
        nodes = sorted({*self._replicator.roster.members, *self._peers.around_here(), self._replicator.me})
        return ClusterStory(
            node=self._replicator.me,
            leader=leader,
            epoch=lease.epoch if leader is not None and not kind else self._elector.promised_epoch,
            majority=leader is not None and not kind,
            since_ms=self._elector.since_ms,
            votes=lease.followers() if leader == self._replicator.me and not kind else self._followers(leader),
            nodes=tuple(self._standpoint(node, leader) for node in nodes),
            waits=self._cluster_waits(leader, kind),
            events=self._recent(),
            merges=await self._replicator.database.read(lambda conn: queue.reports(conn, REPORTS_SHOWN)),
        )

    def _followers(self, leader: str | None) -> tuple[str, ...]:
        if leader is None:
            return ()
        me = self._replicator.me
        hellos = {node: self._peers.hello_of(node) for node in sorted(self._peers.book)}
        followers = {node for node, hello in hellos.items() if hello is not None and hello.leader == leader}
        return tuple(sorted(followers | {me}))

    def _standpoint(self, node: str, leader: str | None) -> Standpoint:
        members = self._replicator.roster.members
        role = "leader" if node == leader else "replica" if node in members else "worker"
        return Standpoint(node=node, name=self._peers.called(node), role=role, why=self._why(node, leader))

    def _why(self, node: str, leader: str | None) -> str:
        """Why a node does not lead, or how it came to."""
        if node == leader:
            return self._why_it_leads(node)
        if node not in self._replicator.roster.members:
            return "it is on no roster: it only works"
        mine = node == self._replicator.me
        if mine and leader is None:
            return self._why_not_me()
        if not mine and not self._elector.alive(node):
            return "it does not answer"
        hello = self._peers.hello_of(node)
        if hello is not None and hello.stopping:
            return "it is stopping"
        if hello is not None and hello.leader and hello.leader != leader:
            return f"it follows {self._peers.name_of(hello.leader)}"
        if leader is not None and node > leader:
            return "its id is higher than the leader's"
        reign = self._leadership.reign
        if reign is not None and not self._replicator.in_sync(node):
            return "its copy is not in sync yet"
        if reign is not None and (deaf := self._peers.unheard(node)):
            return f"its id is lower, but it does not reach {', '.join(map(self._peers.name_of, deaf))}"
        if leader is not None:
            return f"its id is lower: it takes over after {self._config.handover_after_s:g} s in sync"
        return "it waits for a majority, as this node does"

    def _why_it_leads(self, node: str) -> str:
        if self._elector.kind():
            return f"the lowest {self._elector.kind()} replica that answers here; there is no majority"
        lower = [member for member in self._replicator.roster.members if member < node]
        away = [self._peers.name_of(member) for member in lower if not self._elector.alive(member)]
        if not lower:
            return "the lowest id of all replicas"
        return (
            f"it was elected; {', '.join(away)} did not answer" if away else "it was elected before lower ids came back"
        )

    def _why_not_me(self) -> str:
        lease, now = self._elector.lease, self._clock.boot_s()
        if now < lease.voter.quiet_until:
            return f"it has just started, and votes in {lease.voter.quiet_until - now:.1f} s"
        if now < lease.voter.until:
            return f"it gave its word to {self._peers.name_of(lease.voter.promise.holder)}"
        return f"it is {lease.role}: {self._majority()} have to agree"

    def _cluster_waits(self, leader: str | None, kind: Kind) -> str:
        if leader is not None and not kind:
            return ""
        roster = self._replicator.roster
        names = ", ".join(self._peers.name_of(node) for node in self._peers.missing())
        if roster.genesis and not roster.members:
            cluster = f"the machines of cluster {short(roster.genesis)}, which this one became part of"
            return f"{cluster}; if they never come back, run `meshq recover`"
        if not names:
            return "" if leader is not None else "an election"
        text = f"{names}: {self._majority()} are needed for a majority"
        if kind is Kind.COLD:
            return f"{text}; until then only new tasks run here. If they never return, run `meshq recover`"
        if self._replicator.me not in roster.members:
            return f"{text}. If they never return, run `meshq recover`"
        return text
