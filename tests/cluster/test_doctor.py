"""`meshq doctor`: each reason why machines do not meet, made for real, and the one cause that is named for it."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from meshq.core.ids import short
from meshq.core.keys import Key
from tests.cluster.conftest import MakeNet
from tests.cluster.daemon import INSECURE, Cluster, Daemon, environment
from tests.cluster.net import Net

OTHER_KEY = Key(bytes(range(20)))
FAST_CLOCK = str(Path(__file__).with_name("fast_clock.py"))
OLD_NODE = str(Path(__file__).with_name("old_node.py"))
TIMEOUT_S = 25
WIDTH, INDENT = 80, 28
NO_MDNS, SOON = {"mdns": 0}, {"found_wait_s": 1}
SEED = ("--seed", "10.77.0.1:7373")
FITS = "has the same key, cluster and version as this machine, and a clock as fast"
Up = Callable[..., Cluster]


@dataclass(frozen=True, slots=True)
class Report:
    """What `meshq doctor` printed: what was well and what was wrong, by what was looked at, and its last line."""

    code: int
    well: dict[str, str]
    wrong: dict[str, str]
    end: str


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Starts daemons side by side on a net's machines, and waits until they answer; all are ended after the test."""
    made: list[Cluster] = []

    def start(net: Net, *daemons: Daemon) -> Cluster:
        made.append(Cluster(net, daemons))
        for daemon in daemons:
            daemon.start()
        made[-1].ids = [made[-1].wait_answer(daemon)["node"] for daemon in daemons]
        return made[-1]

    yield start
    for cluster in made:
        cluster.end()


def examine(net: Net, daemon: Daemon, *args: str, data_dir: Path | None = None, **variables: object) -> Report:
    """What `meshq doctor` says on a daemon's machine, with these settings."""
    command = [sys.executable, "-m", "meshq", "doctor", "--data-dir", str(data_dir or daemon.data_dir), *args]
    more = {f"MESHQ_{name.upper()}": str(value) for name, value in variables.items()}
    done = subprocess.run(
        net.command(daemon.index, *command), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        env=environment(daemon.log.parent) | more,
    )  # fmt: skip
    assert done.stderr == ""
    return read(done.returncode, done.stdout)


def read(code: int, out: str) -> Report:
    """What was printed, taken apart."""
    found: dict[str, dict[str, str]] = {"ok": {}, "wrong": {}}
    lines, end = out.splitlines(), ""
    assert max(map(len, lines)) <= WIDTH, out
    mark = what = ""
    for line in lines:
        begin = line[:INDENT].split()
        if begin and begin[0] in found:
            mark, what = begin[0], line[6:].split()[0]
            found[mark][what] = line.removeprefix(f"{mark:6}{what}").strip()
        elif begin:
            end = line
        else:
            found[mark][what] = f"{found[mark][what]} {line.strip()}".strip()
    return Report(code, found["ok"], found["wrong"], end)


def at_once(*looks: Callable[[], Report]) -> list[Report]:
    """What several say that look at the same time."""
    with ThreadPoolExecutor(len(looks)) as pool:
        return list(pool.map(lambda look: look(), looks))


# -- all is well -----------------------------------------------------------------------------------------


def test_two_that_have_met(make_net: MakeNet, up: Up, tmp_path: Path) -> None:
    net = make_net(2)
    anna, bert = (Daemon(net, index, tmp_path, ("--slots", "0"), SOON) for index in range(2))
    cluster = up(net, anna, bert)
    cluster.wait_status(bert, lambda status: status["leader"] and len(status["nodes"]) == 2, 20, "they are one")
    at, v6 = f"{net.address(1)}:7373", next(ip for ip in net.addresses(1) if ":" in ip)
    everybody, one, other = at_once(
        partial(examine, net, anna),
        partial(examine, net, anna, f"[{v6}%eth0]", mdns=0),
        partial(examine, net, bert, net.address(1), mdns=0),
    )
    assert (everybody.code, everybody.wrong, everybody.end) == (0, {}, "all is well")
    assert everybody.well["daemon"] == f"runs here: {short(cluster.ids[0])}, of cluster 'meshq'"
    assert everybody.well["interfaces"] == "eth0 10.77.0.1"
    assert everybody.well["multicast"] == "works on eth0; 1 other node announces itself there"
    assert everybody.well[at].endswith(f"({short(cluster.ids[1])}) {FITS}; the two have met")
    assert list(everybody.well) == ["daemon", "interfaces", "multicast", at]
    assert (one.code, one.well[f"[{v6}%eth0]:7373"]) == (0, everybody.well[at])
    assert (other.code, other.wrong) == (0, {})
    assert other.well[at].endswith("is this machine itself")
    # Nobody took it for a node, or for one without the key. On a slow machine a second address may be called, too, and
    # given up.
    names = {entry["event"] for entry in anna.events() + bert.events()} - {"stranger_hung_up"}
    assert names <= {"started", "found", "founded", "leading", "following", "joined"}, names


# -- the other is another's ------------------------------------------------------------------------------


