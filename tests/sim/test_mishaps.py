"""Two mishaps at once: a disk that fails in a split, a link that carries one way, a cluster that ends just then."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meshq.core.messages import Pull, Rows, Vote
from meshq.core.requests import ClusterStoryQuery, Job, Recover
from meshq.errors import StoreError
from meshq.node import journal
from meshq.node.journal import Recent
from meshq.node.node import Node
from meshq.wire import values
from tests.sim.disk import Failing
from tests.sim.machine import Machine
from tests.sim.story import (
    Worker,
    all_done,
    begin,
    call,
    done,
    gives_up,
    leader_known_to,
    members,
    packed,
    promised,
    running,
    status,
    story,
    submit,
    view,
)
from tests.sim.unions import genesis, is_of, join, part, two_clusters
from tests.sim.world import SimWorld


def told_by(world: SimWorld, node: str, hears: str) -> tuple[str, ...]:
    """The clusters from which a node came, as it said last to another one."""
    hello = running(world, hears).peers.said(node)
    return tuple(hello.dissolved) if hello is not None else ()


# -- a split whose disk fails ----------------------------------------------------------------------------


async def works_alone_again(world: SimWorld, node: str, split: str) -> str:
    """The disk of the only machine of a split is well again: it takes a task and runs it; which one."""
    world.machines[node].disk.fail(Failing.NOT)
    await asyncio.sleep(2.0)
    spec = world.spec()
    kept = await submit(world, node, spec)
    assert (kept.copies, kept.majority, kept.queued) == (1, False, False)
    assert (await view(world, node, spec.id, wait_s=20.0)).state == "done"
    assert (await status(world, node)).split == split
    return spec.id


@story(2, slots=2)
async def test_a_warm_split_goes_on_when_its_disk_takes_writes_again(world: SimWorld) -> None:
    a, b = world.nodes
    world.crash(a)
    await world.until("it goes on alone", lambda: leader_known_to(world, b) == b)
    before = world.spec()
    await submit(world, b, before)
    assert (await view(world, b, before.id, wait_s=20.0)).state == "done"
    world.machines[b].disk.fail(Failing.FULL, "queue")
    with pytest.raises(StoreError):
        await submit(world, b, world.spec())
    await asyncio.sleep(30.0)
    assert (await view(world, b, before.id)).state == "done"
    after = await works_alone_again(world, b, "warm")
    world.start(a)
    await all_done(world, before.id, after)


@story(2, slots=2)
async def test_a_cold_split_begins_when_its_disk_takes_writes(world: SimWorld) -> None:
    a, b = world.nodes
    world.crash(a)
    world.crash(b)
    world.start(b)
    await asyncio.sleep(20.0)
    world.machines[b].disk.fail(Failing.FULL, "queue")
    await world.until("it tries", lambda: "split_failed" in running(world, b).counters.all())
    await asyncio.sleep(10.0)
    assert leader_known_to(world, b) == b
    await works_alone_again(world, b, "cold")


# -- a first write that nobody waited for ----------------------------------------------------------------


def roster_on_disk(world: SimWorld, node: str) -> tuple[object, ...]:
    """The version of it that this machine's database holds, whatever its daemon knows."""
    (key,) = world.machines[node].disk.versions("roster").values()
    return key


class SlowToReturn:
    """Has the transaction with which a machine writes its next roster return only when its time has come."""

    def __init__(self, world: SimWorld, node: str) -> None:
        self._world, self._node, self._inner = world, node, world.watcher
        self._before = roster_on_disk(world, node)
        self.written = False

    def after_write(self, machine: Machine, database: str) -> None:
        """The disk has it; who wrote it does not know yet."""
        self._inner.after_write(machine, database)
        if machine.node == self._node and not self.written and roster_on_disk(self._world, self._node) > self._before:
            self.written, machine.disk.slow = True, 1e6
            self._world.loop.call_soon(lambda: setattr(machine.disk, "slow", 1.0))

    def on_run(self, machine: Machine, job: Job) -> None:
        """A run begins there."""
        self._inner.on_run(machine, job)


@story(2)
async def test_a_leader_knows_the_roster_that_it_wrote_when_its_leadership_ended(world: SimWorld) -> None:
    a, b = world.nodes
    world.crash(a)
    watcher = world.watcher = SlowToReturn(world, a)
    await asyncio.sleep(1.0)
    world.start(a)
    await world.until("its first write is on disk", lambda: watcher.written)
    written = roster_on_disk(world, a)
    await world.until("the other one has it", lambda: roster_on_disk(world, b) == written, within_s=20.0)
    part(world, [a], [b])
    await asyncio.sleep(4.0)
    # The other one could lead as well, and is kept from it.
    world.network.tap = lambda sender, to, message: not (sender == b and isinstance(message, Vote))
    join(world, [a], [b])
    await world.until("it leads again", lambda: world.reigns(a), within_s=15.0)


