"""The leader's side of clients' changes: submit, cancel, retry, of one task or many. One for each leadership."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from meshq.config import Config
from meshq.core import access, signature, task
from meshq.core.ids import uuid7
from meshq.core.infos import TaskInfo
from meshq.core.limits import BATCH_TASKS_MAX, KEEP_S_MAX, RUNNING_MAX
from meshq.core.ports import Clock
from meshq.core.quorum import majority
from meshq.core.reports import Changed, TaskView
from meshq.core.requests import Cancel, CancelBatch, Retry, RetryFailed, Submit, Submitted, TaskSpec
from meshq.errors import Malformed, MeshqError, QueueFull, Undecided, UnknownTask
from meshq.node.dispatcher import Dispatcher
from meshq.node.replicator import Replicator
from meshq.node.waiters import Waiters
from meshq.store import feed, queue
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.wire import values
from meshq.wire.aside import Aside

CENSUS_WAIT_S = 3.0
NAMES_SHOWN = 20
RETRY_BYTES = 8 << 20  # arguments that one transaction copies
# The options that a submitter may leave to the task's own.
LEFT_OPEN = ("priority", "timeout_s", "retries", "max_running")
BACKOFFS = tuple(backoff.value for backoff in task.Backoff)


class Intake:
    """Takes clients' changes under one leadership.

    Args:
        replicator: Writes and commits.
        dispatcher: Knows which tasks the live workers know, and is woken.
        waiters: Who waits for tasks to finish.
        clock: Wall clock and ids.
        config: Limits.
    """

    def __init__(
        self, replicator: Replicator, dispatcher: Dispatcher, waiters: Waiters, clock: Clock, config: Config
    ) -> None:
        self._replicator = replicator
        self._dispatcher = dispatcher
        self._waiters = waiters
        self._clock = clock
        self._config = config
        self._open_at_most = config.queue_tasks_max
        self._aside = Aside()

    async def submit(self, request: Submit) -> Submitted:
        """Keeps tasks; answers once they are committed.

        Raises:
            Conflict: An id is that of another's task.
            Malformed: An option is none, or out of range.
            UnknownTask, BadArguments: A task that no node could run; none of the request is kept. Not for those
                that waited in an outbox, which become failed tasks.
            QueueFull: The queue is as long as it may be.
        """
        known = await self._known({spec.name: None for spec in request.tasks})
        specs = tuple(_filled(spec, known.get(spec.name)) for spec in request.tasks)
        problems = await self._problems(specs, known)
        if problems and not request.late:
            raise _first(problems, specs)
        specs = tuple(_fit(spec) for spec in specs)
        now_ms = self._clock.wall_ms()

        def work(conn: Connection, pen: Pen) -> tuple[str, ...]:
            if owner := access.bearer(request):
                queue.check_ids(conn, specs)
                self._check_share(conn, specs, owner)
            if not request.late:
                self._make_room(conn, specs)
            ids = self._keep(conn, pen, specs, now_ms, late=request.late)
            self._fail(conn, pen, problems, now_ms)
            return ids

        ids, seq = await self._replicator.write(self._dispatcher.term, work)
        self._waiters.wake(problems)
        return await self._kept(ids, seq)

    def _keep(
        self, conn: Connection, pen: Pen, specs: Sequence[TaskSpec], now_ms: int, *, late: bool = False
    ) -> tuple[str, ...]:
        config = self._config
        return queue.submit(
            conn, pen, specs, now_ms, config.inline_bytes_max, step_s=config.priority_step_s, late=late
        )  # fmt: skip

    async def _kept(self, ids: tuple[str, ...], seq: int) -> Submitted:
        """The answer, once all up to this seq is committed."""
        copies = await self._replicator.commit(seq, self._dispatcher.term)
        enough = copies >= majority(len(self._replicator.roster.members))
        return Submitted(ids=ids, copies=copies, majority=enough and not self._dispatcher.term.split, queued=False)

    async def cancel(self, request: Cancel) -> TaskView:
        """Calls a task off; answers once that is committed. One that is finished stays as it is.

        Raises:
            NotFound, Ambiguous: The id fits no task, or several; or it was kept for so short a time that it is gone.
        """
        now_ms = self._clock.wall_ms()

        def work(conn: Connection, pen: Pen) -> str:
            return queue.cancel(conn, pen, queue.find(conn, request.id, request.owner), now_ms).id

        found, seq = await self._replicator.write(self._dispatcher.term, work)
        self._dispatcher.claims.call_off([found])
        await self._replicator.commit(seq, self._dispatcher.term)
        self._waiters.wake([found])
        shown, committed = self._replicator.shown(), dict(self._replicator.committed)
        return await self._replicator.database.read(lambda conn: queue.view(conn, found, shown, committed))

    async def cancel_batch(self, request: CancelBatch) -> Changed:
        """Calls all open tasks of a batch off, all or none; answers once that is committed.

        Of very many the answer names the first BATCH_TASKS_MAX.

        Raises:
            NotFound: There is no task of this batch.
        """
        now_ms = self._clock.wall_ms()
        ids, seq = await self._replicator.write(
            self._dispatcher.term,
            lambda conn, pen: queue.cancel_batch(conn, pen, request.batch, request.owner, now_ms),
        )
        self._dispatcher.claims.call_off(ids)
        await self._replicator.commit(seq, self._dispatcher.term)
        self._waiters.wake(ids)
        return Changed(ids=ids[:BATCH_TASKS_MAX])

    async def retry(self, request: Retry) -> Submitted:
        """A new task like a finished one, whose id it names.

        Raises:
            NotFound, Ambiguous: The id fits no task, or several.
            Conflict: The task is not finished.
        """
        new_id = self._new_id()
        spec = await self._replicator.database.read(
            lambda conn: queue.retry_spec(conn, queue.find(conn, request.id, request.owner), new_id)
        )
        return await self.submit(Submit(tasks=(spec,)))

    async def retry_failed(self, request: RetryFailed) -> Submitted:
        """A new task like each failed one that was not run again yet; those that nobody could run stay as they are.

        In parts, each of which is on disk or not: whoever repeats the request goes on where it broke off.

        Raises:
            NotFound: There is no task of this batch.
            Conflict: They are more than BATCH_TASKS_MAX; nothing was changed.
            UnknownTask, BadArguments: Nobody could run any of them.
            QueueFull: The queue is as long as it may be.
        """
        names = await self._replicator.database.read(lambda conn: queue.retryable(conn, request.batch, request.owner))
        known = await self._known(names)
        ids: list[str] = []
        problems: list[MeshqError] = []
        after, seq = "", 0
        while True:
            work = partial(self._retry_part, request, known, after)
            (kept, unfit, last), seq = await self._replicator.write(self._dispatcher.term, work)
            ids += kept
            problems += unfit
            if not last:
                break
            after = last
        if problems and not ids:
            raise problems[0]
        return await self._kept(tuple(ids), seq)

    def _retry_part(
        self, request: RetryFailed, known: Mapping[str, TaskInfo], after: str, conn: Connection, pen: Pen
    ) -> tuple[tuple[str, ...], list[MeshqError], str]:
        """Runs some of them again; the new ids, why others can't be, and the last task, empty where there was none."""
        specs = queue.retry_specs(conn, request.batch, request.owner, self._new_id, after, RETRY_BYTES)
        problems = _problems_of(specs, known)
        fit = [spec for spec in specs if spec.id not in problems]
        if owner := access.bearer(request):
            self._check_share(conn, fit, owner)
        self._make_room(conn, fit)
        ids = self._keep(conn, pen, fit, self._clock.wall_ms())
        return ids, list(problems.values()), str(specs[-1].retry_of) if specs else ""

    def _new_id(self) -> str:
        return uuid7(self._clock.wall_ms(), self._clock.random_bits(74))

    def _make_room(self, conn: Connection, specs: Sequence[TaskSpec]) -> None:
        """Counts anew only when there might be too many, since counting takes as long as the queue."""
        count, most = len(specs), self._config.queue_tasks_max
        if self._open_at_most + count > most:
            self._open_at_most = queue.open_count(conn)
            count = _new(conn, specs)
        if self._open_at_most + count > most:
            raise QueueFull(f"the queue holds {self._open_at_most} of at most {most} tasks; try again later")
        self._open_at_most += count

    def _check_share(self, conn: Connection, specs: Sequence[TaskSpec], owner: str) -> None:
        most = self._config.credential_tasks_max
        there = queue.open_count_of(conn, owner, most)
        if there + len(specs) > most and there + _new(conn, specs) > most:
            raise QueueFull(
                f"the credential {owner} has {there} of at most {most} unfinished tasks (credential_tasks_max); try "
                "again with fewer, or when some are finished"
            )

    def _fail(self, conn: Connection, pen: Pen, problems: dict[str, MeshqError], now_ms: int) -> None:
        for task_id, problem in problems.items():
            row = queue.get(conn, task_id)
            if row is not None and row.state == task.State.PENDING:
                error = values.pack({"type": type(problem).__name__, "message": problem.message, "traceback": ""})
                feed.write_tasks(conn, pen, [task.failed(row, error, now_ms)])

    async def _known(self, names: Iterable[str]) -> dict[str, TaskInfo]:
        """All tasks that the live workers know, once they had time to tell about these."""
        for name in names:
            await self._wait_until_known(name)
        return dict(self._dispatcher.claims.known_tasks(self._clock.boot_s()))

    async def _problems(self, specs: Sequence[TaskSpec], known: Mapping[str, TaskInfo]) -> dict[str, MeshqError]:
        """What is wrong with which of these tasks; in a thread where that takes long."""
        size_bytes = sum(len(spec.payload) for spec in specs)
        return await self._aside.run(lambda: _problems_of(specs, known), size_bytes)

    async def _wait_until_known(self, name: str) -> None:
        """Right after a takeover the workers have not all said what they know yet."""
        deadline = self._clock.boot_s() + CENSUS_WAIT_S
        while True:
            count = self._dispatcher.census.count
            if name in self._dispatcher.claims.known_tasks(self._clock.boot_s()) or self._dispatcher.all_told():
                return
            left_s = deadline - self._clock.boot_s()
            if left_s <= 0:
                raise Undecided(f"no worker has told yet whether it knows {name}; try again in a few seconds")
            await self._dispatcher.census.after(count, left_s)


