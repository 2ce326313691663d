"""The HTTP interface: paths, forms and errors. What a request does is the service's, which the node gives.

Every error has the body `{code, message, retryable}` and the status of its class in `errors`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from aiohttp import web

from meshq.core import access, limits
from meshq.core.messages import Hello
from meshq.core.requests import (
    Answer,
    Cancel,
    CancelBatch,
    ChangeKey,
    ClusterStoryQuery,
    CredentialAdd,
    CredentialRevoke,
    CredentialsQuery,
    Drain,
    Forget,
    Get,
    HealthQuery,
    Heartbeat,
    LogQuery,
    NamesQuery,
    Recover,
    Request,
    ResultsTaken,
    Retry,
    RetryFailed,
    StatsQuery,
    StatusQuery,
    Stop,
    Submit,
    SubmitResult,
    Submitted,
    TaskQuery,
    TasksQuery,
    TaskStoryQuery,
    WaitQuery,
)
from meshq.errors import Forbidden, Malformed, MeshqError, NotFound, Stopping
from meshq.wire import asked, bodies, callers, codec, forms, shares, views
from meshq.wire.callers import Caller
from meshq.wire.waits import Waits

log = logging.getLogger(__name__)

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service(Protocol):
    """What the node does with a request, whoever brings it."""

    async def admit(self, owner: str, kind: type) -> None:
        """Raises MeshqError unless who brings this credential may send requests of this class."""

    async def call(self, request: Request, *, local: bool) -> Answer:
        """The answer; `local` where it came over the Unix socket. Raises MeshqError."""


class Peers(Protocol):
    """Where other nodes' links end."""

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        """Takes a link, as long as it lasts."""

    async def hang_up(self) -> None:
        """Closes all links."""


class NoSuchPath(NotFound):
    """There is no such path."""

    code = "no_such_path"


class MethodNotAllowed(MeshqError):
    """This path takes another method."""

    code, status = "method_not_allowed", 405


class Gate:
    """Whether new work is let in; shut in the first stage of a stop."""

    def __init__(self) -> None:
        self.shut = False


GATE: Final = web.AppKey("gate", Gate)
CALLER: Final = web.RequestKey("caller", Caller)
W = TypeVar("W", Get, Heartbeat, SubmitResult)
R = TypeVar("R")
_NEW_WORK: Final = frozenset({"/submit-task", "/get-task", "/retry-failed"})


def build_app(
    service: Service,
    peers: Peers | None,
    *,
    new_id: Callable[[], str],
    wall_ms: Callable[[], int],
    body_bytes_max: int,
    trusted: Callable[[], Collection[str]] | None = None,
    body_s: float = limits.BODY_S,
    answer_s: float = limits.ANSWER_S,
) -> web.Application:
    """The application with all paths.

    Args:
        service: Answers requests.
        peers: Takes links of other nodes; None on a node that has none.
        new_id: Makes ids for tasks that come without.
        wall_ms: Milliseconds since the Unix epoch, for delays.
        body_bytes_max: The longest body.
        trusted: The names of the keys that open something now; None where callers at the port prove nothing.
        body_s: How long a body may take to arrive.
        answer_s: How long a caller may take to read an answer.
    """
    gate = Gate()
    app = web.Application(middlewares=[_guard(gate, trusted, answer_s=answer_s)])
    app[GATE] = gate
    paths, to = _Paths(service, new_id, wall_ms, bodies.Bodies(body_bytes_max, body_s)), partial(_admitted, service)
    app.add_routes(_routes(paths, to))
    if peers is not None:
        app.router.add_get("/peer", to(Hello, peers.accept), allow_head=False)

        async def hang_up(_: web.Application) -> None:
            await peers.hang_up()

        app.on_shutdown.append(hang_up)
    return app


