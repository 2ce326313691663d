"""A look at another machine, from here: why it and this one do not meet, by what it answers when it is called."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import ifaddr
import msgspec

from meshq.client import sight
from meshq.client.sight import Kind, Sight
from meshq.core.addresses import split_host_port
from meshq.core.ids import short
from meshq.core.ports import Clock
from meshq.core.reports import Health, Stats
from meshq.discovery.addresses import is_container, is_link_local, is_tunnel
from meshq.errors import Malformed
from meshq.node.patient import Cause, Finding, Patient, versions
from meshq.wire import security
from meshq.wire.security import HOLDER

# That no machine has an address is known after three seconds; of one that has just gone, within a minute.
CONNECT_S: Final = 4.0
KNOCK_S: Final = 1.5
# How long the next address waits for the one before it. Who is called and then given up may note a stranger.
STAGGER_S: Final = 0.5
# Who says sooner than this that a machine is not there has not looked for it, twice.
QUICK_S: Final = 0.5
# Between two looks at another machine's clock.
CLOCK_S: Final = 1.0
# Less than the margin of a lease, which is 0.3.
RATE_MAX: Final = 0.15
# Machines that can meet do so within a few seconds, and then answer each other twice a second.
MEET_S: Final = 3.0
HEARD_S: Final = 3.0
POLL_S: Final = 0.5
ADDRESSES_MAX: Final = 4
VERSION_CHARS_MAX: Final = 20
_FAILED = (aiohttp.ClientError, TimeoutError, OSError, Malformed, msgspec.ValidationError)
_AWAY = (Cause.HOST_DOWN, Cause.NO_WAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another machine.

    Args:
        what: What it is called.
        addresses: Where it may be, as `IP:PORT` or `[IPv6]:PORT`; at least one.
        node: Who says so; empty where nobody does.
    """

    what: str
    addresses: tuple[str, ...]
    node: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What somebody answered: how it is, between these two instants of this machine's clock."""

    address: str
    context: ssl.SSLContext | None
    health: Health
    asked_s: float
    came_s: float


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why nobody answered, or not as a meshq does."""

    address: str
    cause: Cause
    text: str


class Visits:
    """Looks at other machines.

    Args:
        here: This machine.
        clock: The lease clock.
        heard: The nodes whose announcements arrive here.
        deaf: Whether multicast does not work on this machine.
    """

    def __init__(self, here: Patient, clock: Clock, heard: Collection[str], *, deaf: bool) -> None:
        self._deaf = deaf
        self._here = here
        self._clock = clock
        self._heard = heard
        passports = security.passports(here.keys, HOLDER)
        self._contexts: list[ssl.SSLContext | None] = [*map(security.client_context, passports)]

    async def pay(self, other: Other) -> Finding:
        """What is wrong with a machine, or nothing. Takes some 12 s at most."""
        came: list[_Answer | _Trouble] = []
        async with asyncio.TaskGroup() as tasks:
            addresses = enumerate(other.addresses[:ADDRESSES_MAX])
            calls = [tasks.create_task(self._meet(address, place * STAGGER_S)) for place, address in addresses]
            for coming in asyncio.as_completed(calls):
                came.append(await coming)
                if isinstance(came[-1], _Answer) and other.node in ("", came[-1].health.node):
                    for call in calls:
                        call.cancel()
                    break
        answers = [each for each in came if isinstance(each, _Answer)]
        if answers and other.node in ("", answers[-1].health.node):
            return await self._judge(other.what, answers[-1])
        if answers:
            return self._mistaken(other, answers[0])
        # An address where there is a machine tells more than one where there is none.
        trouble = min((each for each in came if isinstance(each, _Trouble)), key=lambda each: each.cause in _AWAY)
        return await self._unmet(other, trouble)

    # -- who answers -------------------------------------------------------------------------------------

    async def _meet(self, address: str, delay_s: float) -> _Answer | _Trouble:
        await asyncio.sleep(delay_s)
        host, port = split_host_port(address)
        error: BaseException = OSError("nobody was asked")
        begun_s = self._clock.boot_s()
        for context in self._contexts or [None]:
            try:
                return await self._ask(address, context)
            except _FAILED as failed:
                error = failed
                if sight.unreached(error) is not None:
                    break
        quick = self._clock.boot_s() - begun_s < QUICK_S
        seen = sight.unreached(error)
        if seen is None and isinstance(error, TimeoutError):
            return _Trouble(address, Cause.HANGS, _HANGS)
        if seen is None:
            return self._stranger(address, error, await sight.look(host, port, CONNECT_S))
        if seen.kind is Kind.SILENT or (seen.kind is Kind.ABSENT and quick):
            # The daemon here may just have looked for it, too: so what comes back at once may have taken long.
            begun_s = self._clock.boot_s()
            again = await sight.knock(host, port, KNOCK_S if seen.kind is Kind.SILENT else CONNECT_S)
            if again is None:
                return _Trouble(address, Cause.HANGS, _HANGS)
            seen, quick = again, quick and self._clock.boot_s() - begun_s < QUICK_S
        return _away(address, seen, quick=quick)

    async def _ask(self, address: str, context: ssl.SSLContext | None) -> _Answer:
        asked_s = self._clock.boot_s()
        health = msgspec.convert(await self._get(address, context, "/health"), Health)
        return _Answer(address, context, health, asked_s, self._clock.boot_s())

    async def _get(self, address: str, context: ssl.SSLContext | None, path: str) -> Any:
        host, port = split_host_port(address)
        return await sight.ask(host, port, context, CONNECT_S, path)

    def _stranger(self, address: str, error: BaseException, seen: Sight) -> _Trouble:
        """What to say of somebody who takes calls, and did not answer."""
        own = {f"CN=meshq {key.name}" for key in self._here.keys}
        if seen.kind is Kind.SECURED and not own:
            mine = "is --insecure" if self._here.insecure else "has none"
            text = f"it has a key, and this machine {mine}: {_SHOW_THERE}"
            return _Trouble(address, Cause.NO_KEY, text)
        if seen.kind is Kind.SECURED and seen.issuer not in own:
            return _Trouble(address, Cause.OTHER_KEY, f"it has another key: {_SHOW_THERE}")
        if seen.kind is Kind.SECURED and security.is_distrust(error):
            return _Trouble(address, Cause.OTHER_KEY, f"it does not take this machine's key any more: {_SHOW_THERE}")
        if seen.kind is Kind.INSECURE and own:
            text = "it is --insecure, and this machine has a key: start it there with meshq up --key KEY, where KEY is"
            return _Trouble(address, Cause.NO_KEY, f"{text} what `meshq key show` prints here")
        if seen.kind in (Kind.SECURED, Kind.INSECURE):
            return _Trouble(address, Cause.HANGS, "it breaks off; see the log there")
        port = split_host_port(address)[1]
        text = f"what answers at port {port} is no meshq: `meshq status` shows the right one there"
        return _Trouble(address, Cause.NO_MESHQ, text)

    # -- nobody does -------------------------------------------------------------------------------------

    async def _unmet(self, other: Other, trouble: _Trouble) -> Finding:
        """What to say of a machine that nobody answers for."""
        nodes = await self._here.known()
        linked = {each.id: each.address for each in nodes if each.heard_s is not None and each.heard_s < HEARD_S}
        if other.node in linked or set(other.addresses) & set(linked.values()):
            port = split_host_port(trouble.address)[1]
            text = f"can't be called at port {port} from here, but it calls this machine, and the two have met"
            return Finding(what=other.what, text=text)
        interface, is_direct = _way(trouble.address)
        if trouble.cause in (*_AWAY, Cause.FIREWALL, Cause.PORT_CLOSED) and (kind := _elsewhere(interface)):
            text = f"the way there leads through {interface}, {kind}, and nobody answers: switch that off, or take an "
            text += "address of that machine that is on this network"
            return Finding(what=other.what, text=text, cause=Cause.INTERFACE)
        if other.node in self._heard and (trouble.cause in _AWAY or not is_direct or is_own(trouble.address)):
            return self._misplaced(other)
        return Finding(what=other.what, text=trouble.text, cause=trouble.cause)

    def _mistaken(self, other: Other, answer: _Answer) -> Finding:
        """What to say where somebody else than the node that is meant answers."""
        if other.node in self._heard:
            return self._misplaced(other)
        text = f"{short(other.node)} was there, and now {short(answer.health.node)} is: is the other one up?"
        return Finding(what=other.what, text=text, cause=Cause.HOST_DOWN)

    def _misplaced(self, other: Other) -> Finding:
        text = (
            f"{short(other.node)} announces this address, and can't be reached by it: it is of a container, a VPN or "
            "another network. Set `host` there to its address on this network"
        )
        return Finding(what=other.what, text=text, cause=Cause.INTERFACE)

    # -- somebody does -----------------------------------------------------------------------------------

    async def _judge(self, what: str, first: _Answer) -> Finding:
        """What is wrong with a machine that holds this one's key; nothing, mostly."""
        here, health = self._here, first.health
        version = "".join(char for char in health.version[:VERSION_CHARS_MAX] if char.isprintable())
        name = f"meshq {version} ({short(health.node)})"

        def finding(text: str, cause: Cause = Cause.NOTHING) -> Finding:
            return Finding(what=what, text=f"{name} {text}", cause=cause)

        try:
            if health.node == here.node and await self._is_itself(first):
                return finding("is this machine itself")
            if health.node == here.node:
                text = "has this machine's node id: one data directory is a copy of the other. Start the copy again, "
                return finding(f"{text}with --seed HOST:PORT of the other one: then it takes a new id", Cause.CLONED_ID)
            if not here.keys and not here.insecure:
                return finding("has no key: start meshq here with --insecure, too, or give it a key", Cause.NO_KEY)
            if health.cluster != here.cluster:
                text = f"is of cluster {health.cluster!r}, and this machine of {here.cluster!r}: see --cluster"
                return finding(text, Cause.OTHER_CLUSTER)
            if text := _no_common_version(health, here):
                return finding(text, Cause.VERSION)
            if (rate := await self._rate(first)) is not None:
                text = f"has a clock that runs {rate:.2f} times as fast as this one's: no lease holds between the two. "
                return finding(f"{text}See to the one that is wrong", Cause.CLOCK_RATE)
        except _FAILED:
            return finding("breaks off; see the log there", Cause.HANGS)
        return finding(*await self._met(first))

    async def _is_itself(self, first: _Answer) -> bool:
        stats = msgspec.convert(await self._get(first.address, first.context, "/stats"), Stats)
        return stats.boot == self._here.boot

    async def _rate(self, first: _Answer) -> float | None:
        """How fast the other clock runs for each second here; None where that may be as fast as here."""
        await asyncio.sleep(CLOCK_S)
        second = await self._ask(first.address, first.context)
        gone_s = second.health.clock_s - first.health.clock_s
        # Each clock was read at some instant between question and answer.
        least, most = second.asked_s - first.came_s, second.came_s - first.asked_s
        if not second.health.clock_s or (gone_s / least > 1 - RATE_MAX and gone_s / most < 1 + RATE_MAX):
            return None
        return 2 * gone_s / (least + most)

    async def _met(self, answer: _Answer) -> tuple[str, Cause]:
        here, node = self._here, answer.health.node
        fits = f"has the same {'key, ' if here.keys else ''}cluster and version as this machine, and a clock as fast"
        end_s = self._clock.boot_s() + (MEET_S if node in self._heard else 0)
        while here.boot:
            heard_s = next((each.heard_s for each in await here.known() if each.id == node), None)
            if heard_s is not None and heard_s < HEARD_S:
                led = "" if answer.health.leader is not None else ". It has no leader at present: see meshq explain"
                return f"{fits}; the two have met{led}", Cause.NOTHING
            if self._clock.boot_s() > end_s:
                break
            await asyncio.sleep(POLL_S)
        if not here.config.mdns:
            text = f"{fits}, but this machine does not announce itself (mdns = false): meshq up --seed {answer.address}"
            return text, Cause.NO_MULTICAST
        if self._deaf:
            text = f"{fits}. Without multicast, name it to meet it: meshq up --seed {answer.address}"
            return text, Cause.NO_MULTICAST
        if node not in self._heard:
            text = (
                f"{fits}, but its announcements do not arrive by {_way(answer.address)[0]}: multicast (UDP port 5353)"
            )
            return f"{text} is lost on the way. Name it: meshq up --seed {answer.address}", Cause.NO_MULTICAST
        if here.boot:
            return f"{fits}, but the two have not met: see the log of either", Cause.NOT_MET
        return f"{fits}: they will meet", Cause.NOTHING


