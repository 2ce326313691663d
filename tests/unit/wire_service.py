"""A service that keeps its tasks in a dict: the twin of the node behind the HTTP interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from meshq.core import access, infos, reports
from meshq.core import requests as ask
from meshq.core.messages import Done
from meshq.core.task import FINISHED
from meshq.errors import Conflict, NoLeader, NotFound

NODE = "a" * 32
NEWS = infos.TaskInfo(
    name="news", doc="All of it.", retries=2,
    params=(infos.Param(name="day", kind="POSITIONAL_OR_KEYWORD", required=False, type="int", default="1"),),
)  # fmt: skip


class DictService:
    """Does at once what a request says; `leaderless` keeps tasks as queued, `broken` raises what stands there."""

    def __init__(self) -> None:
        self.specs: dict[str, ask.TaskSpec] = {}
        self.views: dict[str, reports.TaskView] = {}
        self.seen: list[tuple[ask.Request, bool]] = []
        self.admitted: list[tuple[str, type]] = []
        self.leaderless = False
        self.broken: BaseException | None = None
        self.stopped = False
        self.printed = b""
        self.checkpoint: bytes | None = None

    async def admit(self, owner: str, kind: type) -> None:
        self.admitted.append((owner, kind))
        access.check(kind, owner)

    async def call(self, request: ask.Request, *, local: bool) -> ask.Answer:
        self.seen.append((request, local))
        if self.broken is not None:
            raise self.broken
        answers: dict[type, Callable[[Any], Any]] = {
            ask.Submit: self._submit, ask.Get: self._get, ask.SubmitResult: self._submit_result,
            ask.TaskQuery: lambda query: self._one(query.id), ask.WaitQuery: self._wait, ask.TasksQuery: self._list,
            ask.Cancel: self._cancel, ask.Retry: self._retry, ask.Stop: self._stop,
            ask.Heartbeat: lambda _: ask.HeartbeatAnswer(epoch=3, tell=True),
            ask.Recover: lambda _: Done(), ask.Forget: lambda _: Done(), ask.TaskStoryQuery: self._task_story,
            ask.Drain: lambda _: Done(), ask.CancelBatch: self._cancel_batch, ask.LogQuery: self._log,
            ask.RetryFailed: lambda _: ask.Submitted(ids=("e" * 32,), copies=1, majority=True, queued=False),
            ask.NamesQuery: lambda _: infos.Names(names=(infos.Name(info=NEWS, nodes=(NODE,)),)),
            ask.CredentialAdd: lambda _: Done(), ask.CredentialRevoke: lambda _: Done(),
            ask.CredentialsQuery: lambda _: reports.Credentials(
                credentials=(reports.CredentialView(name="bob", issued_ms=1),)
            ),
            ask.ClusterStoryQuery: lambda _: self._cluster_story(), ask.StatusQuery: lambda _: self._status(),
            ask.StatsQuery: lambda _: reports.Stats(node=NODE, boot="b", uptime_s=1.5, counters={"late_answer": 2}),
            ask.HealthQuery: lambda _: reports.Health(
                ok=True, node=NODE, role="leader", leader=NODE, version="0", pid=7
            ),
        }  # fmt: skip
        answer: ask.Answer = answers[type(request)](request)
        return answer

    def _wait(self, request: ask.WaitQuery) -> reports.TaskViews:
        views = [self.views[task] for task in request.ids if task in self.views]
        return reports.TaskViews(tasks=tuple(view for view in views if view.state in FINISHED))

    def _cancel(self, request: ask.Cancel) -> reports.TaskView:
        view = self.views[request.id] = replace(self._one(request.id), state="cancelled")
        return view

    def _cancel_batch(self, request: ask.CancelBatch) -> reports.Changed:
        return reports.Changed(ids=tuple(spec.id for spec in self.specs.values() if spec.batch == request.batch))

    def _log(self, request: ask.LogQuery) -> reports.Log:
        text = self.printed[request.after :]
        return reports.Log(task=self._one(request.id).id, node=NODE, text=text, next=request.after + len(text), lost=3)

    def _retry(self, request: ask.Retry) -> ask.Submitted:
        if self._one(request.id).state not in FINISHED:
            raise Conflict("the task is not finished")
        return self._submit(ask.Submit(tasks=(replace(self.specs[request.id], id="f" * 32),)))

    def _stop(self, request: ask.Stop) -> Done:
        self.stopped = True
        return Done()

    def _submit(self, request: ask.Submit) -> ask.Submitted:
        for spec in request.tasks:
            self.specs[spec.id] = spec
            self.views[spec.id] = reports.TaskView(id=spec.id, name=spec.name, state="pending", attempt=0)
        ids = tuple(spec.id for spec in request.tasks)
        return ask.Submitted(ids=ids, copies=1, majority=not self.leaderless, queued=self.leaderless)

    def _get(self, request: ask.Get) -> ask.Got:
        if self.leaderless:
            raise NoLeader
        waiting = [spec for spec in self.specs.values() if self.views[spec.id].state == "pending"][: request.free]
        for spec in waiting:
            self.views[spec.id] = replace(self.views[spec.id], state="running", attempt=1, worker=request.node)
        jobs = [
            ask.Job(id=spec.id, name=spec.name, epoch=3, attempt=1, payload=spec.payload, checkpoint=self.checkpoint)
            for spec in waiting
        ]
        return ask.Got(epoch=3, jobs=tuple(jobs))

    def _submit_result(self, request: ask.SubmitResult) -> ask.ResultsTaken:
        for outcome in request.outcomes:
            view = self._one(outcome.task)
            self.views[view.id] = replace(view, state=outcome.kind, result=outcome.result, error=outcome.error)
        return ask.ResultsTaken(epoch=3, dropped={}, queued=self.leaderless)

    def _one(self, task: str) -> reports.TaskView:
        for view in self.views.values():
            if view.id.startswith(task) or view.id.endswith(task):
                return view
        raise NotFound(f"there is no task {task}")

    def _list(self, request: ask.TasksQuery) -> reports.TaskViews:
        fit = [view for view in self.views.values() if request.state in (None, view.state)]
        fit = [view for view in fit if request.name in (None, view.name)]
        return reports.TaskViews(tasks=tuple(fit[: request.limit]), next="next" if len(fit) > request.limit else None)

    def _task_story(self, request: ask.TaskStoryQuery) -> reports.TaskStory:
        view = self._one(request.id)
        return reports.TaskStory(
            task=view, waits="for a slot",
            changes=(reports.Change(at_ms=5, move="submit", epoch=3, node=NODE, cause="a client"),),
            clashes=(
                reports.Clash(
                    task=view.id, state="done", worker=NODE, epoch=2, result=view.result, error=view.error,
                    finished_ms=6, differs=True,
                ),
            ),
        )  # fmt: skip

    def _cluster_story(self) -> reports.ClusterStory:
        return reports.ClusterStory(
            node=NODE, leader=None, epoch=3, majority=False, since_ms=None, votes=(NODE,),
            nodes=(reports.Standpoint(node=NODE, name="box", role="replica", why="no majority"),), waits="for beta",
            events=(reports.Event(at_ms=1, text="started"),),
            merges=(reports.MergeReport(at_ms=2, node=NODE, merged=3, twice=2, differed=1, held=0),),
        )  # fmt: skip

    def _status(self) -> reports.Status:
        node = reports.NodeView(
            id=NODE, name="box", role="leader", address="10.0.0.1:7373", heard_s=0.0, slots=2, running=0, behind=0
        )
        tasks = {"pending": len(self.views)}
        merge = reports.MergeReport(at_ms=2, node=NODE, merged=3, twice=2, differed=1, held=0)
        return reports.Status(
            node=NODE, leader=None, epoch=3, majority=False, nodes=(node,), tasks=tasks, copies=1, split="cold",
            missing=("b" * 32,), merge=merge,
        )  # fmt: skip
