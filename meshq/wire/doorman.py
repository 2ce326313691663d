"""Who gets in at a listening socket: whoever proves the key in time, however many others stand before the door.

A stranger is answered with what TLS itself says, and with nothing else: no request of it is ever looked at.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from meshq.core.limits import HANDSHAKE_S, WAITING_MAX
from meshq.wire import security
from meshq.wire.lines import Lines
from meshq.wire.shares import Share, account

log = logging.getLogger(__name__)

# A caller that is told goodbye and says nothing is dropped after so long.
GOODBYE_S: Final = 2.0
_PAUSE_S: Final = 0.5
_OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Inside:
    """What is behind a door.

    Args:
        protocol: Makes what speaks with one who was let in.
        share: How many connections are open at once: in all, and of each caller.
        count: Counts by name who was not let in.
    """

    protocol: Callable[[], asyncio.Protocol]
    share: Share
    count: Callable[[str], None]


class Doorman:
    """Accepts connections at one listening socket.

    Args:
        listener: Listens, and does not block.
        inside: Where those go who are let in.
        context: How a caller proves itself, asked anew for each; None lets everybody in.
        handshake_s: How long that may take.
    """

    def __init__(
        self,
        listener: socket.socket,
        inside: Inside,
        context: Callable[[], ssl.SSLContext] | None = None,
        *,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self._listener = listener
        self._inside = inside
        self._context = context
        self._handshake_s = handshake_s
        self._waiting: dict[asyncio.Task[bool], str] = {}  # with the host, the oldest first
        self._lines = Lines()

    async def run(self) -> None:
        """Lets callers in until it is cancelled; closes the listening socket then."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    try:
                        caller, address = await loop.sock_accept(self._listener)
                    except OSError as error:
                        # A process out of files gets some back when calls end; all else is one caller's trouble.
                        self._inside.count("accept_failed")
                        await asyncio.sleep(_PAUSE_S if error.errno in _OUT_OF_FILES else 0)
                        continue
                    self._make_room()
                    host = address[0] if isinstance(address, tuple) else ""
                    task = group.create_task(self._let_in(caller, host))
                    self._waiting[task] = host
                    task.add_done_callback(partial(self._on_decided, caller))
                    # To accept one who waits already takes no turn of the loop, and all others need theirs.
                    await asyncio.sleep(0)
        finally:
            self.close()

    def close(self) -> None:
        """Closes the listening socket, and sends away who waits before it; those who were let in stay."""
        for task in self._waiting:
            task.cancel()
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    def _make_room(self) -> None:
        if len(self._waiting) < WAITING_MAX:
            return
        ((most, _),) = Counter(self._waiting.values()).most_common(1)
        oldest = next(task for task, host in self._waiting.items() if host == most)
        del self._waiting[oldest]
        oldest.cancel()
        self._inside.count("stranger_pushed_out")

    def _on_decided(self, caller: socket.socket, task: asyncio.Task[bool]) -> None:
        self._waiting.pop(task, None)
        # A task that is cancelled before its first step has closed nothing.
        if task.cancelled() or not task.result():
            caller.close()

    async def _let_in(self, caller: socket.socket, host: str) -> bool:
        loop = asyncio.get_running_loop()
        try:
            proof = self._proof()
            await loop.connect_accepted_socket(lambda: _Guest(self._inside, host), caller, **proof)
        except OSError as error:
            self._refuse(host, *_reason(error))
        except Exception:
            # The edge of a stranger's call: whatever it does must end no other's.
            self._refuse(host, "stranger_failed", "something went wrong with it")
            log.exception("a call from %s failed", host)
        else:
            return True
        return False

    def _proof(self) -> dict[str, Any]:
        if self._context is None:
            return {}
        return {"ssl": self._context(), "ssl_handshake_timeout": self._handshake_s, "ssl_shutdown_timeout": GOODBYE_S}

    def _refuse(self, host: str, name: str, reason: str) -> None:
        self._inside.count(name)
        more = self._lines.next(asyncio.get_running_loop().time())
        if more is not None:
            log.warning("%s was not let in: %s%s", host, reason, more, extra={"event": name})


class _Guest(asyncio.Protocol):
    """A connection that was let in: counted as its caller's for as long as it lasts, and passed on."""

    def __init__(self, inside: Inside, host: str) -> None:
        self._inside = inside
        self._host = host
        self._caller = ""
        self._behind: asyncio.Protocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The caller has proved who it is."""
        caller = account(security.subject_of(transport.get_extra_info("peercert")), self._host)
        if not self._inside.share.take(caller):
            self._inside.count("caller_refused")
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
            return
        self._caller, self._behind = caller, self._inside.protocol()
        self._behind.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Passed on."""
        if self._behind is not None:
            self._behind.data_received(data)

    def eof_received(self) -> bool | None:
        """Passed on."""
        return self._behind.eof_received() if self._behind is not None else None

    def pause_writing(self) -> None:
        """Passed on."""
        if self._behind is not None:
            self._behind.pause_writing()

    def resume_writing(self) -> None:
        """Passed on."""
        if self._behind is not None:
            self._behind.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the caller's share back, and passes it on."""
        behind, self._behind = self._behind, None
        if behind is not None:
            self._inside.share.give(self._caller)
            behind.connection_lost(exc)


# By OpenSSL's names; what it does not name is no TLS at all.
_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("stranger_without_key", "it has no key"),
    "CERTIFICATE_VERIFY_FAILED": ("stranger_other_key", "it has another key"),
    "UNSUPPORTED_PROTOCOL": ("stranger_old_tls", "it speaks no TLS 1.3"),
    "HTTP_REQUEST": ("stranger_in_clear", "it spoke plain HTTP; is it insecure?"),
}


def _reason(error: OSError) -> tuple[str, str]:
    """Why a caller was not let in: the name that is counted, and a text."""
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if "ALERT" in reason:
            return "stranger_other_key", "it did not take this node's key for its own"
        return _REASONS.get(reason, ("stranger_no_tls", "what it said is no TLS"))
    if isinstance(error, ConnectionAbortedError):
        return "stranger_silent", "it proved nothing in time"
    return "stranger_hung_up", "it hung up before it proved anything; it may have another key"