class _Paths:
    def __init__(
        self, service: Service, new_id: Callable[[], str], wall_ms: Callable[[], int], read: bodies.Bodies
    ) -> None:
        self._service = service
        self._new_id = new_id
        self._wall_ms = wall_ms
        self._bodies = read
        self._waits = Waits()

    async def submit_task(self, request: web.Request) -> web.Response:
        owner = request[CALLER].owner
        form = partial(forms.submit, new_id=self._new_id, wall_ms=self._wall_ms, owner=owner)
        message = await self._read(request, form, forms.submit_means_bytes)
        return await self._answer(request, message)

    async def get_task(self, request: web.Request) -> web.Response:
        return await self._answer(request, _own(request, await self._read(request, partial(codec.convert, cls=Get))))

    async def submit_result(self, request: web.Request) -> web.Response:
        return await self._answer(request, _own(request, await self._read(request, forms.submit_result)))

    async def heartbeat(self, request: web.Request) -> web.Response:
        message = await self._read(request, partial(codec.convert, cls=Heartbeat))
        return await self._answer(request, _own(request, message))

    async def task(self, request: web.Request) -> web.Response:
        return await self._answer(
            request, TaskQuery(id=asked.task_id(request), wait_s=asked.wait_s(asked.query(request, "wait")))
        )

    async def cancel(self, request: web.Request) -> web.Response:
        return await self._answer(
            request, Cancel(id=asked.task_id(request), wait_s=asked.wait_s(asked.query(request, "wait")))
        )

    async def cancel_batch(self, request: web.Request) -> web.Response:
        return await self._answer(request, CancelBatch(batch=forms.batch(request.match_info["batch"])))

    async def retry_failed(self, request: web.Request) -> web.Response:
        return await self._answer(request, RetryFailed(batch=asked.batch(asked.query(request, "batch"))))

    async def log(self, request: web.Request) -> web.Response:
        query = asked.query(request, "after", "wait")
        after = forms.number("after", query["after"], int) if "after" in query else 0
        return await self._answer(request, LogQuery(id=asked.task_id(request), after=after, wait_s=asked.wait_s(query)))

    async def names(self, request: web.Request) -> web.Response:
        return await self._answer(request, NamesQuery())

    async def drain(self, request: web.Request) -> web.Response:
        return await self._answer(request, Drain(node=asked.node_or_this(request)))

    async def resume(self, request: web.Request) -> web.Response:
        return await self._answer(request, Drain(node=asked.node_or_this(request), resume=True))

    async def retry(self, request: web.Request) -> web.Response:
        return await self._answer(request, Retry(id=asked.task_id(request)))

    async def tasks(self, request: web.Request) -> web.Response:
        query = asked.query(request, "state", "name", "limit", "after", "batch")
        state = query.get("state")
        if state is not None and state not in forms.STATES:
            raise Malformed(f"state: must be one of {', '.join(forms.STATES)}, not {state[:40]!r}")
        after = forms.task_id(query["after"]) if "after" in query else None
        limit = forms.number("limit", query["limit"], int) if "limit" in query else 50
        page = TasksQuery(state=state, name=query.get("name"), limit=limit, after=after, batch=asked.batch(query))
        return await self._answer(request, page)

    async def wait(self, request: web.Request) -> web.Response:
        return await self._answer(request, await self._read(request, partial(codec.convert, cls=WaitQuery)))

    async def status(self, request: web.Request) -> web.Response:
        return await self._answer(request, StatusQuery())

    async def stats(self, request: web.Request) -> web.Response:
        return await self._answer(request, StatsQuery())

    async def health(self, request: web.Request) -> web.Response:
        return await self._answer(request, HealthQuery())

    async def task_story(self, request: web.Request) -> web.Response:
        return await self._answer(request, TaskStoryQuery(id=asked.task_id(request)))

    async def cluster_story(self, request: web.Request) -> web.Response:
        return await self._answer(request, ClusterStoryQuery())

    async def stop(self, request: web.Request) -> web.Response:
        _only_here(request, "a daemon is stopped", "meshq down")
        return await self._answer(request, Stop())

    async def leave(self, request: web.Request) -> web.Response:
        _only_here(request, "a machine is taken out of its cluster", "meshq leave")
        return await self._answer(request, Stop(leave=True))

    async def recover(self, request: web.Request) -> web.Response:
        _only_here(request, "a copy is made the cluster", "meshq recover")
        return await self._answer(request, Recover())

    async def change_key(self, request: web.Request) -> web.Response:
        _only_here(request, "the key is changed", "meshq key rotate")
        step = request.match_info["step"]
        if step not in ("rotate", "finish"):
            raise Malformed(f"/key/: rotate or finish, not {step[:40]!r}")
        return await self._answer(request, ChangeKey(step=step, force="force" in asked.query(request, "force")))

    async def forget(self, request: web.Request) -> web.Response:
        return await self._answer(request, Forget(node=forms.node(request.match_info["node"])))

    async def credential_add(self, request: web.Request) -> web.Response:
        return await self._answer(request, CredentialAdd(name=access.check_name(request.match_info["name"])))

    async def credential_revoke(self, request: web.Request) -> web.Response:
        return await self._answer(request, CredentialRevoke(name=access.check_name(request.match_info["name"])))

    async def credentials(self, request: web.Request) -> web.Response:
        return await self._answer(request, CredentialsQuery())

    async def _read(
        self,
        request: web.Request,
        form: Callable[[dict[str, Any]], R],
        means_bytes: Callable[[dict[str, Any]], int] = len,
    ) -> R:
        return await self._bodies.read(request, _account(request), form, means_bytes)

    async def _answer(self, request: web.Request, message: Request) -> web.Response:
        message = access.narrowed(message, request[CALLER].owner)
        forms.well_formed(message)
        with self._waits.of(_account(request), message):
            answer = await self._service.call(message, local=request[CALLER].local)
        status = 202 if isinstance(answer, Submitted | ResultsTaken) and answer.queued else 200
        as_text = not bodies.wants_msgpack(request)
        without = ("result",) if isinstance(message, TasksQuery) else ()
        return await self._bodies.aside.run(
            lambda: bodies.answer(request, views.plain(answer, without, as_text=as_text), status),
            views.size_bytes(answer),
        )


