"""Where a request goes: here if this node leads, else one hop to the leader, else the outbox or this copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from meshq.core import access, reports
from meshq.core import requests as ask
from meshq.core.ids import short
from meshq.core.messages import Call, CallAnswer, Done
from meshq.core.ports import Clock, Transport
from meshq.core.task import FINISHED
from meshq.errors import Forbidden, InvariantBroken, MeshqError, NoLeader, NotFound, Stopping
from meshq.node.counters import Counters
from meshq.node.credentials import Register
from meshq.node.elector import Elector
from meshq.node.errands import Errands
from meshq.node.explain import Explain
from meshq.node.forward import forwarded
from meshq.node.leadership import Leadership
from meshq.node.recovery import Recovery
from meshq.node.reign import Reign
from meshq.node.views import Views
from meshq.store.outbox import Outbox
from meshq.wire import codec

FORWARD_S = 5.0
STATUS_S = 0.8
LOOK_AGAIN_S = 0.5
LOCAL = (ask.Stop, ask.Recover, ask.ChangeKey, ask.StatsQuery, ask.HealthQuery, ask.ClusterStoryQuery)
# Asked by another node of this very one, whoever leads.
ON_THE_SPOT = (ask.LogHere, ask.Drain)
FORWARDED = {name: kind for name, kind in codec.REQUESTS.items() if kind not in LOCAL}


class Gateway:
    """Takes every request of clients and workers.

    Args:
        me: This node's id.
        boot: This start of it.
        leadership: The work, where this node leads.
        elector: Knows who leads.
        views: Answers out of this node's own copy.
        explain: Tells the story of a task, and of the cluster.
        recovery: What a person does when machines are gone for good.
        errands: What is asked of one node, wherever it is asked.
        register: The credentials.
        outbox: Keeps what has no leader.
        transport: To the leader.
        clock: The lease clock.
        counters: Where failed hops are counted.
        health: How this daemon is.
        stop: Begins the daemon's stop; for good where it is told True.
    """

    def __init__(
        self,
        me: str,
        boot: str,
        leadership: Leadership,
        elector: Elector,
        views: Views,
        explain: Explain,
        recovery: Recovery,
        errands: Errands,
        register: Register,
        outbox: Outbox,
        transport: Transport,
        clock: Clock,
        counters: Counters,
        health: Callable[[], reports.Health],
        stop: Callable[[bool], None],
    ) -> None:
        self.stopping = False
        self._me = me
        self._boot = boot
        self._leadership = leadership
        self._elector = elector
        self._views = views
        self._explain = explain
        self._recovery = recovery
        self._errands = errands
        self._register = register
        self._outbox = outbox
        self._transport = transport
        self._clock = clock
        self._counters = counters
        self._health = health
        self._stop = stop
        self._started_at = clock.boot_s()

    async def admit(self, owner: str, kind: type) -> None:
        """Whether who brings this credential may send requests of this class.

        Raises:
            Forbidden: It may not, or the credential is not valid.
            NoLeader: This copy does not know the credential, and there is no leader to be asked.
        """
        found = await self._register.find(owner)
        if found is None and self._elector.leader() != self._me:
            # This copy may be behind, and a node that only works has none.
            answer = await self.lead(ask.CredentialsQuery(name=owner))
            found = next(iter(answer.credentials), None) if isinstance(answer, reports.Credentials) else None
        self._check(owner, found, kind)

    def _check(self, owner: str, found: reports.CredentialView | None, kind: type) -> None:
        try:
            access.check_listed(owner, found)
            access.check(kind, owner)
        except Forbidden as error:
            self._counters.add("credential_refused", str(error))
            raise

    async def call(self, request: ask.Request, *, local: bool = True) -> ask.Answer:
        """Answers any request, which `access.narrowed` has confined to what its sender may mean.

        Raises:
            MeshqError: With the code, status and text that the asker gets.
        """
        if isinstance(request, LOCAL):
            return await self._here(request)
        match request:
            case ask.StatusQuery():
                return await self._status()
            case ask.Submit():
                return await self._submit(request)
            case ask.SubmitResult():
                return await self._submit_result(request)
            case ask.TaskQuery():
                return await self._task(request)
            case ask.TaskStoryQuery() | ask.CredentialsQuery():
                return await self._lead_or_here(request)
            case ask.WaitQuery() | ask.TasksQuery():
                return await self._read(request)
            case ask.Drain():
                return await self._errands.drain(request)
        return await self.lead(request)

    async def _here(self, request: ask.Request) -> ask.Answer:
        """What is asked of this very node, whoever leads."""
        match request:
            case ask.HealthQuery():
                return self._health()
            case ask.StatsQuery():
                uptime_s = self._clock.boot_s() - self._started_at
                return reports.Stats(node=self._me, boot=self._boot, uptime_s=uptime_s, counters=self._counters.all())
            case ask.ClusterStoryQuery():
                return await self._explain.cluster()
            case ask.Recover():
                await self._recovery.recover()
            case ask.ChangeKey():
                self._recovery.change_key(request.step, force=request.force)
            case ask.Stop():
                if request.leave:
                    self._recovery.check_leave()
                self._stop(request.leave)
        return Done()

    async def lead(self, request: ask.Request) -> ask.Answer:
        """What the leader answers, here or one hop away.

        Raises:
            NoLeader: There is none, it can't be reached, or it stepped down meanwhile.
        """
        leader = self._elector.leader()
        if leader == self._me:
            return await self._lead_here(request)
        if leader is None:
            raise NoLeader
        wait_s = getattr(request, "wait_s", 0.0)
        timeout_s = STATUS_S if isinstance(request, ask.StatusQuery) else FORWARD_S + wait_s
        owner = access.bearer(request)
        return await forwarded(self._transport, leader, request, timeout_s=timeout_s, owner=owner)

    async def on_call(self, sender: str, call: Call) -> CallAnswer:
        """A request that another node forwarded; it goes no further."""
        request = codec.decode_body(call.request, call.body, FORWARDED)
        if isinstance(request, ask.Get | ask.Heartbeat | ask.SubmitResult):
            self._check_worker(sender, request.node)
        if call.owner:
            # That other node may have an old list; the leader's is the one that counts.
            await self._leadership.leading()
            self._check(call.owner, await self._register.find(call.owner), type(request))
            request = access.narrowed(request, call.owner)
        answer = await (self._errands.here(request) if isinstance(request, ON_THE_SPOT) else self._lead_here(request))
        return CallAnswer(answer=type(answer).__name__, body=codec.encode_body(answer))

    def _check_worker(self, sender: str, worker: str) -> None:
        """A node speaks as worker for itself, and for workers that are none of the nodes here."""
        if worker != sender and (worker == self._me or worker in self._transport.connected()):
            raise Forbidden(f"…{short(sender)} can't speak for …{short(worker)}")

    async def _lead_here(self, request: ask.Request) -> ask.Answer:
        """Does what only a leader may.

        Raises:
            NoLeader: This node does not lead, or did no longer when the answer was there.
        """
        reign = await self._leadership.leading()
        answer = await self._dispatch(reign, request)
        # Asked again after the work and before the answer leaves.
        if self._leadership.reign is not reign or self._elector.term() != reign.term:
            raise NoLeader("the leadership changed while the request was handled")
        return answer

    async def _dispatch(self, reign: Reign, request: ask.Request) -> ask.Answer:
        match request:
            case ask.Submit():
                return await reign.intake.submit(request)
            case ask.Cancel():
                return await self._views.ended(await reign.intake.cancel(request), request.wait_s)
            case ask.CancelBatch():
                return await reign.intake.cancel_batch(request)
            case ask.Retry():
                return await reign.intake.retry(request)
            case ask.RetryFailed():
                return await reign.intake.retry_failed(request)
            case ask.Get():
                return await reign.dispatcher.get(request)
            case ask.Heartbeat():
                return await reign.dispatcher.heartbeat(request)
            case ask.SubmitResult():
                return await reign.dispatcher.submit_result(request)
            case ask.Forget():
                await self._recovery.forget(request.node)
                return Done()
            case ask.CredentialAdd() | ask.CredentialRevoke():
                return await self._register.change(reign.term, request)
        return await self._look(reign, request)

    async def _look(self, reign: Reign, request: ask.Request) -> ask.Answer:
        match request:
            case ask.TaskQuery():
                return await self._views.task(request)
            case ask.TaskStoryQuery():
                return await self._explain.task(request)
            case ask.WaitQuery():
                return await self._views.wait(request)
            case ask.TasksQuery():
                return await self._views.page(request)
            case ask.CredentialsQuery():
                return await self._register.told(request)
            case ask.StatusQuery():
                return await self._views.status()
            case ask.LogQuery():
                return await self._errands.printed(request)
            case ask.NamesQuery():
                return await self._views.names(reign)
        raise InvariantBroken(f"epoch {reign.term.epoch}: a leader has no answer to a {type(request).__name__}")

    # -- with a leader or without ------------------------------------------------------------------------

    async def _submit(self, request: ask.Submit) -> ask.Answer:
        if self.stopping:
            raise Stopping
        try:
            return await self.lead(request)
        except NoLeader as error:
            # It may have been kept all the same; its ids make a second delivery the same tasks.
            self._counters.add("submit_queued", str(error), len(request.tasks))
        await self._outbox.put_submits(request.tasks)
        return ask.Submitted(ids=tuple(spec.id for spec in request.tasks), copies=1, majority=False, queued=True)

    async def _submit_result(self, request: ask.SubmitResult) -> ask.Answer:
        try:
            return await self.lead(request)
        except NoLeader as error:
            self._counters.add("result_queued", str(error), len(request.outcomes))
        await self._outbox.put_results(request.outcomes, request.boot)
        return ask.ResultsTaken(epoch=self._elector.promised_epoch, dropped={}, queued=True)

    async def _lead_or_here(self, query: ask.TaskStoryQuery | ask.CredentialsQuery) -> ask.Answer:
        try:
            return await self.lead(query)
        except NoLeader as error:
            self._counters.add("read_without_leader", str(error))
        if isinstance(query, ask.CredentialsQuery):
            return await self._register.told(query)
        return await self._explain.task(query)

    async def _task(self, query: ask.TaskQuery) -> ask.Answer:
        try:
            return await self._read(query)
        except NotFound as error:
            if (queued := await self._views.queued(query)) is None:
                raise error
            return queued

    async def _read(self, query: ask.TaskQuery | ask.WaitQuery | ask.TasksQuery) -> ask.Answer:
        """The leader's answer; without one, what is committed here, and the leader again when there is one."""
        wait_s = getattr(query, "wait_s", 0.0)
        deadline = self._clock.boot_s() + wait_s
        while True:
            count = self._elector.changed.count
            left_s = min(wait_s, max(0.0, deadline - self._clock.boot_s()))
            try:
                now = query if isinstance(query, ask.TasksQuery) else replace(query, wait_s=left_s)
                return await self.lead(now)
            except NoLeader as error:
                self._counters.add("read_without_leader", str(error))
            answer = await self._read_here(query)
            left_s = deadline - self._clock.boot_s()
            if left_s <= 0 or _is_full(answer):
                return answer
            await self._elector.changed.after(count, min(left_s, LOOK_AGAIN_S))

    async def _read_here(
        self, query: ask.TaskQuery | ask.WaitQuery | ask.TasksQuery
    ) -> reports.TaskView | reports.TaskViews:
        match query:
            case ask.TaskQuery():
                return await self._views.task(replace(query, wait_s=0.0))
            case ask.WaitQuery():
                return await self._views.wait(replace(query, wait_s=0.0))
            case ask.TasksQuery():
                return await self._views.page_with_queued(query)

    async def _status(self) -> ask.Answer:
        try:
            answer = await self.lead(ask.StatusQuery())
        except MeshqError as error:
            self._counters.add("status_without_leader", str(error))
            return await self._views.status()
        if isinstance(answer, reports.Status):
            return replace(answer, node=self._me, queued=await self._outbox.count_submits())
        return answer


def _is_full(answer: reports.TaskView | reports.TaskViews) -> bool:
    return bool(answer.tasks) if isinstance(answer, reports.TaskViews) else answer.state in FINISHED