def test_each_stranger_is_told_by_what_makes_it_one(make_net: MakeNet, up: Up, tmp_path: Path) -> None:
    net, none = make_net(6), ("--slots", "0")
    mine = Daemon(net, 0, tmp_path, none)
    other_key = Daemon(net, 1, tmp_path, none, {"key": OTHER_KEY.text})
    other_name = Daemon(net, 2, tmp_path, (*none, "--cluster", "attic"))
    insecure = Daemon(net, 3, tmp_path, none, INSECURE)
    fast = Daemon(net, 4, tmp_path, none, program=(FAST_CLOCK, "1.5"))
    newer = Daemon(net, 5, tmp_path, none, program=(OLD_NODE, "3", "4"))
    up(net, mine, other_key, other_name, insecure, fast, newer)
    here = net.address(0)
    everybody, *back = at_once(
        partial(examine, net, mine),
        partial(examine, net, other_key, here, mdns=0),
        partial(examine, net, other_name, here, mdns=0),
        partial(examine, net, insecure, here, mdns=0, key=""),
        partial(examine, net, mine, net.address(1), mdns=0, key="", data_dir=tmp_path / "new"),
    )
    assert everybody.code == 1
    at = [f"{net.address(index)}:7373" for index in range(6)]
    assert set(everybody.wrong) == set(at[1:])
    key = "it has another key: type `meshq key show` there, and `meshq up --key KEY` here"
    assert everybody.wrong[at[1]] == key
    assert everybody.wrong[at[2]].endswith("is of cluster 'attic', and this machine of 'meshq': see --cluster")
    assert everybody.wrong[at[3]].startswith("it is --insecure, and this machine has a key: start it there with")
    rate = re.search(r"has a clock that runs (.+) times as fast as this one's: no lease holds", everybody.wrong[at[4]])
    assert rate is not None
    assert 1.3 < float(rate[1]) < 1.7
    assert everybody.wrong[at[5]].endswith("version 3 to 4, and this machine 1 to 2: upgrade meshq on this one")
    assert [list(report.wrong) for report in back] == [[at[0]], [at[0]], [at[0]], ["daemon", at[1]]]
    assert back[0].wrong[at[0]] == key
    assert back[1].wrong[at[0]].endswith("is of cluster 'meshq', and this machine of 'attic': see --cluster")
    assert back[2].wrong[at[0]].startswith("it has a key, and this machine is --insecure: type `meshq key show` there")
    assert back[3].wrong["daemon"].endswith("meshq.sock; start one with: meshq up")
    assert back[3].wrong[at[1]].startswith("it has a key, and this machine has none: type `meshq key show` there")


def test_a_copy_of_the_data_directory(make_net: MakeNet, up: Up, tmp_path: Path) -> None:
    net = make_net(2)
    first, copy = (Daemon(net, index, tmp_path, ("--slots", "0"), NO_MDNS) for index in range(2))
    up(net, first)
    first.stop()
    shutil.copytree(first.data_dir, copy.data_dir)
    queue = copy.data_dir / "queue.db"
    with closing(sqlite3.connect(queue)) as conn, conn:
        # As in the copy of a whole disk, where each file has the number that it had.
        conn.execute("UPDATE meta SET value = ? WHERE key = 'inode'", (str(queue.stat().st_ino),))
    cluster = up(net, first, copy)
    assert cluster.ids[0] == cluster.ids[1]
    at, there = f"{net.address(1)}:7373", net.address(1)
    running, itself = at_once(
        partial(examine, net, first, there, mdns=0),
        partial(examine, net, copy, there, mdns=0),
    )
    assert (running.code, list(running.wrong)) == (1, [at])
    assert "has this machine's node id: one data directory is a copy of the other" in running.wrong[at]
    assert (itself.code, itself.wrong) == (0, {})
    first.stop()
    stopped = examine(net, first, there, mdns=0)
    assert stopped.wrong[at] == running.wrong[at]


# -- nobody answers --------------------------------------------------------------------------------------


def test_why_nobody_answers(make_net: MakeNet, up: Up, tmp_path: Path) -> None:
    net = make_net(3)
    here, hung = (Daemon(net, index, tmp_path, ("--slots", "0"), NO_MDNS) for index in range(2))
    up(net, here, hung)
    hung.pause()
    net.block(2, "in", "tcp", 7373)
    net.lead(0, "10.77.0.98/32", "unreachable")
    expected = {
        net.address(1): "it takes the call and says nothing: meshq hangs there, or it is no meshq",
        f"{net.address(1)}:7374": "port 7374 is closed: is meshq up there, and at this port?",
        net.address(2): "nothing comes back: a firewall drops TCP port 7373 (let it in there), or that machine has "
        "just gone",
        "10.77.0.98": "a firewall refuses TCP port 7373: let it in there",
        "10.77.0.99": "no machine answers there: is it on, and on this network?",
        "10.79.0.1": "no way leads there: is this machine on the same network?",
        "nosuch.invalid": "no machine is called nosuch.invalid here; give its IP address",
        "fe80::1": "such an address needs the interface that leads there, as in [fe80::1%eth0]:7373",
    }
    *reports, itself = at_once(
        *(partial(examine, net, here, host, mdns=0) for host in expected),
        partial(examine, net, hung, mdns=0),
    )
    for (host, text), report in zip(expected.items(), reports, strict=True):
        assert (report.code, [*report.wrong.values()]) == (1, [text]), host
    assert "gave no answer within 3 s; it hangs or this machine is overloaded" in itself.wrong["daemon"]
    hung.resume()


