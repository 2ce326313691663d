"""A rolling upgrade: machines whose meshq is older and newer in one cluster, and one that is too new for it."""

from __future__ import annotations

import http.client
import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from meshq.core.ids import short, uuid7
from tests.cluster.conftest import MakeNet
from tests.cluster.daemon import Cluster, Daemon
from tests.cluster.history import Acknowledged, Final, History, Unclear, judge, read_runs
from tests.cluster.net import Net

USER_TASKS = str(Path(__file__).parent / "user_tasks.py")
OLD_NODE = str(Path(__file__).parent / "old_node.py")
RUN_S = 0.1
PAUSE_S = 0.05


class Machine(Daemon):
    """A machine on which a meshq is installed that speaks certain protocol versions: at first, version 1 alone."""

    def __init__(self, net: Net, index: int, directory: Path, options: Sequence[str] = ()) -> None:
        super().__init__(net, index, directory, options)
        self._options = self._argv[self._argv.index("up") + 1 :]
        self.install(1, 1)

    def install(self, oldest: int, newest: int) -> None:
        """Puts another meshq there; it runs from the next start on."""
        assert not self.alive(), "it runs"
        self._argv = [sys.executable, OLD_NODE, str(oldest), str(newest), *self._options]

    def refusals(self) -> list[str]:
        """What its log says of links that were refused for their version."""
        return [entry["text"] for entry in self.events() if entry["event"] == "link_other_version"]


