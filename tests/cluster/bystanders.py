"""Many strangers at once, as one process: some call and say nothing, some say one byte of a TLS hello each second.

Usage: python bystanders.py IDLE SLOW AGAIN_S HOST:PORT...

Whoever is dropped calls again after AGAIN_S. Each second it prints how many are connected, and how often all of them
together have connected so far.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import resource
import selectors
import socket
import ssl
import sys
import time

OTHER_FILES = 100
TICK_S = 1.0


def _hello() -> bytes:
    """The first bytes of a TLS connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


class _Stranger:
    """One of them, and its present call.

    Args:
        at: Whom it calls.
        says: What it says, byte by byte; empty for one that says nothing.
    """

    def __init__(self, at: tuple[str, int], says: bytes) -> None:
        self.at = at
        self.says = says
        self.said = 0
        self.raw: socket.socket | None = None
        self.connected = False


class _Crowd:
    def __init__(self, strangers: list[_Stranger], again_s: float) -> None:
        self._strangers = strangers
        self._again_s = again_s
        self._selector = selectors.DefaultSelector()
        self._calls = [(0.0, number) for number in range(len(strangers))]
        self._met: set[int] = set()
        self.connections = 0

    def run(self) -> None:
        """Goes on for ever."""
        tick = time.monotonic()
        while True:
            now = time.monotonic()
            while self._calls and self._calls[0][0] <= now:
                self._call(heapq.heappop(self._calls)[1])
            if now >= tick:
                tick = now + TICK_S
                self._say()
            due = min(tick, self._calls[0][0] if self._calls else tick)
            for key, events in self._selector.select(max(0.0, due - time.monotonic())):
                self._on_event(key.data, events)

    def _call(self, number: int) -> None:
        stranger = self._strangers[number]
        stranger.raw = raw = socket.socket()
        stranger.said, stranger.connected = 0, False
        raw.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            raw.connect(stranger.at)
        self._selector.register(raw, selectors.EVENT_WRITE, number)

    def _on_event(self, number: int, events: int) -> None:
        stranger = self._strangers[number]
        raw = stranger.raw
        assert raw is not None
        if events & selectors.EVENT_WRITE and raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            stranger.connected = True
            self.connections += 1
            self._met.add(number)
            self._selector.modify(raw, selectors.EVENT_READ, number)
            return
        try:
            ended = not (events & selectors.EVENT_READ) or raw.recv(1 << 16) == b""
        except OSError:
            ended = True
        if ended:
            self._hang_up(number)

    def _hang_up(self, number: int) -> None:
        stranger = self._strangers[number]
        if stranger.raw is not None:
            self._selector.unregister(stranger.raw)
            stranger.raw.close()
        stranger.raw, stranger.connected = None, False
        heapq.heappush(self._calls, (time.monotonic() + self._again_s, number))

    def _say(self) -> None:
        for number, stranger in enumerate(self._strangers):
            if stranger.connected and stranger.said < len(stranger.says):
                assert stranger.raw is not None
                try:
                    stranger.raw.send(stranger.says[stranger.said : stranger.said + 1])
                    stranger.said += 1
                except OSError:
                    self._hang_up(number)
        fields = {
            "event": "crowd", "connected": sum(each.connected for each in self._strangers), "met": len(self._met),
            "connections": self.connections,
        }  # fmt: skip
        print(json.dumps(fields), flush=True)


def _places(texts: list[str]) -> list[tuple[str, int]]:
    parts = [text.rpartition(":") for text in texts]
    return [(host, int(port)) for host, _, port in parts]


def main(idle: str, slow: str, again_s: str, *at: str) -> None:
    """Calls until it is ended."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = int(idle) + int(slow) + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        sys.exit(f"{wanted} open files are needed, and only {hard} allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    hello, places = _hello(), _places(list(at))
    count = int(idle) + int(slow)
    says = [b""] * int(idle) + [hello] * int(slow)
    _Crowd([_Stranger(places[number % len(places)], says[number]) for number in range(count)], float(again_s)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