def _routes(paths: _Paths, to: Callable[[type, Endpoint], Endpoint]) -> list[web.RouteDef]:
    return [
        web.post("/submit-task", to(Submit, paths.submit_task)),
        web.post("/get-task", to(Get, paths.get_task)),
        web.post("/submit-result", to(SubmitResult, paths.submit_result)),
        web.post("/heartbeat", to(Heartbeat, paths.heartbeat)),
        web.get("/task/{id}", to(TaskQuery, paths.task)),
        web.post("/task/{id}/cancel", to(Cancel, paths.cancel)),
        web.post("/task/{id}/retry", to(Retry, paths.retry)),
        web.get("/task/{id}/explain", to(TaskStoryQuery, paths.task_story)),
        web.get("/task/{id}/log", to(LogQuery, paths.log)),
        web.get("/tasks", to(TasksQuery, paths.tasks)),
        web.post("/batch/{batch}/cancel", to(CancelBatch, paths.cancel_batch)),
        web.post("/retry-failed", to(RetryFailed, paths.retry_failed)),
        web.get("/names", to(NamesQuery, paths.names)),
        web.post("/wait", to(WaitQuery, paths.wait)),
        web.get("/status", to(StatusQuery, paths.status)),
        web.get("/stats", to(StatsQuery, paths.stats)),
        web.get("/health", to(HealthQuery, paths.health)),
        web.get("/explain", to(ClusterStoryQuery, paths.cluster_story)),
        web.post("/stop", to(Stop, paths.stop)),
        web.post("/leave", to(Stop, paths.leave)),
        web.post("/recover", to(Recover, paths.recover)),
        web.post("/key/{step}", to(ChangeKey, paths.change_key)),
        web.post("/forget/{node}", to(Forget, paths.forget)),
        web.post("/drain/{node}", to(Drain, paths.drain)),
        web.post("/resume/{node}", to(Drain, paths.resume)),
        web.post("/credential/{name}", to(CredentialAdd, paths.credential_add)),
        web.post("/credential/{name}/revoke", to(CredentialRevoke, paths.credential_revoke)),
        web.get("/credentials", to(CredentialsQuery, paths.credentials)),
    ]  # fmt: skip


