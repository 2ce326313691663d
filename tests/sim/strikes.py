"""What the nemesis does to a world. Whatever it does ends by itself, or when all heals."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from msgspec import structs

from meshq.core import requests as ask
from meshq.node.node import Node
from tests.sim.checks import Checker
from tests.sim.disk import Disk, Failing
from tests.sim.machine import Machine
from tests.sim.swarm import WEATHERS, Swarm
from tests.sim.world import SimWorld

HOUR_MS = 3_600_000
HEAL_SHARE = 0.3  # of strikes mend the network
LEADER_SHARE = 0.4  # of strikes hit who leads
MACHINES_MAX = 7
FORGET_TRY_S = 5.0
RECOVER_S = 60.0  # without a leader, though all that is left is up
NEVER_SHARE = 0.3  # of the machines that join never vote
# The moments at which an ambush waits: a write of its own, or a message, of the machine that it hits. Those
# at which most is at stake are waited for more often.
MOMENTS = {
    "finish": 3, "submit": 1, "claim": 1, "wait": 1, "roster": 3, "promise": 2,
    "prepare": 1, "ready": 1, "go": 1, "leave": 1, "vote": 1, "full": 1,
}  # fmt: skip
STEPS = ("prepare", "ready", "go", "vote")
AMBUSHES_AT_ONCE = 3
AMBUSHES = ("crash", "crash", "isolate", "pause", "sleep", "disk")


@dataclass(frozen=True, slots=True)
class Ambush:
    """What happens at the next such moment, and how long after it."""

    moment: str
    what: str
    after_s: float


async def _recover(running: Node) -> object:
    return await running.gateway.call(ask.Recover())


class Strikes:
    """All kinds of strikes.

    Args:
        world: Where.
        checker: Says when a moment comes.
        swarm: Which kinds come how often.
    """

    def __init__(self, world: SimWorld, checker: Checker, swarm: Swarm) -> None:
        self.count: Counter[str] = Counter()
        self._world = world
        self._rng = random.Random(f"strikes {world.seed}")
        self._swarm = swarm
        self._ambushes: list[Ambush] = []
        self._over = False
        self._all_up_at = math.inf
        self._wall_ahead_ms = 0
        self._stopping: list[asyncio.Task[None]] = []
        self._gone: str | None = None
        self._kinds: dict[str, Callable[[Machine], None]] = {
            "crash": self.crash, "blackout": self.blackout, "pause": self.pause, "sleep": self.sleep,
            "stop": self.stop, "join": self.join, "forget": self.forget, "isolate": self.isolate,
            "halves": self.halves, "bridge": self.bridge, "one_way": self.one_way, "weather": self.weather,
            "disk": self.disk, "slow_disk": self.slow_disk, "wall": self.wall, "ambush": self.ambush,
            "handover": self.handover, "clone": self.clone, "restore": self.restore,
        }  # fmt: skip
        checker.on_moment = self._on_moment

    def strike(self) -> None:
        """One strike, of any kind that this seed has."""
        network = self._world.network
        if network.cuts and self._rng.random() < HEAL_SHARE:
            self._world.tell("the network heals")
            network.heal()
            return
        kinds = self._swarm.kinds
        self._do(self._rng.choices(list(kinds), list(kinds.values()))[0], self._victim())

    async def end(self) -> None:
        """Everything heals: clocks are set right, what is down is started, and who never comes back is forgotten."""
        world, self._over = self._world, True
        self._ambushes.clear()
        world.tell("all heals")
        world.network.heal()
        for node, machine in world.machines.items():
            machine.disk.fail(Failing.NOT)
            machine.disk.slow = 1.0
            machine.wall_ahead_ms = self._wall_ahead_ms
            world.wake(node)
            world.resume(node)
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=60.0)
        for machine in list(world.machines.values()):
            self._restart(machine)
        self._all_up_at = world.loop.now

    # -- who and when ------------------------------------------------------------------------------------

    def _left(self) -> list[Machine]:
        return [machine for machine in self._world.machines.values() if not machine.gone]

    def _victim(self) -> Machine:
        leaders = self._world.leaders()
        hits_leader = leaders and self._rng.random() < LEADER_SHARE
        return self._world.machines[leaders[0]] if hits_leader else self._rng.choice(self._left())

    def _later(self, first_s: float, last_s: float, work: Callable[[], None]) -> None:
        def unless_over() -> None:
            if not self._over:
                work()

        self._world.loop.call_later(self._rng.uniform(first_s, last_s), unless_over)

    def _on_moment(self, machine: Machine, moment: str) -> None:
        for ambush in self._ambushes:
            if ambush.moment == moment and machine.awake:
                self._ambushes.remove(ambush)
                self._world.outside(partial(self._spring, machine, ambush))
                return

    def _spring(self, machine: Machine, ambush: Ambush) -> None:
        self.count["at_" + ambush.moment] += 1
        self._world.tell(f"{machine.name} is caught at: {ambush.moment}")
        if ambush.after_s == 0.0:
            self._do(ambush.what, machine)
        else:
            self._later(ambush.after_s, ambush.after_s, partial(self._do, ambush.what, machine))

    def _do(self, kind: str, machine: Machine) -> None:
        self.count[kind] += 1
        self._kinds[kind](machine)

    # -- daemons -----------------------------------------------------------------------------------------

    def crash(self, machine: Machine) -> None:
        """Kill -9, and a start some time later."""
        if machine.up:
            self._world.crash(machine.node)
            self._later(0.1, 15.0, partial(self._restart, machine))

    def _restart(self, machine: Machine) -> None:
        if not machine.up and not machine.gone:
            self._world.start(machine.node)

    def blackout(self, _: Machine) -> None:
        """All at once, and back in any order."""
        for machine in self._left():
            self.crash(machine)

    def pause(self, machine: Machine) -> None:
        """SIGSTOP for a while: its outcomes come late."""
        if machine.awake:
            self._world.pause(machine.node)
            self._later(0.1, self._rng.choice((3.0, 20.0)), partial(self._world.resume, machine.node))

    def sleep(self, machine: Machine) -> None:
        """The lid is closed for a while."""
        if machine.awake:
            self._world.sleep(machine.node)
            self._later(0.1, self._rng.choice((5.0, 30.0)), partial(self._world.wake, machine.node))

    def stop(self, machine: Machine) -> None:
        """Stops in order, and comes back."""
        if machine.serves:
            self._stopping.append(self._world.loop.create_task(self._world.stop(machine.node)))
            self._later(5.0, 25.0, partial(self._restart, machine))

    def join(self, _: Machine) -> None:
        """A machine that was never there before."""
        if len(self._world.nodes) < MACHINES_MAX:
            never = self._rng.random() < NEVER_SHARE
            config = structs.replace(self._swarm.config, replica="never" if never else "auto")
            self._world.start(self._world.add(config))

    def forget(self, machine: Machine) -> None:
        """Its disk is gone for good, and somebody says so."""
        if self._may_lose_one():
            self._world.tell(f"{machine.name} never comes back")
            self._lose(machine)

    def _may_lose_one(self) -> bool:
        leaders = self._world.leaders()
        running = self._world.machines[leaders[0]].running if leaders else None
        return self._gone is None and running is not None and len(running.replicator.roster.members) >= 3

    def _lose(self, machine: Machine) -> None:
        self._gone = machine.node
        machine.gone = True
        self._world.crash(machine.node)
        # Whoever says so is a person, and no part of the daemon at whose very moment this strikes.
        self._world.outside(partial(self._world.loop.create_task, self._forget(machine.node)))

    async def _forget(self, node: str) -> None:
        """Tells whoever still counts on it, again and again: a cluster that they join may count on it, too."""
        while True:
            await asyncio.sleep(FORGET_TRY_S)
            here = [machine for machine in self._left() if machine.serves and node in self._roster_of(machine)]
            if not here:
                continue
            asked = self._rng.choice(here)
            self._world.tell(f"{asked.name} is told to forget {self._world.name(node)}")
            work = self._world.at(asked.node, lambda running: running.gateway.call(ask.Forget(node=node)))
            await asyncio.wait([work], timeout=FORGET_TRY_S)
            if self._is_hopeless(asked):
                # Too few of its cluster are left, so a person makes this copy the cluster.
                self._world.tell(f"{asked.name} is told to recover")
                await asyncio.wait([self._world.at(asked.node, _recover)], timeout=FORGET_TRY_S)

    def _is_hopeless(self, machine: Machine) -> bool:
        """Whether it knows no majority's leader, and waited for one for long enough since all that is left is up."""
        running, waited_s = machine.running, self._world.loop.now - self._all_up_at
        return running is not None and running.elector.majority_leader() is None and waited_s >= RECOVER_S

    @staticmethod
    def _roster_of(machine: Machine) -> tuple[str, ...]:
        return machine.running.replicator.roster.members if machine.running is not None else ()

    def clone(self, machine: Machine) -> None:
        """Somebody copies the data directory to a machine that was never there before."""
        if machine.up and len(self._world.nodes) < MACHINES_MAX:
            self._world.start(self._world.heir(machine.node, machine.disk.copy()))

    def restore(self, machine: Machine) -> None:
        """The disk as it is now is brought back some time later: what was written meanwhile is lost there."""
        if machine.up:
            self._later(2.0, 15.0, partial(self._bring_back, machine, machine.disk.copy()))

    def _bring_back(self, machine: Machine, snapshot: Disk) -> None:
        if not machine.gone and self._may_lose_one():
            self._lose(machine)
            restored = self._world.machines[self._world.heir(machine.node, snapshot)]
            self._later(0.1, 15.0, partial(self._restart, restored))

    # -- the network -------------------------------------------------------------------------------------

    def _cut(self, text: str, pairs: set[tuple[str, str]]) -> None:
        self._world.tell(text)
        self._world.network.cuts |= pairs

    def isolate(self, machine: Machine) -> None:
        """Nothing gets in or out."""
        others = [node for node in self._world.nodes if node != machine.node]
        pairs = {pair for other in others for pair in ((machine.node, other), (other, machine.node))}
        self._cut(f"{machine.name} is cut off", pairs)

    def halves(self, machine: Machine) -> None:
        """Two parts that don't reach each other."""
        parts = {node: self._rng.random() < 0.5 for node in self._world.nodes}
        self._split(parts, None)

    def bridge(self, machine: Machine) -> None:
        """Two parts that don't reach each other, and one machine that reaches both."""
        parts = {node: self._rng.random() < 0.5 for node in self._world.nodes}
        self._split(parts, machine.node)

    def _split(self, parts: dict[str, bool], bridge: str | None) -> None:
        pairs = {
            (one, other)
            for one, left in parts.items()
            for other, right in parts.items()
            if left != right and bridge not in (one, other)
        }
        sides = (" ".join(self._world.name(node) for node in parts if parts[node] == side) for side in (True, False))
        self._cut(" | ".join(sides) + (f", and {self._world.name(bridge)} between them" if bridge else ""), pairs)

    def one_way(self, machine: Machine) -> None:
        """What one sends, another never gets."""
        others = [node for node in self._world.nodes if node != machine.node]
        other = self._rng.choice(others)
        pair = (machine.node, other) if self._rng.random() < 0.5 else (other, machine.node)
        self._cut(f"nothing gets from {self._world.name(pair[0])} to {self._world.name(pair[1])}", {pair})

    def weather(self, _: Machine) -> None:
        """Losses, doubles and delays."""
        self._world.network.weather = self._rng.choice(WEATHERS)
        self._world.tell(f"the weather is {self._world.network.weather}")

    # -- disks and clocks --------------------------------------------------------------------------------

    def disk(self, machine: Machine) -> None:
        """The disk is full, read-only or failing for a while: all of it, or one database."""
        how = self._rng.choice((Failing.FULL, Failing.READ_ONLY, Failing.WRITE))
        names = self._rng.choice(((), (), ("queue",), ("promise",), ("outbox",)))
        self._world.tell(f"{machine.name}: {how} on {' '.join(names) or 'the whole disk'}")
        machine.disk.fail(how, *names)
        self._later(0.01, self._rng.choice((0.5, 20.0)), partial(self._mend, machine))

    def _mend(self, machine: Machine) -> None:
        self._world.tell(f"{machine.name}: the disk works again")
        machine.disk.fail(Failing.NOT)

    def slow_disk(self, machine: Machine) -> None:
        """Everything on the disk takes hundreds of times as long."""
        machine.disk.slow = self._rng.choice((30.0, 300.0, 1000.0))
        self._world.tell(f"{machine.name}: the disk is {machine.disk.slow:g} times slower")
        self._later(1.0, 20.0, partial(self._quicken, machine))

    def _quicken(self, machine: Machine) -> None:
        machine.disk.slow = 1.0

    def wall(self, machine: Machine) -> None:
        """Somebody sets the wall clock."""
        by_ms = int(self._rng.choice((-12, -1, -0.01, 0.01, 1, 12)) * HOUR_MS)
        machine.wall_ahead_ms += by_ms
        self._wall_ahead_ms = max(self._wall_ahead_ms, machine.wall_ahead_ms)
        self._world.tell(f"{machine.name}: the wall clock is set by {by_ms / 1000:g} s")

    # -- at the very moment ------------------------------------------------------------------------------

    def ambush(self, _: Machine) -> None:
        """Something happens just when a machine has written or said something that matters."""
        for moment in self._rng.choices(list(MOMENTS), list(MOMENTS.values()), k=AMBUSHES_AT_ONCE):
            self._wait_for(moment)

    def _wait_for(self, moment: str) -> None:
        rng = self._rng
        self._ambushes.append(Ambush(moment, rng.choice(AMBUSHES), rng.choice((0.0, 0.0, 0.002, 0.05))))

    def handover(self, machine: Machine) -> None:
        """A leader stops in order, and something happens between the steps of its hand-over."""
        leaders = self._world.leaders()
        if leaders:
            self._wait_for(self._rng.choice(STEPS))
            self.stop(self._world.machines[leaders[0]])
