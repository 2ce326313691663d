"""A daemon for the client's and the command line's tests: the real HTTP interface over an in-memory queue."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from meshq.client.options import new_ids
from meshq.core import infos, reports
from meshq.core import requests as ask
from meshq.core.messages import Done
from meshq.core.task import FINISHED
from meshq.errors import Ambiguous, BadArguments, MeshqError, NotFound, UnknownTask
from meshq.wire import values
from meshq.wire.http import build_app
from meshq.wire.server import Server
from meshq.wire.unix import socket_path
from tests.unit.serving import serving

ERROR = {"type": "ValueError", "message": "boom", "traceback": "Traceback (most recent call last):\n  in the_function"}
NODE = reports.NodeView(
    id="0" * 31 + "a", name="alpha", role="leader", address="192.168.1.20:7373", heard_s=0.0, slots=4, running=1,
    behind=0,
)  # fmt: skip


class Twin:
    """Keeps tasks in a dict: `echo` is done at once, `fail` fails at once, `hold` waits for `finish`."""

    def __init__(self) -> None:
        self.tasks: dict[str, reports.TaskView] = {}
        self.specs: dict[str, ask.TaskSpec] = {}
        self.requests: list[ask.Request] = []
        self.refusals: deque[MeshqError] = deque()
        self.refuses: dict[type, MeshqError] = {}
        self.lost_answers = 0
        self.error = dict(ERROR)
        self.pid = os.getpid()
        self.copies, self.majority, self.queued = 2, True, False
        self.status = reports.Status(
            node=NODE.id, leader=NODE.id, epoch=3, majority=True, nodes=(NODE,), tasks={"done": 7}, per_minute=5
        )
        self.stories: dict[str, reports.TaskStory] = {}
        self.cluster_story = reports.ClusterStory(
            node=NODE.id, leader=NODE.id, epoch=3, majority=True, since_ms=None, votes=(NODE.id,), nodes=(), waits="",
            events=(),
        )  # fmt: skip
        self.credentials = reports.Credentials(credentials=())
        self.names = infos.Names(names=())
        self.printed: dict[str, bytes] = {}
        self.lost_bytes = 0
        self.body_bytes_max = 16 << 20
        self.on_stop: Callable[[], object] = lambda: None
        self.asked_to_wait = threading.Event()
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()

    def finish(self, task: str, result: Any) -> None:
        """Ends a task that holds; from any thread."""

        def end() -> None:
            self.tasks[task] = replace(self.tasks[task], state="done", attempt=1, result=values.pack(result))
            self._change()

        self._loop.call_soon_threadsafe(end)

    async def admit(self, owner: str, kind: type) -> None:
        """Everybody on this machine's socket has the key."""
        raise AssertionError(f"{owner} asked for {kind}")

    async def call(self, request: ask.Request, *, local: bool) -> ask.Answer:
        """The service of the HTTP interface."""
        assert local
        self.requests.append(request)
        if self.refusals:
            raise self.refusals.popleft()
        if type(request) in self.refuses:
            raise self.refuses[type(request)]
        return await self._answer(request)

    async def _answer(self, request: ask.Request) -> ask.Answer:
        match request:
            case ask.Submit():
                return self._submit(request)
            case ask.TaskQuery():
                task = self._find(request.id)
                await self._until(lambda: self.tasks[task].state in FINISHED, request.wait_s)
                return self.tasks[task]
            case ask.WaitQuery():
                await self._until(lambda: bool(self._finished(request.ids)), request.wait_s)
                return reports.TaskViews(tasks=tuple(self._finished(request.ids)))
            case ask.TasksQuery():
                return self._page(request)
            case ask.Cancel():
                return self._cancel(request)
            case ask.CancelBatch():
                return self._cancel_batch(request)
            case ask.RetryFailed():
                return self._retry_failed(request)
            case ask.LogQuery():
                return await self._log(request)
            case ask.Retry():
                old = self.specs[self._find(request.id)]
                return self._submit(ask.Submit(tasks=(replace(old, id=new_ids(1)[0], retry_of=old.id),)))
            case ask.Stop():
                self.on_stop()
                return Done()
            case ask.Recover() | ask.Forget() | ask.Drain() | ask.CredentialAdd() | ask.CredentialRevoke():
                return Done()
        return self._told(request)

    def _told(self, request: ask.Request) -> ask.Answer:
        """What it says of itself."""
        match request:
            case ask.StatusQuery():
                return self.status
            case ask.HealthQuery():
                return reports.Health(ok=True, node=NODE.id, role="leader", leader=NODE.id, version="0", pid=self.pid)
            case ask.StatsQuery():
                return reports.Stats(node=NODE.id, boot="b", uptime_s=1.0, counters={})
            case ask.TaskStoryQuery():
                task = self._find(request.id)
                return self.stories.get(task) or reports.TaskStory(task=self.tasks[task], changes=())
            case ask.ClusterStoryQuery():
                return self.cluster_story
            case ask.CredentialsQuery():
                return self.credentials
            case ask.NamesQuery():
                return self.names
        raise NotFound(type(request).__name__)

    def _submit(self, request: ask.Submit) -> ask.Submitted:
        for spec in request.tasks:
            args, _ = values.unpack_arguments(spec.payload)
            if spec.name == "primes" and (not args or type(args[0]) is not int or args[0] < 1):
                raise BadArguments(f"primes: limit must be an integer of at least 1, not {args[:1]!r}")
            if spec.name not in ("echo", "fail", "hold", "primes"):
                raise UnknownTask(f"no live node knows a task {spec.name}; known are echo, fail, hold")
        for spec in request.tasks:
            if spec.id not in self.tasks:
                self.specs[spec.id] = spec
                self.tasks[spec.id] = self._started(spec)
        self._change()
        return ask.Submitted(
            ids=tuple(spec.id for spec in request.tasks),
            copies=self.copies, majority=self.majority, queued=self.queued,
        )  # fmt: skip

    def _started(self, spec: ask.TaskSpec) -> reports.TaskView:
        view = reports.TaskView(
            id=spec.id, name=spec.name, state="pending", attempt=0, retry_of=spec.retry_of, batch=spec.batch
        )  # fmt: skip
        if spec.name == "hold":
            return view
        if spec.name == "fail":
            return replace(view, state="failed", attempt=1, error=values.pack(self.error))
        args, kwargs = values.unpack_arguments(spec.payload)
        return replace(view, state="done", attempt=1, result=values.pack([args, kwargs]))

    def _finished(self, ids: Sequence[str]) -> list[reports.TaskView]:
        return [self.tasks[task] for task in ids if task in self.tasks and self.tasks[task].state in FINISHED]

    def _page(self, query: ask.TasksQuery) -> reports.TaskViews:
        found = [
            view for task, view in sorted(self.tasks.items(), reverse=True)
            if (query.after is None or task < query.after)
            and query.state in (None, view.state) and query.name in (None, view.name)
            and query.batch in (None, view.batch)
        ]  # fmt: skip
        page = found[: query.limit]
        return reports.TaskViews(tasks=tuple(page), next=page[-1].id if len(found) > len(page) else None)

    def _cancel(self, request: ask.Cancel) -> reports.TaskView:
        task = self._find(request.id)
        if self.tasks[task].state not in FINISHED:
            self.tasks[task] = replace(self.tasks[task], state="cancelled")
            self._change()
        return self.tasks[task]

    def _cancel_batch(self, request: ask.CancelBatch) -> reports.Changed:
        batch = [view for view in self.tasks.values() if view.batch == request.batch and view.state not in FINISHED]
        return reports.Changed(ids=tuple(self._cancel(ask.Cancel(id=view.id)).id for view in batch))

    def _retry_failed(self, request: ask.RetryFailed) -> ask.Submitted:
        again = {view.retry_of for view in self.tasks.values()}
        failed = [
            self.specs[task] for task, view in self.tasks.items()
            if view.state == "failed" and task not in again and request.batch in (None, view.batch)
        ]  # fmt: skip
        new = zip(failed, new_ids(len(failed)), strict=True)
        return self._submit(ask.Submit(tasks=tuple(replace(old, id=task, retry_of=old.id) for old, task in new)))

    async def _log(self, request: ask.LogQuery) -> reports.Log:
        task = self._find(request.id)
        after = max(request.after, self.lost_bytes)

        def there() -> bool:
            return len(self.printed[task]) > after or self.tasks[task].state in FINISHED

        await self._until(there, request.wait_s)
        text = self.printed[task][after : after + 10]
        ended = self.tasks[task].state in FINISHED and after + len(text) == len(self.printed[task])
        lost = after - request.after
        return reports.Log(task=task, node=NODE.id, text=text, next=after + len(text), lost=lost, ended=ended)

    def _find(self, text: str) -> str:
        found = [task for task in self.tasks if task.startswith(text) or task.endswith(text)]
        if not found:
            raise NotFound(f"no task has the id {text}")
        if len(found) > 1:
            raise Ambiguous
        return found[0]

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, done: Callable[[], bool], wait_s: float) -> None:
        if wait_s and not done():
            self.asked_to_wait.set()
        try:
            async with asyncio.timeout(wait_s):
                while not done():
                    await self._changed.wait()
        except TimeoutError:
            pass

    def _losing(self) -> Middleware:
        @web.middleware
        async def losing(request: web.Request, handler: Handler) -> web.StreamResponse:
            answer = await handler(request)
            if self.lost_answers and request.transport is not None:
                self.lost_answers -= 1
                request.transport.abort()
            return answer

        return losing

    @contextmanager
    def serving(self, data_dir: Path) -> Iterator[Twin]:
        """Listens on this data directory's socket."""
        app = build_app(self, None, new_id=lambda: new_ids(1)[0], wall_ms=lambda: 0, body_bytes_max=self.body_bytes_max)
        app.middlewares.append(self._losing())
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            server = Server(app, port=None, unix_path=socket_path(data_dir), grace_s=0.1)
            started, ended = threading.Event(), asyncio.Event()

            async def serve() -> None:
                async with serving(server):
                    started.set()
                    await ended.wait()

            running = asyncio.run_coroutine_threadsafe(serve(), self._loop)
            while not started.wait(0.05):
                if running.done():
                    running.result()
            try:
                yield self
            finally:
                self._loop.call_soon_threadsafe(ended.set)
                running.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()