# -- a leader whose answers are lost ---------------------------------------------------------------------


@story(3)
async def test_a_leader_resigns_whose_followers_ask_but_get_no_rows(world: SimWorld) -> None:
    first, _, third = world.nodes
    # Its control link is well; what the bulk link should carry from it never arrives.
    world.network.tap = lambda sender, to, message: not (isinstance(message, Rows) and sender == first)
    await gives_up(world)
    assert (await submit(world, third, world.spec())).majority


@story(3)
async def test_a_leader_does_not_resign_while_a_large_copy_is_on_its_way(world: SimWorld) -> None:
    first = world.nodes[0]
    world.network.weather.delay_s_min, world.network.weather.delay_s_max = 0.4, 0.45
    await asyncio.sleep(5.0)
    assert world.leaders() == [first]
    since, epoch = world.loop.time(), promised(world, first)
    specs = [world.spec(payload=packed(bytes(1 << 20))) for _ in range(48)]
    kept = await submit(world, first, *specs)
    assert world.loop.time() - since > 7.0, "two leases are 5 s"
    assert kept.majority
    assert world.leaders() == [first]
    assert {promised(world, node) for node in world.nodes} == {epoch}, "nor did it lose the lease in between"


# -- clusters that become one ----------------------------------------------------------------------------


@story(4, form=False)
async def test_what_a_majority_showed_stays_when_its_cluster_becomes_part_of_another(world: SimWorld) -> None:
    elder, first, second, apart = world.nodes
    await two_clusters(world)
    old = genesis(world, first)
    spec = world.spec()
    await submit(world, first, spec)
    part(world, [apart], [first, second])
    await world.until("it goes on alone", lambda: leader_known_to(world, apart) == apart)
    alone = Worker(world, apart, "k3")
    await alone.beats(for_s=15.0)
    for _ in range(3):  # more versions than the others will make
        await alone.hand_in(replace(done(await alone.one(5.0)), kind="released", result=None))
    await alone.hand_in(done(await alone.one(5.0), "of the split"))
    assert not (await view(world, apart, spec.id)).majority
    worker = Worker(world, first, "k1")
    await worker.beat()
    await worker.hand_in(done(await worker.one(5.0), "shown"))
    shown = await view(world, second, spec.id)
    assert (values.unpack(shown.result or b""), shown.majority) == ("shown", True)
    # They meet the elder cluster, and it takes long until their rows are there.
    world.network.tap = lambda sender, to, message: (
        not (sender == elder and to in (first, second) and isinstance(message, Pull))
    )
    join(world, [elder], [first, second])
    await world.until(
        "they are part of it", lambda: genesis(world, first) == genesis(world, second) == genesis(world, elder)
    )
    await asyncio.sleep(10.0)
    join(world, [elder], [apart])
    await asyncio.sleep(20.0)
    assert (genesis(world, apart), world.roster_of(elder).absorbed) == (old, ()), "what was shown is not there yet"
    world.network.heal()
    world.network.tap = lambda sender, to, message: True
    await world.until("all are one", world.is_one_cluster, within_s=120.0)
    assert world.roster_of(elder).absorbed == (old,)
    for node in world.nodes:
        seen = await view(world, node, spec.id, wait_s=10.0)
        assert (values.unpack(seen.result or b""), seen.majority) == ("shown", True)


@story(4, form=False)
async def test_a_leader_that_came_from_another_cluster_lets_its_sleepers_in(world: SimWorld) -> None:
    elder, first, second, asleep = world.nodes
    await two_clusters(world)
    old = genesis(world, first)
    await submit(world, first, spec := world.spec())
    world.crash(asleep)
    # The elder one never gets their rows, but they get its own, and become its replicas.
    world.network.tap = lambda sender, to, message: not (sender == elder and isinstance(message, Pull))
    world.network.heal()
    await world.until("they are replicas", lambda: len(members(world, elder)) == 3, within_s=120.0)
    assert world.roster_of(elder).absorbed == ()
    world.crash(elder)
    await world.until("one of them leads", lambda: world.reigns(first) or world.reigns(second))
    await world.until("it knows where it came from", lambda: world.roster_of(first).absorbed == (old,))
    await world.until("it need not tell it any more", lambda: told_by(world, first, second) == ())
    await world.until("nor need the other", lambda: told_by(world, second, first) == ())
    world.start(asleep)
    await world.until("who slept is there", lambda: genesis(world, asleep) == genesis(world, first), within_s=60.0)
    assert (await view(world, asleep, spec.id, wait_s=10.0)).state == "pending"


