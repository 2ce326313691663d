"""The finder: many sources, one stream of candidates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ifaddr
import pytest

from meshq.core.ids import cluster_hash
from meshq.core.limits import HINTS_MAX
from meshq.core.membership import NOBODY
from meshq.core.messages import Hello
from meshq.discovery.addresses import usable
from meshq.discovery.finder import Events, Finder
from meshq.discovery.mdns import Found
from meshq.discovery.seeds import Seed
from meshq.wire import codec

ME, ANNA, BERT = "0" * 32, "a" * 32, "b" * 32


@dataclass
class Heard:
    candidates: list[tuple[str | None, tuple[str, ...]]] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    twins: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    other: list[object] = field(default_factory=list)


def make(
    seeds: Sequence[Seed] = (), remembered: Mapping[str, Sequence[str]] | None = None, port: int = 7373
) -> tuple[Finder, Heard]:
    heard = Heard()
    events = Events(
        on_candidate=lambda node, addresses: heard.candidates.append((node, addresses)),
        on_foreign=lambda cluster, address: heard.foreign.append((cluster, address)),
        on_twin=lambda boot, addresses: heard.twins.append((boot, addresses)),
        on_unavailable=heard.other.append,
        on_seed_failed=lambda *failure: heard.other.append(failure),
    )
    finder = Finder(
        node=ME,
        boot="boot-1",
        clusters=lambda: (cluster_hash("meshq"),),
        port=port,
        events=events,
        seeds=seeds,
        remembered=remembered,
        use_mdns=False,
    )
    return finder, heard


def found(node: str, *addresses: str, boot: str = "b1", cluster: str = "meshq") -> Found:
    return Found(node=node, boot=boot, cluster=cluster_hash(cluster), version=1, addresses=addresses)


def test_a_node_is_told_once() -> None:
    finder, heard = make()
    finder.on_found(found(ANNA, "10.0.0.1:7373"))
    finder.on_found(found(ANNA, "10.0.0.1:7373"))
    finder.told(ANNA, ["10.0.0.1:7373"])
    assert heard.candidates == [(ANNA, ("10.0.0.1:7373",))]


def test_a_new_address_is_told_with_the_old_ones() -> None:
    finder, heard = make()
    finder.told(ANNA, ["10.0.0.1:7373"])
    finder.on_found(found(ANNA, "10.0.0.2:7373"))
    assert heard.candidates[1:] == [(ANNA, ("10.0.0.2:7373", "10.0.0.1:7373"))]
    assert finder.known() == {ANNA: ("10.0.0.2:7373", "10.0.0.1:7373")}


def test_a_node_that_started_again_is_told_again() -> None:
    finder, heard = make()
    finder.on_found(found(ANNA, "10.0.0.1:7373", boot="b1"))
    finder.on_found(found(ANNA, "10.0.0.1:7373", boot="b2"))
    finder.on_found(found(ANNA, "10.0.0.1:7373", boot="b2"))
    assert heard.candidates == [(ANNA, ("10.0.0.1:7373",))] * 2


def test_this_node_is_no_candidate() -> None:
    finder, heard = make()
    finder.told(ME, ["10.0.0.1:7373"])
    finder.on_found(found(ME, "10.0.0.1:7373", boot="boot-1"))
    assert heard == Heard()


def test_a_twin_is_told_as_such() -> None:
    finder, heard = make()
    finder.on_found(found(ME, "10.0.0.1:7373", boot="boot-2"))
    assert heard == Heard(twins=[("boot-2", ("10.0.0.1:7373",))])


def test_another_cluster_is_told_once_and_never_a_candidate() -> None:
    finder, heard = make()
    finder.on_found(found(ANNA, "10.0.0.1:7373", cluster="other"))
    finder.on_found(found(BERT, "10.0.0.2:7373", cluster="other"))
    assert heard == Heard(foreign=[(cluster_hash("other"), "10.0.0.1:7373")])


def test_what_peers_say_is_checked() -> None:
    finder, heard = make()
    finder.told("no id", ["10.0.0.1:7373"])
    finder.told(ANNA, ["nonsense", "host:1", "[fe80::1%2]:7373", "10.0.0.1"])
    assert heard == Heard()
    finder.told(ANNA, ["[fe80::1%2]:7373", "[fd00::1]:7373"])
    assert heard.candidates == [(ANNA, ("[fd00::1]:7373",))]


def test_addresses_do_not_grow_for_ever() -> None:
    finder, _ = make()
    for number in range(HINTS_MAX + 10):
        finder.told(ANNA, [f"10.0.{number}.1:7373"])
    known = finder.known()[ANNA]
    assert len(known) == HINTS_MAX
    assert known[0] == f"10.0.{HINTS_MAX + 9}.1:7373"


async def test_seeds_and_remembered_peers_come_first_and_nobody_waits_for_mdns() -> None:
    finder, heard = make([Seed("10.0.0.9", 7373)], {BERT: ["10.0.0.2:7373"], ANNA: ["10.0.0.1:7373"]})
    await asyncio.wait_for(finder.run(), 5)
    assert finder.announced.is_set()
    assert heard.candidates == [
        (ANNA, ("10.0.0.1:7373",)),
        (BERT, ("10.0.0.2:7373",)),
        (None, ("10.0.0.9:7373",)),
    ]


async def test_a_seed_that_is_this_node_is_left_out() -> None:
    own = usable()[0].ip
    finder, heard = make([Seed(own, 7373), Seed(own, 7374)])
    await asyncio.wait_for(finder.run(), 5)
    assert [addresses for _, addresses in heard.candidates] == [(f"{own}:7374" if ":" not in own else f"[{own}]:7374",)]


def test_own_addresses_are_of_use_to_others() -> None:
    finder, _ = make(port=7999)
    own = finder.own_addresses()
    assert all(address.endswith(":7999") and "fe80" not in address for address in own)


def test_more_own_addresses_than_a_hello_may_tell_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # Containers and virtual networks: an interface for each.
    here = [ifaddr.Adapter(f"eth{n}", f"eth{n}", [ifaddr.IP("127.0.0.1", 8, "")], index=n) for n in range(1, 100)]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: here)
    finder, _ = make()
    assert len(usable()) == 99
    own = finder.own_addresses()
    assert len(own) == HINTS_MAX
    codec.check(Hello(
        boot="b", name="n", addresses=own, roster=NOBODY, votes=True, slots=1, running=0,
    ))  # fmt: skip
