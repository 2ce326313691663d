"""mDNS with real packets on the loopback interface."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from zeroconf import const
from zeroconf._dns import DNSAddress, DNSPointer, DNSRecord, DNSService, DNSText
from zeroconf._protocol.outgoing import DNSOutgoing

from meshq.core.ids import cluster_hash
from meshq.discovery.addresses import LocalAddress
from meshq.discovery.mdns import RECORDS_MAX, SERVICE_TYPE, Announcement, Found, Mdns

LOOPBACK = (LocalAddress("127.0.0.1", "lo", 1),)
ANNA, BERT, CARL = "0190" + "a" * 28, "0190" + "b" * 28, "0190" + "c" * 28
CLUSTER = cluster_hash("test")


def multicast_trouble() -> str:
    """Why multicast does not work on the loopback interface here; empty where it does."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        loopback = socket.inet_aton("127.0.0.1")
        try:
            receiver.bind(("", 0))
            receiver.settimeout(1)
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + loopback)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
            sender.sendto(b"?", ("224.0.0.251", receiver.getsockname()[1]))
            receiver.recv(16)
        except OSError as error:
            return f"no multicast on the loopback interface: {error}"
    return ""


@pytest.fixture(scope="module", autouse=True)
def multicast() -> None:
    """Skips where packets do not come back."""
    if trouble := multicast_trouble():
        pytest.skip(trouble)


@dataclass
class Heard:
    found: list[Found] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)


@asynccontextmanager
async def running(
    node: str,
    boot: str,
    *,
    port: int = 7373,
    local: Callable[[], tuple[LocalAddress, ...]] = lambda: LOOPBACK,
) -> AsyncIterator[tuple[Mdns, Heard]]:
    heard = Heard()
    service = Mdns(
        Announcement(node=node, boot=boot, cluster=CLUSTER, port=port),
        # A daemon that somebody runs on this machine is none of the test's.
        on_found=lambda found: heard.found.append(found) if found.cluster == CLUSTER else None,
        on_unavailable=heard.unavailable.append,
        local=local,
        poll_s=0.05,
        retry_s=0.1,
    )
    task = asyncio.ensure_future(service.run())
    try:
        yield service, heard
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


async def until(predicate: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while True:
            if predicate():
                return
            await asyncio.sleep(0.02)


async def test_two_nodes_find_each_other() -> None:
    async with running(ANNA, "boot-a", port=1001) as (_, anna), running(BERT, "boot-b", port=1002) as (_, bert):
        await until(lambda: anna.found and bert.found)
    assert anna.found == [Found(node=BERT, boot="boot-b", cluster=CLUSTER, version=2, addresses=("127.0.0.1:1002",))]
    assert bert.found == [Found(node=ANNA, boot="boot-a", cluster=CLUSTER, version=2, addresses=("127.0.0.1:1001",))]


def say(records: Sequence[DNSRecord]) -> None:
    """Sends what anybody on the network may send."""
    out = DNSOutgoing(const._FLAGS_QR_RESPONSE | const._FLAGS_AA)
    for record in records:
        out.add_answer_at_time(record, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for packet in out.packets():
            sender.sendto(packet, ("224.0.0.251", 5353))


async def test_a_name_of_more_addresses_than_a_machine_has_is_left_alone() -> None:
    name, host, (kind, ttl) = f"{BERT}.{SERVICE_TYPE}", f"{BERT}.local.", (const._CLASS_IN, 4500)
    text = b"".join(bytes([len(pair)]) + pair for pair in (f"c={CLUSTER}".encode(), b"b=boot-b", b"p=7373", b"v=2"))
    async with running(ANNA, "boot-a") as (service, anna):
        await asyncio.wait_for(service.announced.wait(), 10)
        for block in range(RECORDS_MAX // 50 + 1):
            ips = [bytes((10, 0, block, number)) for number in range(50)]
            say([DNSAddress(host, const._TYPE_A, kind, ttl, ip) for ip in ips])
        say([
            DNSText(name, const._TYPE_TXT, kind, ttl, text),
            DNSService(name, const._TYPE_SRV, kind, ttl, 0, 0, 7373, host),
            DNSPointer(SERVICE_TYPE, const._TYPE_PTR, kind, ttl, name),
        ])  # fmt: skip
        async with running(CARL, "boot-c", port=1003):
            await until(lambda: CARL in {found.node for found in anna.found})
    assert BERT not in {found.node for found in anna.found}


async def test_a_new_boot_is_found_again() -> None:
    async with running(ANNA, "boot-a") as (_, anna):
        async with running(BERT, "boot-1"):
            await until(lambda: anna.found)
        async with running(BERT, "boot-2"):
            await until(lambda: len(anna.found) > 1)
    assert [found.boot for found in anna.found] == ["boot-1", "boot-2"]


async def test_both_of_two_with_one_id_hear_it() -> None:
    async with running(ANNA, "boot-1", port=1001) as (elder_service, elder):
        await asyncio.wait_for(elder_service.announced.wait(), 10)
        async with running(ANNA, "boot-2", port=1002) as (_, younger):
            await until(lambda: elder.found and younger.found)
    assert {(found.node, found.boot) for found in elder.found} == {(ANNA, "boot-2")}
    assert {(found.node, found.boot) for found in younger.found} == {(ANNA, "boot-1")}
    assert younger.found[0].addresses == ("127.0.0.1:1001",)


async def test_a_new_address_is_announced() -> None:
    addresses: list[tuple[LocalAddress, ...]] = [LOOPBACK]
    async with running(ANNA, "boot-a") as (_, anna), running(BERT, "boot-b", local=lambda: addresses[-1]) as (bert, _):
        await asyncio.wait_for(bert.announced.wait(), 10)
        addresses.append((*LOOPBACK, LocalAddress("127.0.0.2", "lo", 1)))
        await until(lambda: any("127.0.0.2:7373" in found.addresses for found in anna.found))


async def test_only_loopback_is_said_once_and_works_all_the_same() -> None:
    async with running(ANNA, "boot-a") as (service, anna):
        await asyncio.wait_for(service.announced.wait(), 10)
        assert anna.unavailable == ["no network interface is up: only nodes on this machine are found"]


async def test_no_interface_is_said_once_and_later_ones_are_taken() -> None:
    looks = 0

    def local() -> tuple[LocalAddress, ...]:
        nonlocal looks
        looks += 1
        return LOOPBACK if looks > 20 else ()

    async with running(ANNA, "boot-a") as (_, anna), running(BERT, "boot-b", local=local) as (service, bert):
        await asyncio.wait_for(service.announced.wait(), 1)
        assert bert.unavailable == ["no network interface has a usable address"]
        await until(lambda: anna.found)
    assert bert.unavailable == ["no network interface has a usable address"]


async def test_an_address_that_is_not_here_is_no_multicast() -> None:
    nowhere = (LocalAddress("192.0.2.77", "eth9", 9),)
    async with running(ANNA, "boot-a", local=lambda: nowhere) as (service, anna):
        await asyncio.wait_for(service.announced.wait(), 10)
    assert len(anna.unavailable) == 1


def test_a_cluster_is_announced_by_its_hash() -> None:
    assert cluster_hash("a") != cluster_hash("b")
    assert len(cluster_hash("a")) == 16
