"""The HTTP interface: paths, forms and errors. What a request does is the service's, which the node gives.

Every error has the body `{code, message, retryable}` and the status of its class in `errors`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from aiohttp import web

from meshq.core.requests import (
    Answer,
    Cancel,
    ClusterStoryQuery,
    Forget,
    Get,
    HealthQuery,
    Heartbeat,
    Recover,
    Request,
    ResultsTaken,
    Retry,
    StatsQuery,
    StatusQuery,
    Stop,
    Submitted,
    TaskQuery,
    TasksQuery,
    TaskStoryQuery,
    WaitQuery,
)
from meshq.errors import Malformed, MeshqError, NotFound, Stopping
from meshq.wire import bodies, codec, forms, views

log = logging.getLogger(__name__)

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service(Protocol):
    """What the node does with a request, whoever brings it."""

    async def call(self, request: Request, *, local: bool) -> Answer:
        """The answer; `local` where it came over the Unix socket. Raises MeshqError."""


class Peers(Protocol):
    """Where other nodes' links end."""

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        """Takes a link, as long as it lasts."""

    async def hang_up(self) -> None:
        """Closes all links."""


class Forbidden(MeshqError):
    """This is not allowed from there."""

    code, status = "forbidden", 403


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
_NEW_WORK: Final = frozenset({"/submit-task", "/get-task"})


def build_app(
    service: Service,
    peers: Peers | None,
    *,
    new_id: Callable[[], str],
    wall_ms: Callable[[], int],
    body_bytes_max: int,
) -> web.Application:
    """The application with all paths.

    Args:
        service: Answers requests.
        peers: Takes links of other nodes; None on a node that has none.
        new_id: Makes ids for tasks that come without.
        wall_ms: Milliseconds since the Unix epoch, for delays.
        body_bytes_max: The longest body.
    """
    gate = Gate()
    app = web.Application(middlewares=[_guard(gate)], client_max_size=body_bytes_max)
    app[GATE] = gate
    paths = _Paths(service, new_id, wall_ms, body_bytes_max)
    app.add_routes([
        web.post("/submit-task", paths.submit_task),
        web.post("/get-task", paths.get_task),
        web.post("/submit-result", paths.submit_result),
        web.post("/heartbeat", paths.heartbeat),
        web.get("/task/{id}", paths.task),
        web.post("/task/{id}/cancel", paths.cancel),
        web.post("/task/{id}/retry", paths.retry),
        web.get("/task/{id}/explain", paths.task_story),
        web.get("/tasks", paths.tasks),
        web.post("/wait", paths.wait),
        web.get("/status", paths.status),
        web.get("/stats", paths.stats),
        web.get("/health", paths.health),
        web.get("/explain", paths.cluster_story),
        web.post("/stop", paths.stop),
        web.post("/leave", paths.leave),
        web.post("/recover", paths.recover),
        web.post("/forget/{node}", paths.forget),
    ])  # fmt: skip
    if peers is not None:
        app.router.add_get("/peer", peers.accept, allow_head=False)

        async def hang_up(_: web.Application) -> None:
            await peers.hang_up()

        app.on_shutdown.append(hang_up)
    return app


def is_local(request: web.Request) -> bool:
    """Whether a request came over the Unix socket, which only this machine's user opens."""
    raw = request.transport.get_extra_info("socket") if request.transport is not None else None
    return raw is not None and raw.family == socket.AF_UNIX


class _Paths:
    def __init__(
        self, service: Service, new_id: Callable[[], str], wall_ms: Callable[[], int], body_bytes_max: int
    ) -> None:
        self._service = service
        self._new_id = new_id
        self._wall_ms = wall_ms
        self._body_bytes_max = body_bytes_max

    async def submit_task(self, request: web.Request) -> web.Response:
        return await self._answer(request, await forms.submit(await self._body(request), self._new_id, self._wall_ms))

    async def get_task(self, request: web.Request) -> web.Response:
        return await self._answer(request, codec.convert(await self._body(request), Get))

    async def submit_result(self, request: web.Request) -> web.Response:
        return await self._answer(request, forms.submit_result(await self._body(request)))

    async def heartbeat(self, request: web.Request) -> web.Response:
        return await self._answer(request, codec.convert(await self._body(request), Heartbeat))

    async def task(self, request: web.Request) -> web.Response:
        query = _query(request, "wait")
        wait_s = forms.number("wait_s", query["wait"], float) if "wait" in query else 0.0
        return await self._answer(request, TaskQuery(id=_task_id(request), wait_s=wait_s))

    async def cancel(self, request: web.Request) -> web.Response:
        return await self._answer(request, Cancel(id=_task_id(request)))

    async def retry(self, request: web.Request) -> web.Response:
        return await self._answer(request, Retry(id=_task_id(request)))

    async def tasks(self, request: web.Request) -> web.Response:
        query = _query(request, "state", "name", "limit", "after")
        state = query.get("state")
        if state is not None and state not in forms.STATES:
            raise Malformed(f"state: must be one of {', '.join(forms.STATES)}, not {state[:40]!r}")
        after = forms.task_id(query["after"]) if "after" in query else None
        limit = forms.number("limit", query["limit"], int) if "limit" in query else 50
        return await self._answer(request, TasksQuery(state=state, name=query.get("name"), limit=limit, after=after))

    async def wait(self, request: web.Request) -> web.Response:
        return await self._answer(request, codec.convert(await self._body(request), WaitQuery))

    async def status(self, request: web.Request) -> web.Response:
        return await self._answer(request, StatusQuery())

    async def stats(self, request: web.Request) -> web.Response:
        return await self._answer(request, StatsQuery())

    async def health(self, request: web.Request) -> web.Response:
        return await self._answer(request, HealthQuery())

    async def task_story(self, request: web.Request) -> web.Response:
        return await self._answer(request, TaskStoryQuery(id=_task_id(request)))

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

    async def forget(self, request: web.Request) -> web.Response:
        return await self._answer(request, Forget(node=forms.node(request.match_info["node"])))

    async def _body(self, request: web.Request) -> dict[str, Any]:
        return await bodies.read_map(request, self._body_bytes_max)

    async def _answer(self, request: web.Request, message: Request) -> web.Response:
        forms.well_formed(message)
        answer = await self._service.call(message, local=is_local(request))
        body = views.plain(answer)
        if isinstance(message, TasksQuery):
            for task in body["tasks"]:
                del task["result"]
        status = 202 if isinstance(answer, Submitted | ResultsTaken) and answer.queued else 200
        return bodies.answer(request, body, status)


def _only_here(request: web.Request, what: str, command: str) -> None:
    if not is_local(request):
        raise Forbidden(f"{what} from its own machine only, over its Unix socket: {command}")


def _query(request: web.Request, *known: str) -> dict[str, str]:
    """The query's parameters, all of them known."""
    for name in request.query:
        if name not in known:
            raise Malformed(f"unknown parameter {name[:40]!r}; known are {', '.join(known)}")
    return dict(request.query)


def _task_id(request: web.Request) -> str:
    return forms.task_id(request.match_info["id"])


def _guard(gate: Gate) -> Any:
    """The middleware that lets requests in and gives every error its form."""

    @web.middleware
    async def guarded(request: web.Request, handler: Endpoint) -> web.StreamResponse:
        try:
            _let_in(request, gate)
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

    return guarded


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
    if error.status == 503:
        kept["Retry-After"] = "1"
    return bodies.answer(request, error.to_wire(), error.status, kept)
