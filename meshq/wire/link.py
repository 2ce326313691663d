"""Links to other nodes: the transport.

Two nodes share two WebSockets: control carries hello, votes, renewals and heartbeats, bulk carries pulls and large
values, so that a copy over a slow network never delays a renewal. Either side may open them, requests go both ways.
When both sides open one, both are kept and any may be used: nobody closes the other's.

A node is connected when both links are open, and lost when its control link ends: that is where silence shows within
`CONTROL_HEARTBEAT_S` × 1.5. The bulk link's own heartbeat is slow, because a ping waits behind the data.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
from aiohttp import web

from meshq.core import ids, limits
from meshq.core.messages import Refused
from meshq.core.ports import Clock, Handler
from meshq.errors import Malformed, Stopping, Unreachable
from meshq.wire import calling, handshake, security
from meshq.wire.connection import Busy, Connection, WebSocket
from meshq.wire.dialer import Dialer, Socket
from meshq.wire.handshake import BULK, CONTROL, GREETING_S, KINDS, Greeting, Identity
from meshq.wire.lines import Lines
from meshq.wire.security import Contexts

log = logging.getLogger(__name__)


class Links:
    """All links of this node; implements `core.ports.Transport`.

    Args:
        me: Who this node is.
        handler: What answers the others' requests.
        on_change: Called with a node and True when it is connected, False when it is lost.
        clock: For the waits between calls.
        on_clone: Called with boot and address when another daemon has this node's id.
        secured: How this node proves itself at present; None where it talks to everybody, in clear.
        on_count: Is told the name of each thing that was counted.
    """

    def __init__(
        self,
        me: Identity,
        handler: Handler,
        on_change: Callable[[str, bool], None],
        clock: Clock,
        on_clone: Callable[[str, str], None],
        secured: Callable[[], Contexts] | None = None,
        on_count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._on_count = on_count
        self._me = me
        self._handler = handler
        self._on_change = on_change
        self._on_clone = on_clone
        self._secured = secured
        self._open: dict[str, list[Connection]] = {}
        self._connected: set[str] = set()
        self._clock = clock
        self._lines = Lines()
        self._group: asyncio.TaskGroup | None = None
        self._session: aiohttp.ClientSession | None = None
        self._closing = False
        self._dialer = Dialer(me.node, self, clock, self._spawn)

    def connected(self) -> Collection[str]:
        """The nodes to which both links are open, sorted."""
        return sorted(self._connected)

    def version_of(self, node: str) -> int:
        """The protocol version agreed with this node, the lowest of its open links.

        Raises:
            Unreachable: No link to it is open.
        """
        versions = [link.version for link in self._open.get(node, ()) if link.open]
        if not versions:
            raise Unreachable(f"no link to …{ids.short(node)}")
        return min(versions)

    async def request(self, to: str, message: Any, *, timeout_s: float, bulk: bool = False) -> Any:
        """One message and its one answer; `bulk` takes the link that large copies use.

        Raises:
            Unreachable: No link, no answer in time, or the link ended meanwhile.
            MeshqError: What a `Refused` names.
        """
        return await self._pick(to, BULK if bulk else CONTROL).request(message, timeout_s)

    async def stream(self, to: str, message: Any, *, idle_s: float) -> AsyncGenerator[Any, None]:
        """One message and the parts of its answer; `idle_s` is the longest wait for a part.

        Raises:
            Unreachable: No link, no part in time, or the link ended meanwhile.
            MeshqError: What a `Refused` names.
        """
        parts = self._pick(to, BULK).stream(message, idle_s)
        try:
            async for part in parts:
                yield part
        finally:
            await parts.aclose()

    def _pick(self, to: str, kind: str) -> Connection:
        for connection in self._open.get(to, ()):
            if connection.peer.kind == kind and connection.open:
                return connection
        raise Unreachable(f"no {kind} link to …{ids.short(to)}")

    # -- whom to call ------------------------------------------------------------------------------------

    def dial(self, node: str | None, addresses: Sequence[str]) -> None:
        """Keeps trying these addresses until the node is linked, and again whenever it is not.

        Args:
            node: The node that is meant; None for a seed, where whoever answers is right. This node's own id is
                allowed: another daemon that has it is a clone, which its greeting shows.
            addresses: `IP:PORT`, `[IPv6]:PORT` or `HOST:PORT`; they replace those of an earlier call.
        """
        self._dialer.dial(node, addresses)

    def forget(self, node: str) -> None:
        """Calls this node no more. A link that is open stays until it ends."""
        self._dialer.forget(node)

    def address_of(self, node: str) -> str | None:
        """Where this node answered last; else where a link of its own came from, with the port that it told."""
        open_links = self._open.get(node)
        return self._dialer.worked(node) or (open_links[0].address if open_links else None)

    # -- life --------------------------------------------------------------------------------------------

    def listens_at(self, port: int) -> None:
        """Tells where others can call this node; known once the server listens."""
        self._me = replace(self._me, port=port)

    async def run(self) -> None:
        """Calls, reads and serves until it is cancelled; then all links are closed."""
        async with calling.session() as session, asyncio.TaskGroup() as group:
            self._session, self._group = session, group
            self._dialer.start()
            try:
                await asyncio.Event().wait()
            finally:
                await self.hang_up()

    def renew(self) -> None:
        """Closes all links, which are opened anew at once: each side has to prove itself again."""
        for connection in [link for links in self._open.values() for link in links]:
            self._drop(connection)
            self._spawn(connection.close())

    async def hang_up(self) -> None:
        """Takes and makes no more calls, and closes all links."""
        self._closing = True
        async with asyncio.TaskGroup() as group:
            for connection in [link for links in self._open.values() for link in links]:
                group.create_task(connection.close())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        if self._group is None or self._closing:
            work.close()
            return None
        task = self._group.create_task(self._guarded(work))
        # A task that is cancelled before its first step never begins its work.
        task.add_done_callback(lambda _: work.close())
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            # The edge of a background task: one that fails must not take all the links with it.
            self._count("link_task_failed")
            log.exception("a task of the links failed")

    # -- calling -----------------------------------------------------------------------------------------

    def missing(self, node: str) -> list[str]:
        """The kinds of which no link to this node is open, control first."""
        open_kinds = {link.peer.kind for link in self._open.get(node, ()) if link.open}
        return [kind for kind in KINDS if kind not in open_kinds]

    async def connect(self, address: str, kind: str) -> Socket:
        """A WebSocket to whoever listens there.

        Raises:
            Malformed: It is no address.
            OSError, aiohttp.ClientError: Nobody, or no meshq.
        """
        if self._session is None or self._closing:
            raise OSError("the links are closed")
        if self._secured is None:
            return await calling.call(self._session, address, kind, None)
        failed: aiohttp.ClientError | None = None
        for context in self._secured().clients:
            try:
                return await calling.call(self._session, address, kind, context)
            except (aiohttp.ClientSSLError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
                if not security.is_distrust(error):
                    raise
                if security.cause_of(error, security.NoNode) is not None:
                    text = "whoever answers there has a client's certificate, and is no machine of the cluster"
                    self._refuse(Refused(code="link_no_node", message=text, retryable=False), address)
                    raise
                failed = error
        text = "it has another key, or none; the same one is needed on both: meshq up --key KEY"
        self._refuse(Refused(code="link_other_key", message=text, retryable=True), address)
        raise failed or OSError("no key")

    async def greet_out(self, socket: Socket, address: str, kind: str) -> str | None:
        """The greetings of a link that this node opened; the node at its other end, or None where one refused."""
        greeted = False
        try:
            await socket.send_bytes(handshake.greeting(self._me, kind))
            peer = await self._greeting(socket, address)
            if peer is None:
                return None
            refused = self._verdict(peer, address, kind) or peer.refused
            if refused is not None:
                self._refuse(refused, address)
                return None
            greeted = True
        except (ConnectionError, aiohttp.ClientError) as error:
            log.debug("the link to %s ended in its greeting: %s", address, error)
            return None
        finally:
            if not greeted:
                await socket.close()
        connection = self._register(socket, peer, address)
        self._spawn(self._run(connection))
        return peer.node

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        """`GET /peer?kind=control|bulk`: a link that another node opens; lasts as long as the link.

        Raises:
            Malformed: It is no WebSocket, or of no kind.
            Stopping: This node's links are not open.
        """
        kind = request.query.get("kind", "")
        if kind not in KINDS or request.transport is None:
            raise Malformed(f"/peer?kind= must be one of {', '.join(KINDS)}, not {kind[:20]!r}")
        if self._group is None or self._closing:
            raise Stopping
        if sum(map(len, self._open.values())) >= limits.LINKS_MAX:
            self._count("link_busy")
            raise Busy
        socket = web.WebSocketResponse(
            timeout=calling.CLOSE_S,
            heartbeat=calling.HEARTBEAT_S[kind],
            max_msg_size=limits.FRAME_BYTES_MAX,
            compress=False,
        )
        if not socket.can_prepare(request):
            raise Malformed("/peer takes WebSockets of other nodes only")
        caller = request.transport.get_extra_info("peername")
        host = caller[0] if isinstance(caller, tuple) else "localhost"
        await socket.prepare(request)
        try:
            connection = await self._greet_in(socket, host, kind)
        except (ConnectionError, aiohttp.ClientError) as error:
            log.debug("the link from %s ended in its greeting: %s", host, error)
            connection = None
        if connection is None:
            await socket.close()
        else:
            await self._run(connection)
        return socket

    async def _greet_in(self, socket: web.WebSocketResponse, host: str, kind: str) -> Connection | None:
        peer = await self._greeting(socket, host)
        if peer is None:
            return None
        address = handshake.join_address(host, peer.port)
        refused = self._verdict(peer, address, kind)
        await socket.send_bytes(handshake.greeting(self._me, kind, refused))
        if refused is not None:
            self._refuse(refused, address)
            return None
        return self._register(socket, peer, address)

    async def _greeting(self, socket: WebSocket, address: str) -> Greeting | None:
        try:
            async with asyncio.timeout(GREETING_S):
                frame = await socket.receive()
            if frame.type is aiohttp.WSMsgType.BINARY:
                peer = handshake.read(frame.data)
                # Asked now: the key may have been dropped while the greeting was on its way.
                if self._secured is None or self._secured().prove(socket.get_extra_info("peercert"), peer.node):
                    return peer
                text = f"it says that it is …{ids.short(peer.node)}, and its certificate does not, or is of an old key"
                self._refuse(Refused(code="link_not_itself", message=text, retryable=False), address)
                return None
            self._count("greeting_missing")
        except TimeoutError:
            self._count("greeting_missing")
        except Malformed as error:
            self._refuse(Refused(code="link_malformed", message=error.message, retryable=False), address)
        return None

    def _verdict(self, peer: Greeting, address: str, kind: str) -> Refused | None:
        refused = handshake.verdict(self._me, peer, kind)
        if refused is None:
            boots = [link.peer.boot for link in self._open.get(peer.node, ()) if link.open]
            return handshake.older_boot(peer.node) if peer.boot < max(boots, default="") else None
        if refused.code == "link_myself":
            self._dialer.is_mine(address)
        elif refused.code == "link_cloned":
            self._on_clone(peer.boot, address)
        return refused

    def _refuse(self, refused: Refused, address: str) -> None:
        """Counts a refusal, and tells of it, once for each address as long as nothing else happens."""
        self._count(refused.code)
        text = f"no link with {address}: {refused.message}"
        # Of a clone the daemon hears by itself, and says what to do.
        if refused.code in ("link_myself", "link_cloned", "link_older_boot"):
            log.debug("%s", text, extra={"event": refused.code})
        else:
            self._tell(refused.code, text, about=address)

    def _tell(self, name: str, text: str, failed: Exception | None = None, *, about: str = "") -> None:
        """Writes a line, if others' doings have not filled the log; `about` is who need not be told of again soon."""
        more = self._lines.next(self._clock.boot_s(), (about, name) if about else None)
        if more is not None:
            level = logging.ERROR if failed else logging.WARNING
            log.log(level, "%s%s", text, more, exc_info=failed, extra={"event": name})

    # -- what is open ------------------------------------------------------------------------------------

    def _register(self, socket: WebSocket, peer: Greeting, address: str) -> Connection:
        version = handshake.agreed(self._me, peer)
        connection = Connection(socket, peer, version, address, self._handler, self._spawn, self._count, self._tell)
        for other in list(self._open.get(peer.node, ())):
            if other.peer.boot != peer.boot:
                self._count("link_of_earlier_boot")
                self._drop(other)
                self._spawn(other.close())
        self._open.setdefault(peer.node, []).append(connection)
        if not self.missing(peer.node) and peer.node not in self._connected:
            self._connected.add(peer.node)
            self._on_change(peer.node, True)
        self._dialer.on_change()
        return connection

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        """Takes a link off the list; a node without a control link has no others either."""
        connection.lost()
        node = connection.peer.node
        left = [link for link in self._open.get(node, ()) if link is not connection]
        if not any(link.peer.kind == CONTROL for link in left):
            for link in left:
                link.lost()
                self._spawn(link.close())
            left = []
        if left:
            self._open[node] = left
        else:
            self._open.pop(node, None)
            if node in self._connected:
                self._connected.discard(node)
                self._on_change(node, False)
        self._dialer.on_change()

    def _count(self, name: str) -> None:
        self.counters[name] += 1
        self._on_count(name)
