"""The leader's side of clients' changes: submit, cancel, retry. One for each leadership."""

from __future__ import annotations

from collections.abc import Sequence

from meshq.config import Config
from meshq.core import access, signature, task
from meshq.core.ids import uuid7
from meshq.core.ports import Clock
from meshq.core.quorum import majority
from meshq.core.reports import TaskView
from meshq.core.requests import Cancel, Retry, Submit, Submitted, TaskInfo, TaskSpec
from meshq.errors import MeshqError, QueueFull, Undecided, UnknownTask
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
            UnknownTask, BadArguments: A task that no node could run; none of the request is kept. Not for those
                that waited in an outbox, which become failed tasks.
            QueueFull: The queue is as long as it may be.
        """
        problems = await self._problems(request.tasks)
        if problems and not request.late:
            raise next(iter(problems.values()))
        now_ms = self._clock.wall_ms()

        def work(conn: Connection, pen: Pen) -> tuple[str, ...]:
            if owner := access.bearer(request):
                queue.check_ids(conn, request.tasks)
                self._check_share(conn, request.tasks, owner)
            if not request.late:
                self._make_room(conn, request.tasks)
            ids = queue.submit(conn, pen, request.tasks, now_ms, self._config.inline_bytes_max)
            self._fail(conn, pen, problems, now_ms)
            return ids

        ids, seq = await self._replicator.write(self._dispatcher.term, work)
        copies = await self._replicator.commit(seq, self._dispatcher.term)
        self._waiters.wake(problems)
        enough = copies >= majority(len(self._replicator.roster.members))
        return Submitted(ids=ids, copies=copies, majority=enough and not self._dispatcher.term.split, queued=False)

    async def cancel(self, request: Cancel) -> TaskView:
        """Calls a task off; answers once that is committed. One that is finished stays as it is.

        Raises:
            NotFound, Ambiguous: The id fits no task, or several.
        """
        now_ms = self._clock.wall_ms()

        def work(conn: Connection, pen: Pen) -> str:
            return queue.cancel(conn, pen, queue.find(conn, request.id, request.owner), now_ms).id

        found, seq = await self._replicator.write(self._dispatcher.term, work)
        self._dispatcher.claims.drop([found])
        await self._replicator.commit(seq, self._dispatcher.term)
        self._waiters.wake([found])
        shown, committed = self._replicator.shown(), dict(self._replicator.committed)
        views = await self._replicator.database.read(
            lambda conn: queue.views(conn, [found], shown, committed, with_result=True)
        )
        return views[0]

    async def retry(self, request: Retry) -> Submitted:
        """A new task like a finished one, whose id it names.

        Raises:
            NotFound, Ambiguous: The id fits no task, or several.
            Conflict: The task is not finished.
        """
        new_id = uuid7(self._clock.wall_ms(), self._clock.random_bits(74))
        spec = await self._replicator.database.read(
            lambda conn: queue.retry_spec(conn, queue.find(conn, request.id, request.owner), new_id)
        )
        return await self.submit(Submit(tasks=(spec,)))

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

    async def _problems(self, specs: Sequence[TaskSpec]) -> dict[str, MeshqError]:
        """What is wrong with which of these tasks."""
        for name in dict.fromkeys(spec.name for spec in specs):
            await self._wait_until_known(name)
        known = dict(self._dispatcher.claims.known_tasks(self._clock.boot_s()))
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


def _problems_of(specs: Sequence[TaskSpec], known: dict[str, TaskInfo]) -> dict[str, MeshqError]:
    problems: dict[str, MeshqError] = {}
    checked: dict[tuple[str, bytes], MeshqError | None] = {}
    for spec in specs:
        key = (spec.name, spec.payload)
        if key not in checked:
            checked[key] = _problem(spec, known)
        problem = checked[key]
        if problem is not None:
            problems[spec.id] = problem
    return problems


def _problem(spec: TaskSpec, known: dict[str, TaskInfo]) -> MeshqError | None:
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
