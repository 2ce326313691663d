"""Why machines do not meet: each cause is looked for by trying, and one is named for each address.

Runs beside a daemon or without one, and changes nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import aiohttp
import msgspec
from yarl import URL

from meshq.config import Config
from meshq.core.addresses import split_host_port
from meshq.core.ids import short, uuid7
from meshq.core.keys import Key
from meshq.core.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION
from meshq.core.ports import Clock
from meshq.core.reports import Health
from meshq.discovery import mdns
from meshq.discovery.addresses import is_link_local, is_tunnel, left_out, usable
from meshq.errors import Malformed
from meshq.wire import security, values
from meshq.wire.security import HOLDER

LISTEN_S = 4.0
CONNECT_S = 3.0
# Between two looks at another machine's clock; an answer takes milliseconds, so that the rate is known to a percent.
CLOCK_S = 2.0
# Less than the margin of a lease, which is 0.3.
RATE_MAX = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look came to.

    Args:
        what: What was looked at: a part of this machine, or an address.
        well: Whether nothing is wrong there.
        text: What was found, and what to do.
    """

    what: str
    well: bool
    text: str


@dataclass(slots=True)
class Patient:
    """This machine, as far as it matters.

    Args:
        config: Its settings.
        keys: Its keys; none where it has none.
        node: Its id; empty where no daemon ran yet.
    """

    config: Config
    keys: Sequence[Key]
    node: str
    found: dict[str, mdns.Found] = field(default_factory=dict)

    def note(self, found: mdns.Found) -> None:
        """Another node announces itself."""
        self.found[found.node] = found


async def examine(patient: Patient, clock: Clock, host: str | None) -> AsyncIterator[Finding]:
    """Looks at this machine, and at another one or at all that announce themselves.

    Args:
        patient: This machine.
        clock: The lease clock.
        host: Another machine, `HOST` or `HOST:PORT`; None for all that announce themselves.
    """
    yield _interfaces(patient.config.host)
    if patient.config.mdns:
        yield await _multicast(patient, clock)
    own = {local.ip for local in usable(patient.config.host)}
    if host is not None:
        yield await _visit(patient, clock, host if ":" in host else f"{host}:{patient.config.port}", own)
        return
    for found in patient.found.values():
        if found.node != patient.node and found.addresses:
            yield await _visit(patient, clock, found.addresses[0], own)
    if not any(found.node != patient.node for found in patient.found.values()):
        yield Finding(
            what="others", well=False,
            text="no other machine announces itself: is meshq up there? If it is, see why from here: meshq doctor HOST",
        )  # fmt: skip


def _interfaces(host: str) -> Finding:
    chosen = usable(host)
    names = ", ".join(f"{local.interface} {local.ip}" for local in chosen if not is_link_local(local.ip))
    others = "; ".join(sorted({local.interface for local in left_out(host)}))
    more = f" (left out, of containers: {others})" if others else ""
    if not chosen or all(local.is_loopback for local in chosen):
        text = f"no interface is up{more}: only nodes on this machine can be reached. Connect it to the network"
        return Finding(what="interfaces", well=False, text=text)
    if all(is_tunnel(local.interface) for local in chosen if not is_link_local(local.ip)):
        text = (
            f"{names or chosen[0].interface} is a private network's: neighbours are not there; see `host` in lan.toml"
        )
        return Finding(what="interfaces", well=False, text=text)
    return Finding(what="interfaces", well=True, text=f"{names or chosen[0].interface}{more}")


async def _multicast(patient: Patient, clock: Clock) -> Finding:
    """Announces a node of no cluster for a moment, and hears who else does."""
    troubles: list[str] = []
    stranger = uuid7(clock.wall_ms(), clock.random_bits(74))
    announced = asyncio.Event()
    service = mdns.Mdns(
        mdns.Announcement(node=stranger, boot=stranger, cluster="doctor", port=patient.config.port or 1),
        on_found=patient.note,
        on_unavailable=troubles.append, announced=announced, local=lambda: usable(patient.config.host),
    )  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(service.run())
        await announced.wait()
        await asyncio.sleep(LISTEN_S)
        running.cancel()
    names = ", ".join(sorted({local.interface for local in usable(patient.config.host)}))
    if troubles:
        text = f"does not work on {names}: {troubles[0]}. Name a machine: meshq up --seed HOST:PORT"
        return Finding(what="multicast", well=False, text=text)
    return Finding(what="multicast", well=True, text=f"works on {names}; {len(patient.found)} nodes announced there")