@story(3, form=False)
async def test_a_leader_names_the_cluster_that_it_came_from_itself(world: SimWorld) -> None:
    first, *elders = world.nodes
    for node in elders:
        world.start(node)
    await world.until("the elder cluster is there", lambda: all(is_of(world, node, elders) for node in elders))
    part(world, [first], elders)
    world.start(first)
    await world.until("so is the younger one", lambda: world.reigns(first))
    old = genesis(world, first)
    await submit(world, first, world.spec())
    # What it brings never gets to the others before it leads them.
    world.network.tap = lambda sender, to, message: (
        not (to == first and isinstance(message, Pull) and leader_known_to(world, first) != first)
    )
    world.network.heal()
    await world.until("it is one of them", lambda: first in members(world, elders[0]))
    assert world.roster_of(first).absorbed == ()
    await world.until("the lowest id leads", lambda: world.reigns(first), within_s=120.0)
    await world.until("it names it", lambda: world.roster_of(elders[0]).absorbed == (old,))
    await world.until("it need not tell it any more", lambda: told_by(world, first, elders[0]) == ())


@story(4, slots=1, form=False)
async def test_a_node_whose_cluster_could_not_end_on_a_full_disk_goes_on(world: SimWorld) -> None:
    elder, first, second, apart = world.nodes
    await two_clusters(world)
    part(world, [apart], [first, second])
    await world.until("it goes on alone", lambda: leader_known_to(world, apart) == apart)
    join(world, [elder], [first, second])
    await world.until("the two are part of the elder one", lambda: len(world.roster_of(elder).absorbed) == 1)
    world.machines[apart].disk.fail(Failing.FULL, "queue")
    join(world, [elder], [apart])
    await world.until("its cluster should end", lambda: "union_failed" in running(world, apart).counters.all())
    # The elder one is away again before the disk is well.
    part(world, [elder], [apart])
    await asyncio.sleep(15.0)
    world.machines[apart].disk.fail(Failing.NOT)
    spec = world.spec()
    kept = await submit(world, apart, spec)
    assert (kept.copies, kept.majority, kept.queued) == (1, False, False)
    assert (await view(world, apart, spec.id, wait_s=20.0)).state == "done"
    world.network.heal()
    await world.until("all are one", world.is_one_cluster, within_s=120.0)
    await all_done(world, spec.id)


@story(3)
async def test_a_node_whose_cluster_has_ended_takes_no_roster_of_it_any_more(world: SimWorld) -> None:
    first, second, _ = world.nodes
    before = members(world, first)

    async def ends(node: Node) -> bool:
        await node.replicator.gate.quiesce(for_good=True)
        return True

    await begin(world, second, ends)
    world.start(world.add())
    await world.until("there is a newer roster", lambda: len(members(world, first)) == 4)
    await asyncio.sleep(10.0)
    assert members(world, second) == before
    running(world, second).replicator.gate.resume(for_good=True)
    await world.until("it is not over after all", lambda: len(members(world, second)) == 4)


@story(4, slots=1, form=False)
async def test_nodes_whose_new_cluster_went_away_say_so_and_recover_ends_it(world: SimWorld) -> None:
    elder, *younger = world.nodes
    first, second, third = younger
    await two_clusters(world)
    await submit(world, second, old := world.spec())
    # Nobody becomes a replica of the elder one before that goes away.
    world.network.tap = lambda sender, to, message: not (to == elder and isinstance(message, Pull))
    world.network.heal()
    await world.until("it has ended", lambda: all(world.machines[node].starts == 2 for node in (second, third)))
    await world.until("some have its roster", lambda: (elder,) in {world.roster_of(node).members for node in younger})
    whose = f"the machines of cluster {genesis(world, elder)[-8:]}, which this one became part of"
    world.crash(elder)
    world.machines[elder].gone = True
    lines = Recent(1000)
    journal.events.addHandler(lines)
    await asyncio.sleep(120.0)
    journal.events.removeHandler(lines)
    assert world.leaders() == []
    new = world.spec()
    assert (await submit(world, first, new)).queued
    # Some have the elder one's roster already, and some know its name only.
    assert {world.roster_of(node).members for node in younger} == {(), (elder,)}
    for node in younger:
        waits = (await call(world, node, ClusterStoryQuery())).waits
        assert (whose if members(world, node) == () else "n0 (") in waits
        assert "run `meshq recover`" in waits
    waiting = [event.text for event in lines.all() if event.text.startswith("no leader: waiting for")]
    assert len(waiting) == len(younger), "each says it once"
    assert all(text.endswith("meshq recover") for text in waiting)
    assert any(whose in text for text in waiting)
    await call(world, first, Recover())
    await world.until("they are a cluster", lambda: all(is_of(world, node, younger) for node in younger))
    assert world.reigns(first)
    await all_done(world, old.id, new.id)
    assert (await submit(world, third, world.spec())).majority
    assert (await call(world, third, ClusterStoryQuery())).waits == ""
