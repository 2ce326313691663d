"""Announces this node by mDNS and listens for others.

A record that goes away says nothing: a killed node's stays for minutes, and a lost packet may end a live one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import zeroconf
from zeroconf import DNSQuestionType, NonUniqueNameException, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from meshq.core.addresses import format_address
from meshq.core.ids import is_id
from meshq.core.messages import PROTOCOL_VERSION
from meshq.discovery.addresses import LocalAddress, is_link_local, is_ready, usable

SERVICE_TYPE = "_meshq._tcp.local."
POLL_S = 5.0
RETRY_S = 30.0
# A cable that was out while two nodes started changes no address: without a repetition they'd meet hours later.
REPEAT_S = 60.0
CLOSE_S = 2.0
RESOLVE_S = 3.0
HEARD_S = 3.0
RESOLVERS = 8
NAMES_MAX = 1024
# More than a machine of many addresses says of itself. To read ten thousand takes seconds, and anybody may send them.
RECORDS_MAX = 256
_SRV, _IN = 33, 1  # of DNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What this node says of itself.

    Args:
        cluster: The hash of the cluster's name, by `core.ids.cluster_hash`.
        port: Where it listens.
        version: Of the protocol between nodes.
    """

    node: str
    boot: str
    cluster: str
    port: int
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a node said of itself. With this node's own id and another boot, it may be a copy of its data directory.

    It may also be an echo: some access points answer for nodes that are gone. Only an answer to hello is proof.
    """

    node: str
    boot: str
    cluster: str
    version: int
    addresses: tuple[str, ...]


_Look = Callable[[], tuple[LocalAddress, ...]]


class _Broken(Exception):
    """This attempt at mDNS is over; the text says why."""


class Mdns:
    """mDNS for one node.

    Args:
        me: What to announce.
        on_found: Called for each other node, and again when what it announces has changed.
        on_unavailable: Called once with the reason when multicast does not work; again only if it worked meanwhile.
        announced: Set when the first announcement is out, or there will be none for now.
        local: The addresses to announce, asked again every `poll_s`.
        poll_s: Seconds between looks at the interfaces.
        retry_s: Seconds until the next attempt where multicast does not work and the interfaces stay the same.
    """

    def __init__(
        self,
        me: Announcement,
        *,
        on_found: Callable[[Found], None],
        on_unavailable: Callable[[str], None],
        announced: asyncio.Event | None = None,
        local: _Look = usable,
        poll_s: float = POLL_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self.announced = announced or asyncio.Event()
        self._me = me
        self._on_found = on_found
        self._on_unavailable = on_unavailable
        self._local = local
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._reported = False

    def announce(self, cluster: str) -> None:
        """Announces another cluster from now on, within `poll_s`."""
        self._me = replace(self._me, cluster=cluster)

    async def run(self) -> None:
        """Announces and listens until cancelled; takes up to 2 s to say goodbye then."""
        # What its warnings say is told once, by on_unavailable.
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
        while True:
            local = self._local()
            try:
                await self._attempt(local)
            except _Broken as broken:
                self._on_state(str(broken))
            waited_s = 0.0
            while waited_s < self._retry_s and self._local() == local:
                await asyncio.sleep(self._poll_s)
                waited_s += self._poll_s

    async def _attempt(self, local: tuple[LocalAddress, ...]) -> None:
        # zeroconf leaks a socket where it meets an address that is none.
        local = tuple(address for address in local if is_ready(address))
        if not local:
            raise _Broken("no network interface has a usable address")
        try:
            zc = AsyncZeroconf(interfaces=_interfaces(local))
        except (OSError, RuntimeError) as error:
            raise _Broken(f"multicast can't be used: {error}") from error
        try:
            session = _Session(zc, self._me, lambda: self._me, on_found=self._on_found, on_state=self._on_state)
            await session.run(local, self._local, self._poll_s)
        except (OSError, RuntimeError, zeroconf.Error) as error:
            raise _Broken(f"multicast DNS failed: {str(error) or type(error).__name__}") from error
        finally:
            await _close(zc)

    def _on_state(self, trouble: str) -> None:
        """Notes what came of an announcement; `trouble` is empty where it came back from the network."""
        if trouble and not self._reported:
            self._on_unavailable(trouble)
        self._reported = bool(trouble)
        self.announced.set()


class _Session:
    """One AsyncZeroconf from its start to its failure."""

    def __init__(
        self,
        zc: AsyncZeroconf,
        me: Announcement,
        latest: Callable[[], Announcement],
        *,
        on_found: Callable[[Found], None],
        on_state: Callable[[str], None],
    ) -> None:
        self._zc = zc
        self._me = me
        self._latest = latest
        self._on_found = on_found
        self._on_state = on_state
        self._name = f"{me.node}.{SERVICE_TYPE}"
        self._own = _OwnRecords(self._name, me.boot, self._enqueue)
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._queued: set[tuple[str, bytes]] = set()
        self._told: dict[str, Found] = {}
        self._addresses: frozenset[str] = frozenset()

    async def run(self, local: tuple[LocalAddress, ...], look: _Look, poll_s: float) -> None:
        """Announces, browses and follows the interfaces, until cancelled.

        Raises:
            _Broken: There is nothing left to announce on.
            OSError, RuntimeError, zeroconf.Error: It came to an end inside zeroconf.
        """
        self._zc.zeroconf.async_add_listener(self._own, None)
        # Answers by multicast: on a machine with several daemons a unicast one reaches an arbitrary one of them.
        browser = AsyncServiceBrowser(
            self._zc.zeroconf, SERVICE_TYPE, handlers=[self._on_change], question_type=DNSQuestionType.QM
        )
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(RESOLVERS):
                    group.create_task(self._resolve())
                group.create_task(self._announce(local, look, poll_s))
        except* (_Broken, OSError, RuntimeError, zeroconf.Error) as errors:
            raise _first(errors) from errors
        finally:
            await browser.async_cancel()

    async def _announce(self, local: tuple[LocalAddress, ...], look: _Look, poll_s: float) -> None:
        await self._register(local)
        await self._check(local)
        quiet_s = 0.0
        while True:
            await asyncio.sleep(poll_s)
            quiet_s += poll_s
            now = look()
            if now == local and self._me == self._latest() and quiet_s < REPEAT_S:
                continue
            self._me = self._latest()
            quiet_s = 0.0
            if not now:
                raise _Broken("no network interface has a usable address any more")
            local = now
            self._own.heard.clear()
            await self._zc.async_update_interfaces(_interfaces(local))
            await (await self._zc.async_update_service(self._info(local)))
            await self._check(local)

    async def _register(self, local: tuple[LocalAddress, ...]) -> None:
        try:
            await (await self._zc.async_register_service(self._info(local)))
        except NonUniqueNameException:
            # A twin, or an echo of an earlier start. The node finds out which; this one goes on until it is told.
            await self._report(self._name, b"")
            await (await self._zc.async_register_service(self._info(local), cooperating_responders=True))

    async def _check(self, local: tuple[LocalAddress, ...]) -> None:
        """Says whether the announcement came back, as everything sent by multicast does."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._own.heard.wait(), HEARD_S)
        if not self._own.heard.is_set():
            self._on_state("this node's own announcement does not come back from the network")
        elif all(address.is_loopback for address in local):
            self._on_state("no network interface is up: only nodes on this machine are found")
        else:
            self._on_state("")

    def _info(self, local: tuple[LocalAddress, ...]) -> AsyncServiceInfo:
        me = self._me
        self._addresses = frozenset(format_address(address.ip, me.port) for address in local)
        return AsyncServiceInfo(
            SERVICE_TYPE,
            self._name,
            port=me.port,
            properties={"c": me.cluster, "b": me.boot, "p": str(me.port), "v": str(me.version)},
            server=f"{me.node}.local.",
            parsed_addresses=[address.ip for address in local],
        )

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            self._told.pop(name.lower(), None)
        elif name.lower() != self._name:
            self._enqueue(name.lower(), b"")

    def _enqueue(self, name: str, text: bytes) -> None:
        if (name, text) not in self._queued and len(self._queued) < NAMES_MAX:
            self._queued.add((name, text))
            self._queue.put_nowait((name, text))

    async def _resolve(self) -> None:
        while True:
            name, text = await self._queue.get()
            self._queued.discard((name, text))
            await self._report(name, text)

    def _is_crowded(self, name: str) -> bool:
        """Whether more stands under a name, or the hosts that it leads to, than one machine says."""
        cache = self._zc.zeroconf.cache
        if len(cache.async_entries_with_name(name)) > RECORDS_MAX:
            return True
        services = cache.async_all_by_details(name, _SRV, _IN)
        hosts = {getattr(service, "server", "") for service in services}
        return sum(len(cache.async_entries_with_name(host)) for host in hosts) > RECORDS_MAX

    async def _report(self, name: str, text: bytes) -> None:
        """Tells what a name stands for; `text` is the TXT record where it is known already."""
        if self._is_crowded(name):
            return
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        answered = await info.async_request(self._zc.zeroconf, RESOLVE_S * 1000, DNSQuestionType.QM)
        if not answered and not text:
            return
        found = _read(name, text or info.text, info.parsed_scoped_addresses())
        if found is None:
            return
        if found.node == self._me.node:
            if found.boot == self._me.boot:
                return
            # Its addresses and ours stand under one name.
            others = tuple(address for address in found.addresses if address not in self._addresses)
            found = replace(found, addresses=others)
        if self._told.get(name) == found:
            return
        if name not in self._told and len(self._told) >= NAMES_MAX:
            self._told.pop(next(iter(self._told)))
        self._told[name] = found
        self._on_found(found)