# -- this machine's network ------------------------------------------------------------------------------


def test_multicast_that_is_lost_here_or_on_the_way(make_net: MakeNet, up: Up, tmp_path: Path) -> None:
    net = make_net(3, multicast=False)
    anna, bert, seeded = (
        Daemon(net, index, tmp_path, ("--slots", "0", *more), SOON) for index, more in enumerate([(), (), SEED])
    )
    net.add_interface(anna.index, "eth1", "10.88.0.1/24")
    net.block(0, "out", "udp", 5353, "eth1")
    cluster = up(net, anna, bert, seeded)
    cluster.wait_status(seeded, lambda status: len(status["nodes"]) == 2 and status["leader"], 20, "two have met")
    at = [f"{net.address(index)}:7373" for index in range(3)]
    here, way, met, alone = at_once(
        partial(examine, net, anna, net.address(1)),
        partial(examine, net, bert, net.address(0)),
        partial(examine, net, seeded),
        partial(examine, net, bert),
    )
    assert list(here.wrong) == ["multicast", at[1]]
    assert here.wrong["multicast"].startswith("does not work on eth1 (it works on eth0): this node's own announcement")
    assert "drop UDP port 5353? Else name a machine: meshq up --seed HOST:PORT" in here.wrong["multicast"]
    assert here.wrong[at[1]].endswith(f"{FITS}. Without multicast, name it to meet it: meshq up --seed {at[1]}")
    assert way.well["multicast"] == "works on eth0; no other nodes announce themselves there"
    assert list(way.wrong) == [at[0]]
    assert (
        f"{FITS}, but its announcements do not arrive by eth0: multicast (UDP port 5353) is lost on the way. Name it: "
        f"meshq up --seed {at[0]}"
    ) in way.wrong[at[0]]
    # A seed has done it already.
    assert (met.code, met.wrong, met.end) == (0, {}, "all is well")
    assert met.well[at[0]].endswith("the two have met")
    assert list(alone.wrong) == ["others"]
    assert alone.wrong["others"].startswith("no other machine announces itself: is meshq up there? If it is, see why")


def test_an_interface_by_which_no_neighbour_is_reached(make_net: MakeNet, up: Up, tmp_path: Path) -> None:
    net = make_net(3)
    here, there, away = (Daemon(net, index, tmp_path, ("--slots", "0")) for index in range(3))
    net.add_interface(0, "docker0", "172.17.0.1/16")
    net.add_interface(0, "wg0", "10.99.0.1/24")
    net.lead(0, "10.77.0.50/32", "wg0")
    net.move(2, "10.78.0.3/24")
    up(net, there, away)
    at = [f"{net.address(1)}:7373", "10.78.0.3:7373"]
    everybody, container, vpn, nowhere, to_vpn = at_once(
        partial(examine, net, here),
        partial(examine, net, here, net.address(2), mdns=0, host="172.17.0.1"),
        partial(examine, net, here, net.address(2), mdns=0, host="10.99.0.1"),
        partial(examine, net, here, net.address(2), mdns=0, host="127.0.0.1"),
        partial(examine, net, here, "10.77.0.50", mdns=0),
    )
    assert everybody.well["interfaces"] == "eth0 10.77.0.1, wg0 10.99.0.1 (left out, of containers: docker0)"
    assert everybody.well["multicast"] == "works on eth0; 2 other nodes announce themselves there"
    assert everybody.well[at[0]].endswith(f"{FITS}: they will meet")
    assert everybody.wrong[at[1]].endswith(
        "announces this address, and can't be reached by it: it is of a container, a VPN or another network. Set "
        "`host` there to its address on this network"
    )
    assert container.wrong["interfaces"] == (
        "docker0 172.17.0.1 is of containers, by which no neighbour gets here, and nothing else is chosen: take `host` "
        "out of the settings"
    )
    assert vpn.wrong["interfaces"].startswith("wg0 10.99.0.1 is of a VPN, by which no neighbour gets here")
    assert nowhere.wrong["interfaces"] == (
        "`host` is 127.0.0.1, by which nobody else gets here: take `host` out of the settings"
    )
    assert to_vpn.wrong["10.77.0.50:7373"].startswith(
        "the way there leads through wg0, a VPN's interface, and nobody answers"
    )
    net.switch_off(0)
    off = examine(net, here, net.address(2), mdns=0, host=net.address(0))
    assert off.wrong["interfaces"] == (
        "no interface is up (left out, of containers: docker0) (down: eth0): connect this machine to the network"
    )