async def _visit(patient: Patient, clock: Clock, address: str, own: set[str]) -> Finding:
    """What is wrong with the machine at this address, or nothing."""
    try:
        host, port = split_host_port(address)
    except Malformed as error:
        return Finding(what=address, well=False, text=error.message)
    if trouble := await _knock(host, port):
        return Finding(what=address, well=False, text=trouble)
    contexts: list[ssl.SSLContext | None] = [*map(security.client_context, security.passports(patient.keys, HOLDER))]
    trouble = ""
    for context in contexts or [None]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CONNECT_S)) as session:
            ask = partial(_ask, session, host, port, context)
            try:
                return await _judge(patient, clock, address, ask, mine=host in own)
            except (aiohttp.ClientError, TimeoutError, OSError, Malformed, msgspec.ValidationError) as error:
                trouble = _why(error, bool(patient.keys))
    return Finding(what=address, well=False, text=trouble)


async def _knock(host: str, port: int) -> str:
    """Why nobody opens at this port; empty where somebody does."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"nothing comes back: is the machine up, and does its firewall let in TCP port {port}?"
    except ConnectionRefusedError:
        return f"port {port} is closed: is meshq up there, and at this port?"
    except socket.gaierror:
        return f"no machine is called {host}; give its address"
    except OSError as error:
        return f"can't be reached: {error.strerror or error}"
    writer.close()
    return ""


async def _ask(session: aiohttp.ClientSession, host: str, port: int, context: ssl.SSLContext | None) -> Health:
    url = URL.build(scheme="http" if context is None else "https", host=host, port=port, path="/health")
    async with session.get(url, ssl=context or True, headers={"Accept": "application/msgpack"}) as answer:
        return msgspec.convert(values.unpack(await answer.read()), Health)


async def _judge(
    patient: Patient, clock: Clock, address: str, ask: Callable[[], Awaitable[Health]], *, mine: bool
) -> Finding:
    """What is wrong with a machine that holds this one's key; nothing, mostly."""
    first, begun_s = await ask(), clock.boot_s()
    name = f"meshq {first.version} ({short(first.node)})"

    def finding(text: str, *, well: bool = False) -> Finding:
        return Finding(what=address, well=well, text=f"{name} {text}")

    if first.node == patient.node:
        if mine:
            return finding("is this machine itself", well=True)
        return finding("has this machine's node id: its data directory was copied; restart it, and it takes a new one")
    if first.cluster != patient.config.cluster:
        return finding(f"is of cluster {first.cluster!r}, this one of {patient.config.cluster!r}: see --cluster")
    oldest, newest = (first.protocol[0], first.protocol[-1]) if first.protocol else (1, 1)
    if newest < PROTOCOL_OLDEST or oldest > PROTOCOL_VERSION:
        older = "that machine" if newest < PROTOCOL_OLDEST else "this one"
        return finding(f"speaks protocol versions {oldest} to {newest}: upgrade meshq on {older}")
    await asyncio.sleep(CLOCK_S)
    second, ended_s = await ask(), clock.boot_s()
    rate = (second.clock_s - first.clock_s) / (ended_s - begun_s)
    if abs(rate - 1.0) > RATE_MAX:
        return finding(f"has a clock that runs {rate:.2f} times as fast as this one's: no lease holds between the two")
    led = "is led" if first.leader is not None else "has no leader at present: see `meshq explain` there"
    return finding(f"takes this machine's key, and {led}", well=True)


def _why(error: BaseException, has_key: bool) -> str:
    if not has_key:
        return "it has a key, and this machine has none: meshq up --key KEY, where `meshq key show` there tells the KEY"
    if isinstance(error, aiohttp.ClientSSLError) and "CERTIFICATE_VERIFY" in str(error):
        return "it has another key: type `meshq key show` there, and `meshq up --key KEY` here"
    if isinstance(error, aiohttp.ClientSSLError):
        return "it has no key (--insecure), or is no meshq: start it without --insecure, and with this machine's key"
    if security.is_distrust(error):
        return "it does not accept this machine's key: type `meshq key show` there, and `meshq up --key KEY` here"
    return f"it is no meshq, or of another version: {error}"
