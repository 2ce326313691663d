"""The harness itself: nets that carry, cut and clean up."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import net as net_module
from tests.cluster.conftest import MakeCluster, MakeNet
from tests.cluster.daemon import Cluster, Process
from tests.cluster.net import Net
from tests.cluster.trees import descendants, runs, stands_still

FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=float(sys.argv[2])).status)"


# Prints what it is sent, one datagram a line.
LISTEN = """
import socket
ears = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
ears.bind(("::", 9000))
while True:
    print(ears.recv(100).decode(), flush=True)
"""
# Usage: ROUND SENDER RECEIVER=ADDRESS...
SEND = """
import contextlib, socket, sys
for target in sys.argv[3:]:
    receiver, _, address = target.partition("=")
    family, scope = (6, (0, socket.if_nametoindex("eth0"))) if ":" in address else (4, ())
    mouth = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.suppress(OSError):
        mouth.sendto(" ".join([*sys.argv[1:3], receiver, str(family)]).encode(), (address, 9000, *scope))
"""
# Sender, receiver, family of addresses.
Way = tuple[int, int, int]


@contextmanager
def serving(net: Net, index: int, directory: Path) -> Iterator[Process]:
    server = Process(net, index, [sys.executable, "-m", "http.server", "8000"], directory / f"server{index}.log")
    server.start()
    try:
        yield server
    finally:
        server.resume()
        server.kill9()


def both(one: int, other: int) -> set[Way]:
    """Both directions, by IPv4 and IPv6."""
    return one_way(one, other) | one_way(other, one)


def one_way(sender: int, receiver: int) -> set[Way]:
    return {(sender, receiver, 4), (sender, receiver, 6)}


ALL = both(0, 1) | both(0, 2) | both(1, 2)


class Ways:
    """Which of three machines reach which, by datagrams to each of their addresses."""

    def __init__(self, net: Net, listeners: Sequence[Process]) -> None:
        self.net = net
        self.listeners = listeners
        self._rounds = itertools.count()

    def open(self) -> set[Way]:
        """The ways on which something arrived."""
        number = f"round{next(self._rounds)}"
        targets = [f"{index}={address}" for index in range(3) for address in self.net.addresses(index)]
        for sender in range(3):
            self._send(sender, number, *(target for target in targets if target[0] != str(sender)))
        found: set[Way] = set()
        # What the machine itself sends last shows that all before it has come, or never will.
        for index, listener in enumerate(self.listeners):
            self._send(index, number, f"{index}=127.0.0.1")
            found |= self._heard_all(listener, number, index)
        return found

    def _heard_all(self, listener: Process, number: str, index: int) -> set[Way]:
        Cluster(self.net, []).wait_until(lambda: heard(listener, number, index), 10, "what it sent to itself")
        return {way for way in heard(listener, number) if way[0] != index}

    def wait(self, expected: set[Way]) -> None:
        """Waits until exactly these ways are open."""
        last: set[Way] = set()

        def look() -> bool:
            last.clear()
            last.update(self.open())
            return last == expected

        try:
            Cluster(self.net, []).wait_until(look, 20, f"open are {sorted(expected)}")
        except AssertionError as error:
            raise AssertionError(f"{error}\nopen are {sorted(last)}") from None

    def _send(self, sender: int, number: str, *targets: str) -> None:
        argv = self.net.command(sender, sys.executable, "-c", SEND, number, str(sender), *targets)
        subprocess.run(argv, timeout=20, check=True)


def heard(listener: Process, number: str, sender: int | None = None) -> set[Way]:
    """What came in this round: from whom, to whom, by which family."""
    lines = [line.split() for line in listener.log.read_text().splitlines()]
    ways = {(int(line[1]), int(line[2]), int(line[3])) for line in lines if line[0] == number}
    return {way for way in ways if sender in (None, way[0])}


def fetch(net: Net, index: int, target: int, timeout_s: float = 1) -> bool:
    url = f"http://{net.address(target)}:8000/"
    argv = net.command(index, sys.executable, "-c", FETCH, url, str(timeout_s))
    return subprocess.run(argv, capture_output=True, timeout=20, check=False).returncode == 0


def test_machines_reach_each_other_until_one_is_cut(make_net: MakeNet, tmp_path: Path) -> None:
    net = make_net(2)
    machines = Cluster(net, [])
    with serving(net, 0, tmp_path) as server:
        machines.wait_until(lambda: fetch(net, 1, 0), 10, f"an answer\n{server.tail()}")
        net.cut(0)
        assert not fetch(net, 1, 0)
        net.heal(0)
        machines.wait_until(lambda: fetch(net, 1, 0), 10, "an answer again")


def test_a_process_is_paused_resumed_and_killed(make_net: MakeNet, tmp_path: Path) -> None:
    net = make_net(1)
    machines = Cluster(net, [])
    with serving(net, 0, tmp_path) as server:
        machines.wait_until(lambda: fetch(net, 0, 0), 10, "an answer")
        server.pause()
        assert server.alive()
        assert not fetch(net, 0, 0, 0.5)
        server.resume()
        machines.wait_until(lambda: fetch(net, 0, 0), 10, "an answer again")
        server.kill9()
        assert not server.alive()
        assert server.exit_code == -9
        assert "GET /" in server.tail()
        server.start()
        machines.wait_until(lambda: fetch(net, 0, 0), 10, "an answer of the second start")
        assert server.stop() == -15


def test_a_wait_in_vain_says_what_it_saw(make_net: MakeNet) -> None:
    with pytest.raises(AssertionError, match="not within 0 s: never\nlast seen: 0"):
        Cluster(make_net(1), []).wait_until(lambda: 0, 0, "never")


def test_nothing_stays_behind(make_net: MakeNet, tmp_path: Path) -> None:
    make_net(1)
    with Net(1) as net:
        process = Process(net, 0, [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
        process.start()
        Cluster(net, []).wait_until(lambda: str(process.pid) in _pids(net.namespace(0)), 5, "it runs in there")
    assert process.wait(5) == -9
    assert net.namespace(0) not in net_module.namespaces()


def test_what_a_crashed_run_left_is_removed(make_net: MakeNet) -> None:
    net = make_net(1)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = f"{net_module.PREFIX}-{ended.pid}-0-switch"
    subprocess.run(["ip", "netns", "add", stale], check=True)
    net_module.remove_stale()
    assert stale not in net_module.namespaces()
    assert net.namespace(0) in net_module.namespaces()


@pytest.fixture
def ways(make_net: MakeNet, tmp_path: Path) -> Iterator[Ways]:
    """Three machines, and which of them reach which."""
    net = make_net(3)
    ears = [Process(net, index, [sys.executable, "-c", LISTEN], tmp_path / f"ears{index}") for index in range(3)]
    found = Ways(net, ears)
    for listener in found.listeners:
        listener.start()
    try:
        found.wait(ALL)
        yield found
    finally:
        for listener in found.listeners:
            listener.kill9()


def test_parts_reach_nobody_outside_and_heal(ways: Ways) -> None:
    ways.net.part([0])
    assert ways.open() == both(1, 2)
    ways.net.whole()
    ways.wait(ALL)
    ways.net.part([2], [0, 1])
    assert ways.open() == both(0, 1)
    ways.net.part([0], [1], [2])
    assert ways.open() == set()
    ways.net.whole()
    ways.wait(ALL)


def test_a_cable_taken_out_is_healed_with_the_rest(ways: Ways) -> None:
    ways.net.cut(1)
    assert ways.open() == both(0, 2)
    ways.net.whole()
    ways.wait(ALL)


def test_a_one_way_cut_loses_one_way_only(ways: Ways) -> None:
    ways.net.cut_one_way(0, 1)
    assert ALL - ways.open() == one_way(0, 1)
    ways.net.cut_one_way(2, 1)
    ways.net.cut_one_way(1, 2)
    assert ALL - ways.open() == one_way(0, 1) | both(1, 2)
    ways.net.heal_one_way(0, 1)
    ways.wait(ALL - both(1, 2))
    ways.net.whole()
    ways.wait(ALL)


def test_a_daemon_stands_still_and_falls_with_all_its_children(cluster: MakeCluster) -> None:
    (daemon,) = (one := cluster(1, options=("--slots", "2"))).daemons
    one.wait_leader(daemon, one.ids[0], 30)
    one.wait_until(lambda: len(descendants(daemon.pid)) >= 2, 20, "both slots have a child")
    tree = [daemon.pid, *descendants(daemon.pid)]
    assert set(tree) <= set(one.net.pids(0))

    daemon.pause()
    assert all(stands_still(pid) for pid in tree)
    assert daemon.look(0.5) == {}
    daemon.resume()
    one.wait_until(lambda: not any(stands_still(pid) for pid in tree), 5, "all go on")
    one.wait_answer(daemon)

    daemon.pause()
    daemon.kill9()
    assert not [pid for pid in tree if runs(pid)]
    daemon.start()
    assert one.wait_answer(daemon)["node"] == one.ids[0], "the data directory was not kept"


def _pids(namespace: str) -> list[str]:
    return subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True).stdout.split()
