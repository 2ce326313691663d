"""The harness itself: nets that carry, cut and clean up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import net as net_module
from tests.cluster.conftest import MakeNet
from tests.cluster.daemon import Cluster, Process
from tests.cluster.net import Net

FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=float(sys.argv[2])).status)"


@contextmanager
def serving(net: Net, index: int, directory: Path) -> Iterator[Process]:
    server = Process(net, index, [sys.executable, "-m", "http.server", "8000"], directory / f"server{index}.log")
    server.start()
    try:
        yield server
    finally:
        server.resume()
        server.kill9()


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


def _pids(namespace: str) -> list[str]:
    return subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True).stdout.split()