class _OwnRecords(zeroconf.RecordUpdateListener):
    """Hears what is said under this node's own name: its own words coming back, or another's."""

    def __init__(self, name: str, boot: str, on_other: Callable[[str, bytes], None]) -> None:
        self.heard = asyncio.Event()
        self._name = name
        self._boot = boot
        self._on_other = on_other

    def async_update_records(self, zc: Zeroconf, now: float, records: list[zeroconf.RecordUpdate]) -> None:
        """Looks through what a packet brought."""
        for update in records:
            record = update.new
            text = getattr(record, "text", None)
            if not isinstance(text, bytes) or record.name.lower() != self._name or record.is_expired(now):
                continue
            if _properties(text).get("b") == self._boot:
                self.heard.set()
            else:
                self._on_other(self._name, text)


def _interfaces(local: tuple[LocalAddress, ...]) -> list[str | int | tuple[tuple[str, int, int], int]]:
    """What zeroconf calls interfaces: each IPv4 address, and the number of each interface with IPv6."""
    v4 = dict.fromkeys(address.ip for address in local if ":" not in address.ip)
    v6 = dict.fromkeys(address.index for address in local if ":" in address.ip and address.index)
    return [*v4, *v6]


def _properties(text: bytes) -> dict[str, str]:
    """A TXT record's pairs; those without a value or not UTF-8 are left out."""
    pairs = {}
    for key, value in AsyncServiceInfo(SERVICE_TYPE, SERVICE_TYPE, properties=text).properties.items():
        with contextlib.suppress(UnicodeDecodeError):
            pairs[key.decode()] = (value or b"").decode()
    return pairs


def _read(name: str, text: bytes, ips: list[str]) -> Found | None:
    """What a node announced, or None where it is not ours to understand."""
    node = name.removesuffix("." + SERVICE_TYPE)
    pairs = _properties(text)
    port, version = _number(pairs.get("p", "")), _number(pairs.get("v", ""))
    if not is_id(node) or not pairs.get("b") or not pairs.get("c") or not 1 <= port <= 65535:
        return None
    # Without a scope a link-local address can't be used.
    usable_ips = [ip for ip in dict.fromkeys(ips) if "%" in ip or not is_link_local(ip)]
    last = sorted(usable_ips, key=is_link_local)
    return Found(
        node=node,
        boot=pairs["b"],
        cluster=pairs["c"],
        version=version,
        addresses=tuple(format_address(ip, port) for ip in last),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _close(zc: AsyncZeroconf) -> None:
    """Says goodbye and closes the sockets, within `CLOSE_S`."""
    with contextlib.suppress(TimeoutError, OSError, RuntimeError, zeroconf.Error):
        await asyncio.wait_for(zc.async_close(), CLOSE_S)
