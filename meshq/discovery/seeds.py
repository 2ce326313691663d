"""Seeds: hosts named by the user, where other nodes may be found. Names are looked up again from time to time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from meshq.core.addresses import format_address, split_host_port
from meshq.errors import ConfigError, Malformed

AGAIN_S = 60.0  # A machine gets a new address when its DHCP lease ends: hours, not seconds.
RETRY_S = 5.0  # As long as a name leads nowhere, this node may be alone.

_NAME = re.compile(
    r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?$"
)


@dataclass(frozen=True, slots=True)
class Seed:
    """A host by name or IP address, and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        return format_address(self.host, self.port)


def parse(text: str) -> Seed:
    """The seed in `HOST:PORT`; an IPv6 address stands in brackets.

    Raises:
        ConfigError: It is no such text; the message says what is wrong.
    """
    try:
        host, port = split_host_port(text.strip())
    except Malformed as error:
        raise ConfigError(f"--seed {error.message}") from error
    if _is_ip(host):
        return Seed(host, port)
    if "[" in text or re.fullmatch(r"[\d.]+", host) or not _NAME.match(host):
        raise ConfigError(f"--seed {text!r}: {host!r} is neither an IP address nor a host name")
    return Seed(host, port)


def parse_all(texts: Iterable[str]) -> tuple[Seed, ...]:
    """All seeds, each once, in their order.

    Raises:
        ConfigError: One of them is wrong.
    """
    return tuple(dict.fromkeys(parse(text) for text in texts))


async def resolve(seed: Seed) -> tuple[str, ...]:
    """The addresses of a seed, as `IP:PORT` or `[IPv6]:PORT`.

    Raises:
        OSError: The name leads nowhere at the moment.
    """
    if _is_ip(seed.host):
        return (str(seed),)
    found = await _lookup(seed)
    return tuple(dict.fromkeys(format_address(ip, seed.port) for ip in found))


class Seeds:
    """Looks the seeds up, again and again.

    Args:
        seeds: Where others may be.
        on_resolved: Called with a seed and its addresses whenever they are new.
        on_failed: Called with a seed and the reason, once until it works again.
        again_s: Seconds until a name that was found is looked up again.
        retry_s: Seconds until a name that was not found is tried again.
    """

    def __init__(
        self,
        seeds: Sequence[Seed],
        on_resolved: Callable[[Seed, tuple[str, ...]], None],
        on_failed: Callable[[Seed, str], None],
        *,
        again_s: float = AGAIN_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._seeds = tuple(seeds)
        self._on_resolved = on_resolved
        self._on_failed = on_failed
        self._again_s = again_s
        self._retry_s = retry_s

    async def run(self) -> None:
        """Runs until cancelled; ends by itself where every seed is an IP address."""
        async with asyncio.TaskGroup() as group:
            for seed in self._seeds:
                group.create_task(self._follow(seed), name=f"seed {seed}")

    async def _follow(self, seed: Seed) -> None:
        known: tuple[str, ...] = ()
        failed = False
        while True:
            try:
                found = await resolve(seed)
            except OSError as error:
                if not failed:
                    self._on_failed(seed, error.strerror or str(error))
                failed = True
            else:
                failed = False
                if set(found) != set(known):
                    known = found
                    self._on_resolved(seed, found)
                if _is_ip(seed.host):
                    return
            await asyncio.sleep(self._retry_s if failed else self._again_s)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _lookup(seed: Seed) -> list[str]:
    """The IP addresses of a name.

    It has a thread of its own, not one of the loop's: a name server that is silent for minutes must not keep the
    daemon from stopping.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[str] | OSError] = loop.create_future()

    def settle(outcome: list[str] | OSError) -> None:
        if not done.done():
            done.set_result(outcome)

    def work() -> None:
        outcome: list[str] | OSError
        try:
            found = socket.getaddrinfo(seed.host, seed.port, type=socket.SOCK_STREAM)
            outcome = [str(entry[4][0]) for entry in found]
        except OSError as error:
            outcome = error
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=work, name=f"lookup {seed.host}", daemon=True).start()
    outcome = await done
    if isinstance(outcome, OSError):
        raise outcome
    return outcome