_SHOW_THERE: Final = "type `meshq key show` there, and `meshq up --key KEY` here"
_HANGS: Final = "it takes the call and says nothing: meshq hangs there, or it is no meshq"


def _away(address: str, seen: Sight, *, quick: bool) -> _Trouble:
    """What to say of an address where nobody takes a call."""
    host, port = split_host_port(address)
    match seen.kind:
        case Kind.SILENT:
            text = (
                f"nothing comes back: a firewall drops TCP port {port} (let it in there), or that machine has just gone"
            )
            if not _way(address)[1]:
                text = f"nothing comes back: is that machine on, and does a firewall there let in TCP port {port}?"
            return _Trouble(address, Cause.FIREWALL, text)
        case Kind.CLOSED:
            return _Trouble(address, Cause.PORT_CLOSED, f"port {port} is closed: is meshq up there, and at this port?")
        case Kind.ABSENT if quick:
            return _Trouble(address, Cause.FIREWALL, f"a firewall refuses TCP port {port}: let it in there")
        case Kind.ABSENT:
            return _Trouble(address, Cause.HOST_DOWN, "no machine answers there: is it on, and on this network?")
        case Kind.NO_WAY:
            return _Trouble(address, Cause.NO_WAY, "no way leads there: is this machine on the same network?")
        case _ if is_link_local(host) and "%" not in host:
            text = f"such an address needs the interface that leads there, as in [{host}%eth0]:{port}"
            return _Trouble(address, Cause.NO_WAY, text)
        case _:
            return _Trouble(address, Cause.NO_WAY, f"can't be called from here: {seen.text}")