def _new(conn: Connection, specs: Sequence[TaskSpec]) -> int:
    """How many of these are not here: one that is takes no room; its client repeats it, since the answer was lost."""
    return len(specs) - len(queue.present(conn, [spec.id for spec in specs]))


def _filled(spec: TaskSpec, info: TaskInfo | None) -> TaskSpec:
    """The spec, with what it left open as the task itself has it."""
    own = {name: getattr(info, name) for name in spec.unset if name in LEFT_OPEN and info is not None}
    if spec.owner and own.get("priority"):
        own["priority"] = min(0, own["priority"])  # the tasks of a credential go before no others
    return replace(spec, **{name: value for name, value in own.items() if value is not None}) if own else spec


def _fit(spec: TaskSpec) -> TaskSpec:
    """The spec without what no row can hold, for one that is kept as failed because of it."""
    if _unfit(spec) is None:
        return spec
    return replace(spec, backoff=task.Backoff.EXPONENTIAL.value, max_running=0, keep_s=None)


def _unfit(spec: TaskSpec) -> MeshqError | None:
    """What is wrong with the options of a spec, whoever passed it on."""
    for name in spec.unset:
        if name not in LEFT_OPEN:
            return Malformed(f"unset: {name[:40]!r} can't be left open; {', '.join(LEFT_OPEN)} can")
    if spec.backoff not in BACKOFFS:
        return Malformed(f"backoff: must be one of {', '.join(BACKOFFS)}, not {spec.backoff[:40]!r}")
    if not 0 <= spec.max_running <= RUNNING_MAX:
        return Malformed(f"max_running: must be from 0 (no bound) to {RUNNING_MAX}, not {spec.max_running}")
    if spec.keep_s is not None and not 0 <= spec.keep_s <= KEEP_S_MAX:
        return Malformed(f"keep_s: must be from 0 to {KEEP_S_MAX:.0f} seconds, not {spec.keep_s}")
    return None