class Load(threading.Thread):
    """A client that submits one task after the other, each to the next machine, and again until it is acknowledged.

    Args:
        machines: Whom it asks.
        directory: Where the tasks note their runs, and it what it was told.
    """

    def __init__(self, machines: Sequence[Machine], directory: Path) -> None:
        super().__init__()
        self.history = History(directory / "told")
        self.runs = directory / "runs"
        self.wrong: list[str] = []
        self._ask = itertools.cycle(machines)
        self._over = threading.Event()

    def acknowledged(self) -> list[str]:
        """The ids of the tasks that are kept."""
        return [told.task for told in self.history.told() if isinstance(told, Acknowledged)]

    def end(self) -> None:
        """Submits no more, once the present task is acknowledged."""
        self._over.set()
        self.join(60)
        assert not self.is_alive(), "the last task is never acknowledged"
        assert not self.wrong, self.wrong

    def run(self) -> None:
        """Submits until the end."""
        while not self._over.is_set() and not self.wrong:
            task = uuid7(time.time_ns() // 1_000_000, random.getrandbits(74))
            while not self._submitted(task, next(self._ask)) and not self.wrong:
                time.sleep(PAUSE_S)
            time.sleep(PAUSE_S)

    def _submitted(self, task: str, machine: Machine) -> bool:
        try:
            reply = machine.call(
                "POST", "/submit-task", {"id": task, "name": "mark", "args": [str(self.runs), task, RUN_S]}
            )
        except (OSError, http.client.HTTPException) as error:
            self.history.add(Unclear(at_s=time.monotonic(), node=machine.name, task=task, why=repr(error)))
            return False
        if reply.status >= 300:
            self.history.add(Unclear(at_s=time.monotonic(), node=machine.name, task=task, why=str(reply.body)))
            if reply.status < 500:
                self.wrong.append(f"{machine.name} answered {reply}")
            return False
        self.history.add(
            Acknowledged(
                at_s=time.monotonic(), node=machine.name, task=task, copies=reply.body["copies"],
                majority=reply.body["majority"], queued=reply.body["queued"],
            )
        )  # fmt: skip
        return True


MakeMachines = Callable[[int, int], tuple[Cluster, list[Machine]]]


@pytest.fixture
def machines(make_net: MakeNet, tmp_path: Path) -> Iterator[MakeMachines]:
    """Makes machines, so many that start now and so many for later, which ask the first one for the cluster."""
    with ExitStack() as stack:

        def make(count: int, later: int) -> tuple[Cluster, list[Machine]]:
            net = make_net(count + later)
            options = ("--slots", "1", "--tasks", USER_TASKS)
            seed = ("--seed", f"{net.address(0)}:7373")
            made = [
                Machine(net, index, tmp_path, (*options, *(seed if index >= count else ())))
                for index in range(count + later)
            ]
            cluster = Cluster(net, made)
            stack.callback(cluster.end)
            cluster.start(count)
            cluster.wait_replicas(made[count - 1], count)
            return cluster, made

        yield make


@contextmanager
def under_load(cluster: Cluster, asked: Sequence[Machine], directory: Path) -> Iterator[Load]:
    load = Load(asked, directory)
    load.start()
    try:
        goes_on(cluster, load)
        yield load
    finally:
        load.end()


def goes_on(cluster: Cluster, load: Load) -> None:
    """Waits until each machine has had its turn a few times more: the cluster as it is now takes tasks."""
    before = len(load.acknowledged())
    cluster.wait_until(lambda: load.wrong or len(load.acknowledged()) >= before + 20, 30, "20 more are acknowledged")


def says(cluster: Cluster, machine: Machine, text: str) -> None:
    """Waits until the machine says so of a link that it refused."""
    cluster.wait_until(lambda: any(text in said for said in machine.refusals()), 20, f"{machine.name} says: {text}")


def refused_by_all(cluster: Cluster, newcomer: Machine, versions: tuple[str, str], who: str) -> None:
    """Waits until the newcomer and all others have refused each other, with the versions of both.

    Args:
        versions: Those of the newcomer and of the others.
        who: Who is to be upgraded, as the newcomer sees it.
    """
    theirs, ours = versions
    new = newcomer.look()["node"]
    for machine, node in zip(cluster.daemons, cluster.ids, strict=False):
        assert isinstance(machine, Machine)
        there = (
            f"that machine (…{short(new)}) speaks protocol {theirs}, this one (…{short(node)}) {ours}: upgrade meshq"
        )
        here = f"that machine (…{short(node)}) speaks protocol {ours}, this one (…{short(new)}) {theirs}: upgrade meshq"
        other = {"this one": "that one", "that one": "this one"}[who]
        for log, text in ((machine, f"{there} on {other}"), (newcomer, f"{here} on {who}")):
            says(cluster, log, text)
    assert new not in {node["id"] for node in cluster.daemons[0].look()["nodes"]}
    assert newcomer.stop() == 0, newcomer.tail()


def test_a_cluster_is_upgraded_machine_by_machine(machines: MakeMachines, tmp_path: Path) -> None:
    cluster, (*old, newcomer) = machines(3, 1)
    newcomer.install(2, 3)
    newcomer.start()
    cluster.wait_answer(newcomer)
    refused_by_all(cluster, newcomer, ("versions 2 to 3", "version 1"), "that one")

    with under_load(cluster, old, tmp_path) as load:
        # A follower, then the leader, then the one that leads since.
        for machine in (old[2], old[0], old[1]):
            assert machine.stop() == 0, machine.tail()
            machine.install(1, 2)
            goes_on(cluster, load)
            machine.start()
            cluster.wait_answer(machine)
            for asked in old:
                cluster.wait_replicas(asked, 3)
            goes_on(cluster, load)

        newcomer.install(3, 3)
        newcomer.start()
        cluster.wait_answer(newcomer)
        refused_by_all(cluster, newcomer, ("version 3", "versions 1 to 2"), "that one")
        # Whoever speaks the cluster's new version is welcome.
        newcomer.install(2, 3)
        newcomer.start()
        for asked in (newcomer, *old):
            cluster.wait_replicas(asked, 4)
        goes_on(cluster, load)

    tasks = load.acknowledged()
    cluster.wait_done(newcomer, len(tasks), 60)
    final = {}
    for machine in (newcomer, *old):
        final = {task: machine.call("GET", f"/task/{task}").body for task in tasks}
        assert {view["state"] for view in final.values()} == {"done"}
    ends = {task: Final(state=view["state"], outcome=view["result"]) for task, view in final.items()}
    verdict = judge(load.history.told(), ends, read_runs(load.runs))
    print(verdict.figures())
    verdict.check()
    assert verdict.alone == 0, verdict.figures()
    assert not verdict.run_twice, verdict.figures()