def _no_common_version(health: Health, here: Patient) -> str:
    """What to say where two do not speak one version of the protocol; empty where they do."""
    (oldest, newest), (oldest_here, newest_here) = versions(health), here.protocol
    if oldest <= newest_here and oldest_here <= newest:
        return ""
    older = "that machine" if newest < oldest_here else "this one"
    spoken = [f"{a} to {b}" if a != b else f"{a}" for a, b in ((oldest, newest), here.protocol)]
    return f"speaks protocol version {spoken[0]}, and this machine {spoken[1]}: upgrade meshq on {older}"


# -- this machine's interfaces ---------------------------------------------------------------------------


def _elsewhere(interface: str) -> str:
    """What an interface is by which no neighbour is reached; empty where one is."""
    if is_tunnel(interface):
        return "a VPN's interface"
    return "an interface of containers" if is_container(interface) else ""


def is_own(address: str) -> bool:
    """Whether an address is one of this machine's, whatever may listen there."""
    host = split_host_port(address)[0].partition("%")[0]
    return any(host == ip for _, ip, _ in _local())


def _way(address: str) -> tuple[str, bool]:
    """The interface by which packets leave for an address, and whether they need no router."""
    host, port = split_host_port(address)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))  # sends nothing
            own = probe.getsockname()[0].partition("%")[0]
    except OSError:
        return "", False
    there = ipaddress.ip_address(host.partition("%")[0])
    for interface, ip, length in _local():
        if ip == own:
            return interface, there in ipaddress.ip_network(f"{ip}/{length}", strict=False)
    return "", False


def _local() -> Sequence[tuple[str, str, int]]:
    """Each address of this machine: interface, IP, length of the network's part."""
    return [
        (adapter.name, (each.ip if isinstance(each.ip, str) else each.ip[0]).partition("%")[0], each.network_prefix)
        for adapter in ifaddr.get_adapters()
        for each in adapter.ips
    ]
