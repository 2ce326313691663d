"""Discovery between machines: real packets on a real, if small, network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import MakeNet
from tests.cluster.daemon import Cluster, Process
from tests.cluster.net import Net

ANNA, BERT = "0190" + "a" * 28, "0190" + "b" * 28
SEEKER = Path(__file__).parent / "seeker.py"
Seek = Callable[..., Process]


@pytest.fixture
def seek(tmp_path: Path) -> Iterator[Seek]:
    """Starts a finder on a machine; all are ended after the test."""
    started: list[Process] = []

    def start(net: Net, index: int, node: str, boot: str, *seeds: str) -> Process:
        argv = [sys.executable, str(SEEKER), node, boot, *seeds]
        started.append(Process(net, index, argv, tmp_path / f"seeker{len(started)}.log"))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill9()


def wait_event(net: Net, process: Process, event: str, timeout_s: float = 15, **fields: object) -> dict[str, Any]:
    """The first event of that name with these fields."""

    def look() -> dict[str, Any] | None:
        for entry in process.events():
            if entry["event"] == event and all(entry.get(key) == value for key, value in fields.items()):
                return entry
        assert process.alive(), process.tail()
        return None

    found = Cluster(net, []).wait_until(look, timeout_s, f"{event} {fields} in {process.log}")
    assert found is not None
    return found


def test_two_machines_find_each_other(make_net: MakeNet, seek: Seek) -> None:
    net = make_net(2)
    anna, bert = seek(net, 0, ANNA, "boot-a"), seek(net, 1, BERT, "boot-b")
    at_anna = wait_event(net, anna, "candidate", node=BERT)
    at_bert = wait_event(net, bert, "candidate", node=ANNA)
    assert at_anna["addresses"][0] == f"{net.address(1)}:7373"
    assert at_bert["addresses"][0] == f"{net.address(0)}:7373"
    assert "unavailable" not in {entry["event"] for entry in anna.events() + bert.events()}


def test_a_copied_data_directory_is_noticed_on_both_machines(make_net: MakeNet, seek: Seek) -> None:
    net = make_net(2)
    elder = seek(net, 0, ANNA, "boot-1")
    wait_event(net, elder, "announced")
    younger = seek(net, 1, ANNA, "boot-2")
    assert f"{net.address(0)}:7373" in wait_event(net, younger, "twin", boot="boot-1")["addresses"]
    wait_event(net, elder, "twin", boot="boot-2")


def test_a_killed_node_that_starts_again_is_found_again(make_net: MakeNet, seek: Seek) -> None:
    net = make_net(2)
    anna, bert = seek(net, 0, ANNA, "boot-a"), seek(net, 1, BERT, "boot-1")
    wait_event(net, anna, "candidate", node=BERT)
    bert.kill9()
    again = seek(net, 1, BERT, "boot-2")
    Cluster(net, []).wait_until(
        lambda: sum(entry.get("node") == BERT for entry in anna.events()) >= 2, 15, "found a second time"
    )
    assert "twin" not in {entry["event"] for entry in again.events()}


def test_an_address_that_comes_later_is_announced(make_net: MakeNet, seek: Seek) -> None:
    net = make_net(2)
    anna, bert = seek(net, 0, ANNA, "boot-a"), seek(net, 1, BERT, "boot-b")
    wait_event(net, anna, "candidate", node=BERT)
    wait_event(net, bert, "announced")
    net.add_address(1, "10.77.0.99/24")
    Cluster(net, []).wait_until(
        lambda: any("10.77.0.99:7373" in entry.get("addresses", ()) for entry in anna.events()), 20, "the new address"
    )


def test_without_multicast_only_seeds_help(make_net: MakeNet, seek: Seek) -> None:
    net = make_net(2, multicast=False)
    anna = seek(net, 0, ANNA, "boot-a")
    bert = seek(net, 1, BERT, "boot-b", f"{net.address(0)}:7373")
    wait_event(net, anna, "announced")
    wait_event(net, bert, "announced")
    assert [entry["node"] for entry in anna.events() if entry["event"] == "candidate"] == []
    candidates = [entry for entry in bert.events() if entry["event"] == "candidate"]
    assert [(entry["node"], entry["addresses"]) for entry in candidates] == [(None, [f"{net.address(0)}:7373"])]


def test_a_machine_without_a_network_says_so_once_and_goes_on(make_net: MakeNet, seek: Seek) -> None:
    net = make_net(2)
    net.switch_off(0)
    anna = seek(net, 0, ANNA, "boot-a")
    wait_event(net, anna, "announced")
    assert sum(entry["event"] == "unavailable" for entry in anna.events()) == 1
    assert anna.alive()