def _problems_of(specs: Sequence[TaskSpec], known: Mapping[str, TaskInfo]) -> dict[str, MeshqError]:
    """What is wrong with which of these tasks."""
    problems: dict[str, MeshqError] = {}
    checked: dict[tuple[str, bytes], MeshqError | None] = {}
    for spec in specs:
        key = (spec.name, spec.payload)
        if key not in checked:
            checked[key] = _problem(spec, known)
        problem = _unfit(spec) or checked[key]
        if problem is not None:
            problems[spec.id] = problem
    return problems


def _first(problems: Mapping[str, MeshqError], specs: Sequence[TaskSpec]) -> MeshqError:
    """The first of them; with its place, where it is not that of all."""
    index, problem = next((index, problems[spec.id]) for index, spec in enumerate(specs) if spec.id in problems)
    if len(problems) == len(specs) and len({each.message for each in problems.values()}) == 1:
        return problem
    return type(problem)(f"tasks[{index}]: {problem.message}")


def _problem(spec: TaskSpec, known: Mapping[str, TaskInfo]) -> MeshqError | None:
    info = known.get(spec.name)
    if info is None:
        more = f" and {len(known) - NAMES_SHOWN} more" if len(known) > NAMES_SHOWN else ""
        names = ", ".join(sorted(known)[:NAMES_SHOWN]) + more or "none, since no worker is there"
        return UnknownTask(f"no live node knows a task named {spec.name}; known are: {names}")
    try:
        args, kwargs = values.unpack_arguments(spec.payload)
        signature.check(info, args, kwargs)
    except MeshqError as error:
        return error
    return None
