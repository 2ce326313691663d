"""Why machines do not meet: each cause is looked for by trying, and one is named for each machine.

Runs beside a daemon or without one, and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Final

from meshq.core.ports import Clock
from meshq.core.reports import NodeView
from meshq.discovery import mdns, seeds
from meshq.discovery.addresses import LocalAddress, is_container, is_link_local, is_tunnel, left_out, usable
from meshq.discovery.seeds import Seed
from meshq.node.patient import Cause, Finding, Patient
from meshq.node.visit import Other, Visits, is_own

# Questions are asked at once, and one and three seconds after; the announcement has taken two of these already.
LISTEN_S: Final = 2.0
NAME_S: Final = 5.0
VISITS_MAX: Final = 16
INTERFACES_MAX: Final = 8
INTERFACES: Final = Path("/sys/class/net")


async def examine(here: Patient, clock: Clock, host: Seed | None) -> AsyncIterator[Finding]:
    """Looks at this machine, then at another one, or at all that announce themselves, are named here or were met.

    Args:
        clock: The lease clock.
        host: Another machine; None for all.
    """
    yield here.daemon
    yield _interfaces(here.config.host)
    heard: dict[str, mdns.Found] = {}
    deaf = False
    if here.config.mdns and (own := _by_interface(here.config.host)):
        multicast = await _multicast(own, here, clock, heard)
        deaf = not multicast.well
        yield multicast
    known = await here.known()
    resolved = await asyncio.gather(*map(_resolve, [host] if host else seeds.parse_all(here.config.seeds)))
    for nowhere in resolved:
        if isinstance(nowhere, Finding):
            yield nowhere
    named = [_recognised(each, heard, known) for each in resolved if isinstance(each, Other)]
    others = named if host else _all(here, heard, known, named)
    visits, limit = Visits(here, clock, heard, deaf=deaf), asyncio.Semaphore(VISITS_MAX)

    async def visit(other: Other) -> Finding:
        async with limit:
            return await visits.pay(other)

    for finding in await asyncio.gather(*map(visit, others)):
        yield finding
    if not (others or resolved):
        text = "no other machine announces itself: is meshq up there? If it is, see why from here: meshq doctor HOST"
        yield Finding(what="others", text=text, cause=Cause.NOBODY)


# -- this machine ----------------------------------------------------------------------------------------


def _interfaces(host: str) -> Finding:
    chosen = _outside(host)
    down = {local.interface for local in usable(host) if not local.is_loopback} - {each.interface for each in chosen}
    others = {local.interface for local in left_out(host)}
    more = f" (left out, of containers: {', '.join(sorted(others))})" if others else ""
    more += f" (down: {', '.join(sorted(down))})" if down else ""
    remedy = "take `host` out of the settings" if host else "connect this machine to the network"
    if not chosen:
        text = f"no interface is up{more}: connect this machine to the network"
        if host and not down:
            text = f"`host` is {host}, by which nobody else gets here: {remedy}"
        return Finding(what="interfaces", text=text, cause=Cause.NO_NETWORK)
    names = ", ".join(sorted({_with_address(local, chosen) for local in chosen}))
    if all(is_container(local.interface) or is_tunnel(local.interface) for local in chosen):
        kind = "of containers" if is_container(chosen[0].interface) else "of a VPN"
        text = f"{names} is {kind}, by which no neighbour gets here, and nothing else is chosen: {remedy}"
        return Finding(what="interfaces", text=text, cause=Cause.INTERFACE)
    return Finding(what="interfaces", text=f"{names}{more}")


def _outside(host: str) -> list[LocalAddress]:
    """The addresses by which a daemon that listens at `host` looks for others, but for interfaces that are down."""
    return [local for local in usable(host) if not local.is_loopback and not _is_down(local.interface)]


def _is_down(interface: str) -> bool:
    """Whether an interface is switched off or has no cable, where the system tells it; it keeps its addresses."""
    try:
        return (INTERFACES / interface / "operstate").read_text().strip() in ("down", "lowerlayerdown")
    except OSError:
        return False


def _with_address(local: LocalAddress, chosen: Sequence[LocalAddress]) -> str:
    """An interface, with its address if people write that."""
    shown = [each.ip for each in chosen if each.interface == local.interface and not is_link_local(each.ip)]
    return f"{local.interface} {shown[0]}" if shown else local.interface


def _by_interface(host: str) -> list[tuple[LocalAddress, ...]]:
    """The addresses of each interface by which neighbours are reached; of each that is chosen where there is none."""
    chosen = sorted(_outside(host), key=lambda local: local.interface)
    real = [local for local in chosen if not is_tunnel(local.interface)]
    return [tuple(group) for _, group in groupby(real or chosen, key=lambda local: local.interface)][:INTERFACES_MAX]


async def _multicast(
    own: Sequence[tuple[LocalAddress, ...]], here: Patient, clock: Clock, heard: dict[str, mdns.Found]
) -> Finding:
    """Announces itself on each interface for a moment, and hears who else does."""
    troubles: dict[str, str] = {}

    async def listen(local: tuple[LocalAddress, ...]) -> None:
        name, announced = local[0].interface, asyncio.Event()
        # A name that is no node's id: no daemon takes it for a node.
        me = mdns.Announcement(
            node=f"doctor-{clock.random_bits(64):x}", boot="doctor", cluster="doctor", port=here.config.port or 1
        )
        service = mdns.Mdns(
            me, on_found=lambda found: heard.update({found.node: found}),
            on_unavailable=lambda reason: troubles.update({name: reason}), announced=announced, local=lambda: local,
        )  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(service.run())
            await announced.wait()
            await asyncio.sleep(LISTEN_S)
            running.cancel()

    async with asyncio.TaskGroup() as tasks:
        for local in own:
            tasks.create_task(listen(local))
    works = [local[0].interface for local in own if local[0].interface not in troubles]
    if troubles:
        well = f" (it works on {', '.join(works)})" if works else ""
        reasons = "; ".join(dict.fromkeys(troubles.values()))
        text = (
            f"does not work on {', '.join(sorted(troubles))}{well}: {reasons}. Does a firewall here drop UDP port 5353?"
        )
        return Finding(
            what="multicast", text=f"{text} Else name a machine: meshq up --seed HOST:PORT", cause=Cause.NO_MULTICAST
        )
    count = sum(node != here.node for node in heard)
    others = "1 other node announces itself" if count == 1 else f"{count or 'no'} other nodes announce themselves"
    text = f"works on {', '.join(works)}; {others} there"
    return Finding(what="multicast", text=text)


# -- the others ------------------------------------------------------------------------------------------


async def _resolve(named: Seed) -> Other | Finding:
    try:
        async with asyncio.timeout(NAME_S):
            return Other(what=str(named), addresses=await seeds.resolve(named))
    except OSError:  # a TimeoutError, too
        text = f"no machine is called {named.host} here; give its IP address"
        return Finding(what=str(named), text=text, cause=Cause.UNKNOWN_HOST)


def _recognised(named: Other, heard: Mapping[str, mdns.Found], known: Iterable[NodeView]) -> Other:
    """The same, with the node's id if somebody told that it is there. It is called by the address that was named."""
    for node, found in heard.items():
        if set(found.addresses) & set(named.addresses):
            return replace(named, node=node)
    return next((replace(named, node=each.id) for each in known if each.address in named.addresses), named)


def _all(
    here: Patient, heard: Mapping[str, mdns.Found], known: Iterable[NodeView], named: Sequence[Other]
) -> list[Other]:
    """All other machines of which anything is known here, each once."""
    found: dict[str, Other] = {}
    for each in heard.values():
        # A copy of this node's data directory stands under one name with it.
        addresses = [at for at in each.addresses if each.node != here.node or not is_own(at)]
        if addresses:
            found[each.node] = Other(what=addresses[0], addresses=tuple(addresses), node=each.node)
    for node in known:
        if node.address and node.id not in found:
            found[node.id] = Other(what=node.address, addresses=(node.address,), node=node.id)
    told = {address for other in found.values() for address in other.addresses}
    return [*found.values(), *(each for each in named if not told & set(each.addresses))]