def _admitted(service: Service, kind: type, endpoint: Endpoint) -> Endpoint:
    """The endpoint of requests of this class, for those who may send them; of others not one byte more is read."""

    async def checked(request: web.Request) -> web.StreamResponse:
        if owner := request[CALLER].owner:
            await service.admit(owner, kind)
        return await endpoint(request)

    return checked


def _account(request: web.Request) -> str:
    """Whose share a request is of."""
    caller = request[CALLER]
    return shares.account(caller.subject, "" if caller.local else request.remote or "")


def _only_here(request: web.Request, what: str, command: str) -> None:
    if not request[CALLER].local:
        raise Forbidden(f"{what} from its own machine only, over its Unix socket: {command}")


def _own(request: web.Request, message: W) -> W:
    """A worker's request; a node speaks only for itself."""
    callers.check_node(request[CALLER], message.node)
    return message


def _guard(gate: Gate, trusted: Callable[[], Collection[str]] | None, *, answer_s: float) -> Any:
    """The middleware that lets requests in, gives every error its form, and sends what comes of them."""

    @web.middleware
    async def sent(request: web.Request, handler: Endpoint) -> web.StreamResponse:
        response = await guarded(request, handler)
        await bodies.send(request, response, answer_s)
        return response

    async def guarded(request: web.Request, handler: Endpoint) -> web.StreamResponse:
        try:
            _let_in(request, gate)
            request[CALLER] = callers.caller_of(request, trusted)
            return await handler(request)
        except MeshqError as error:
            if error.status == 500:
                log.warning("%s %s: %s: %s", request.method, request.path, error.code, error.message)
            return _error(request, error)
        except web.HTTPException as error:
            return _error(request, _named(request, error), dict(error.headers))
        except ConnectionError:
            # The caller is gone: whatever is answered reaches nobody, and is no error of ours.
            return web.Response(status=400)
        except Exception:
            # The edge of the daemon: the caller gets an answer, the log the traceback.
            log.exception("%s %s failed", request.method, request.path)
            return _error(request, MeshqError())

    return sent


def _let_in(request: web.Request, gate: Gate) -> None:
    if "Origin" in request.headers:
        # Browsers name the page that asks; no page has a reason to, and one from elsewhere must not run tasks here.
        raise Forbidden("requests of web pages are not taken")
    if gate.shut and (request.path in _NEW_WORK or request.path.endswith("/retry")):
        raise Stopping


def _named(request: web.Request, error: web.HTTPException) -> MeshqError:
    """aiohttp's own refusals, by our names."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowed(f"{request.path[:100]} takes {allowed}, not {request.method}")
    if isinstance(error, web.HTTPNotFound):
        return NoSuchPath(f"there is no path {request.path[:100]}")
    return Malformed(error.reason) if error.status < 500 else MeshqError(error.reason)


def _error(request: web.Request, error: MeshqError, headers: dict[str, str] | None = None) -> web.Response:
    kept = {"Allow": headers["Allow"]} if headers and "Allow" in headers else {}
    if error.status in (429, 503):
        kept["Retry-After"] = "1"
    response = bodies.answer(request, error.to_wire(), error.status, kept)
    if isinstance(error, bodies.TooSlow):
        response.force_close()
    return response
