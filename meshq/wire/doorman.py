"""Who gets in at a listening socket: whoever proves the key in time, however many others stand before the door.

A stranger is answered with what TLS itself says, and with nothing else: no request of it is ever looked at.

A call is first held as an open file and no more, until its caller has said a word: a connection of TLS takes a quarter
of a MiB and much time, and whoever says nothing gets neither. Then it waits for its turn, one address after the other,
since a proof costs far more than a call, and strangers who begin one after the other must leave time for all else.
Addresses at which the key was proved before go first, so that a stranger with many addresses keeps no node out.
An address that calls too often is hung up on at once, which costs least of all.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from meshq.core.limits import (
    CALLS_AT_ONCE,
    CALLS_PER_S,
    HANDSHAKE_S,
    PROOFS_AT_ONCE,
    PROOFS_MAX,
    PROOFS_PER_S,
    WAITING_MAX,
)
from meshq.wire import security
from meshq.wire.lines import Lines
from meshq.wire.shares import Share, account
from meshq.wire.turns import Caller, Pace, TwoLines

log = logging.getLogger(__name__)

# A caller that is told goodbye and says nothing is dropped after so long.
GOODBYE_S: Final = 2.0
_PAUSE_S: Final = 0.5
_OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# So many calls are taken in one turn of the loop: one at a time is slow, and all others need their turns.
_BATCH: Final = 32
# How often it looks for those whose time is over, as a part of that time.
_LOOK: Final = 0.1
_HOSTS_MAX: Final = 1024


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
        handshake_s: How long that may take, from the call on.
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
        # Who has said nothing, who has said a word and waits for its turn, and who is at its proof.
        self._silent, self._ready = TwoLines(WAITING_MAX), TwoLines(WAITING_MAX)
        # Where nobody has to prove anything, that is over at once.
        self._proving = TwoLines(PROOFS_MAX if context is not None else WAITING_MAX)
        self._pace = Pace(PROOFS_PER_S, PROOFS_AT_ONCE)
        self._paces: dict[str, Pace] = {}  # of the calls of each host
        self._known: dict[str, None] = {}  # hosts at which somebody proved the key, the latest last
        self._next: asyncio.TimerHandle | None = None
        self._lines = Lines()

    async def run(self) -> None:
        """Lets callers in until it is cancelled; closes the listening socket then."""
        async with asyncio.TaskGroup() as group:
            try:
                group.create_task(self._end_late())
                while self._listener.fileno() >= 0:
                    try:
                        calls = await self._calls()
                    except OSError as error:
                        # A process out of files gets some back when calls end; all else is one caller's trouble.
                        self._inside.count("accept_failed")
                        await asyncio.sleep(_PAUSE_S if error.errno in _OUT_OF_FILES else 0)
                        continue
                    for raw, host in calls:
                        self._admit(group, raw, host)
                    # To accept those who wait already takes no turn of the loop, and all others need theirs.
                    await asyncio.sleep(0)
            finally:
                self.close()

    def close(self) -> None:
        """Closes the listening socket, and sends away who waits before it; those who were let in stay."""
        loop = asyncio.get_running_loop()
        if self._next is not None:
            self._next.cancel()
        for caller in (*self._silent, *self._ready):
            self._send_away(caller)
        for caller in self._proving:
            if caller.proof is not None:
                caller.proof.cancel()
        if self._listener.fileno() >= 0:
            loop.remove_reader(self._listener)
            self._listener.close()

    # -- before the proof --------------------------------------------------------------------------------

    async def _calls(self) -> list[tuple[socket.socket, str]]:
        """Those who call now, at least one."""
        calls = [await asyncio.get_running_loop().sock_accept(self._listener)]
        # What goes wrong with the next one is told when it is waited for.
        with contextlib.suppress(OSError):
            while len(calls) < _BATCH:
                calls.append(self._listener.accept())
        return [(raw, address[0] if isinstance(address, tuple) else "") for raw, address in calls]

    def _admit(self, group: asyncio.TaskGroup, raw: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if self._listener.fileno() < 0:
            raw.close()
        elif self._context is None:
            self._prove(group, Caller(raw, host, now_s + self._handshake_s))
        elif not self._may_call(host, now_s):
            self._inside.count("stranger_too_often")
            raw.close()
        else:
            caller = Caller(raw, host, now_s + self._handshake_s, known=host in self._known)
            self._make_room(self._silent.add(caller))
            loop.add_reader(raw, self._on_word, group, caller)

    def _may_call(self, host: str, now_s: float) -> bool:
        pace = self._paces.get(host)
        if pace is None:
            if len(self._paces) >= _HOSTS_MAX:
                del self._paces[next(iter(self._paces))]
            pace = self._paces[host] = Pace(CALLS_PER_S, CALLS_AT_ONCE)
        return pace.wait_s(now_s) <= 0

    def _make_room(self, pushed: Caller | None) -> None:
        if pushed is not None:
            self._inside.count("stranger_pushed_out")
            self._send_away(pushed)

    def _send_away(self, caller: Caller) -> None:
        self._silent.remove(caller)
        self._ready.remove(caller)
        if caller.proof is not None:
            caller.proof.cancel()
        else:
            asyncio.get_running_loop().remove_reader(caller.raw)
            caller.raw.close()

    def _on_word(self, group: asyncio.TaskGroup, caller: Caller) -> None:
        """A caller has said something, or hung up."""
        try:
            word = caller.raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if not word:
            self._send_away(caller)
            self._refuse(caller.host, "stranger_hung_up", "it hung up without a word")
            return
        asyncio.get_running_loop().remove_reader(caller.raw)
        self._silent.remove(caller)
        self._make_room(self._ready.add(caller))
        if self._next is None:
            self._begin(group)

    async def _end_late(self) -> None:
        """Sends away whose time is over, or will be at the next look."""
        loop, every_s = asyncio.get_running_loop(), self._handshake_s * _LOOK
        while self._listener.fileno() >= 0:
            await asyncio.sleep(every_s)
            for caller in (*self._silent, *self._ready):
                if caller.until_s < loop.time() + every_s:
                    self._send_away(caller)
                    self._refuse(caller.host, "stranger_silent", "it proved nothing in time")

    # -- the proof ---------------------------------------------------------------------------------------

    def _begin(self, group: asyncio.TaskGroup) -> None:
        """Lets those prove themselves whose turn it is."""
        loop = asyncio.get_running_loop()
        self._next = None
        while self._ready:
            if (wait_s := self._pace.wait_s(loop.time())) > 0:
                self._next = loop.call_later(wait_s, self._begin, group)
                return
            self._prove(group, self._ready.next())

    def _prove(self, group: asyncio.TaskGroup, caller: Caller) -> None:
        self._make_room(self._proving.add(caller))
        caller.proof = group.create_task(self._let_in(caller))
        caller.proof.add_done_callback(partial(self._on_decided, caller))

    def _on_decided(self, caller: Caller, proof: asyncio.Task[bool]) -> None:
        self._proving.remove(caller)
        caller.proof = None  # a task that failed leads to its caller, and would lead in a circle, too
        # A task that is cancelled before its first step has closed nothing.
        if proof.cancelled() or not proof.result():
            caller.raw.close()

    async def _let_in(self, caller: Caller) -> bool:
        loop, host = asyncio.get_running_loop(), caller.host
        try:
            proof = self._proof(caller.until_s - loop.time())
            await loop.connect_accepted_socket(lambda: _Guest(self._inside, host), caller.raw, **proof)
        except OSError as error:
            self._refuse(host, *_reason(error))
            # What was made for the proof is large; the error leads to it in a circle, which would not go at once.
            error.__traceback__ = None
        except Exception:
            # The edge of a stranger's call: whatever it does must end no other's.
            self._refuse(host, "stranger_failed", "something went wrong with it")
            log.exception("a call from %s failed", host)
        else:
            self._knows(host)
            return True
        return False

    def _knows(self, host: str) -> None:
        self._known.pop(host, None)
        self._known[host] = None
        if len(self._known) > _HOSTS_MAX:
            del self._known[next(iter(self._known))]

    def _proof(self, left_s: float) -> dict[str, Any]:
        if self._context is None:
            return {}
        if left_s <= 0:
            raise ConnectionAbortedError
        return {"ssl": self._context(), "ssl_handshake_timeout": left_s, "ssl_shutdown_timeout": GOODBYE_S}

    def _refuse(self, host: str, name: str, reason: str) -> None:
        self._inside.count(name)
        more = self._lines.next(asyncio.get_running_loop().time(), (host, name))
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
            return "stranger_other_key", "it has another key: it does not believe this node's certificate"
        return _REASONS.get(reason, ("stranger_no_tls", "what it said is no TLS"))
    if isinstance(error, ConnectionAbortedError):
        return "stranger_silent", "it proved nothing in time"
    return "stranger_hung_up", "it hung up when it saw this node's certificate; it may have another key"
