"""Rules of the lease, each with a story that breaks when the rule is taken away."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from meshq.core.messages import Handover, Renew, Vote, VoteAnswer
from tests.sim import faults
from tests.sim.broken import Case
from tests.sim.checks import Checker
from tests.sim.machine import Machine
from tests.sim.story import leader_known_to, members
from tests.sim.world import SimWorld


async def a_promise_is_made(world: SimWorld, checker: Checker) -> None:
    """Another one is elected, and the voter's promise is on its disk before the candidate hears of it."""
    first, second, _ = world.nodes
    world.crash(first)
    await world.until("the second leads", lambda: world.reigns(second))


async def a_restarted_voter_stands(world: SimWorld, checker: Checker) -> None:
    """A voter that promised just before it died waits a whole lease, though it wants to lead itself."""
    leader, voter, other = world.nodes
    # The third hears nothing more from the leader, and would grant when its promise has run out.
    world.network.cuts |= {(leader, other), (other, leader)}
    await asyncio.sleep(2.6)
    # The leader still counts on the voter's last promise when that one starts anew.
    world.network.cuts |= {(leader, voter), (voter, leader)}
    world.crash(voter)
    world.start(voter)
    await world.until("another leads", lambda: world.leaders() not in ([], [leader]), 20.0)


async def a_winner_of_an_old_roster(world: SimWorld, checker: Checker) -> None:
    """The machines that an old roster names elect one of them, while another leads under a newer one."""
    old, voter, leader = world.nodes
    world.crash(old)
    await world.until("the second leads", lambda: world.reigns(voter))
    later = [world.add(), world.add()]
    for node in later:
        world.start(node)
    await world.until("five replicas", lambda: len(world.roster_of(leader).members) == 5)
    world.crash(voter)
    await world.until("the third leads", lambda: world.reigns(leader))
    # The first knows three replicas, of which the second will vote for it; the leader hears neither of them.
    world.network.cuts |= {pair for node in (old, voter) for pair in ((node, leader), (leader, node))}
    world.start(old)
    world.start(voter)
    await asyncio.sleep(20.0)
    assert world.leaders() == [leader]


async def a_late_go(world: SimWorld, checker: Checker) -> None:
    """A hand-over's last word arrives when another was elected meanwhile: who let go then is bound to that one now."""
    holder, target, third = world.nodes
    go: list[Handover] = []

    def keep(sender: str, to: str, message: Any) -> bool:
        if isinstance(message, Handover) and message.step == "go":
            go.append(message)
            return False
        # The target neither stands by itself, nor hears of the third's candidature or leadership.
        stands = sender == target and isinstance(message, Vote) and not message.handover_holder
        return not (to == target and isinstance(message, Renew | Vote)) and not (stands and not world.reigns(third))

    world.network.tap = keep
    world.at(holder, lambda running: running.leadership.hand_over(5.0))
    await world.until("the third leads", lambda: world.reigns(third), 30.0)
    await asyncio.sleep(3.0)
    world.network.cuts |= {(target, third), (third, target)}
    answers = world.at(target, lambda running: running.elector.answer(holder, go[0]))
    await asyncio.sleep(3.0)
    assert answers.done()


async def replaced_while_it_comes_back(world: SimWorld, checker: Checker) -> None:
    """A replica is replaced at the very moment at which it comes back, on the other side of a cut."""
    leader, silent, loyal, spare = world.nodes
    assert members(world, leader) == (leader, silent, loyal)
    world.crash(silent)

    def cut(machine: Machine, moment: str) -> None:
        if moment == "roster" and machine.node == leader and not world.network.cuts:
            sides = [(one, other) for one in (leader, spare) for other in (silent, loyal)]
            world.network.cuts |= {pair for one, other in sides for pair in ((one, other), (other, one))}
            world.outside(partial(world.start, silent))

    checker.on_moment = cut
    await world.until("the roster changes", lambda: bool(world.network.cuts), 90.0)
    await world.until("the others have a leader", lambda: set(world.leaders()) & {silent, loyal} != set(), 60.0)
    await asyncio.sleep(5.0)


async def two_of_one_epoch(world: SimWorld, checker: Checker) -> None:
    """A candidate that failed follows the winner of the very epoch for which it stood."""
    first, failed, winner = world.nodes
    stood: list[Vote] = []

    def lose(sender: str, to: str, message: Any) -> bool:
        if sender == failed and isinstance(message, Vote) and (stood or not message.pre):
            stood.append(message)
            return False
        # Nor does the winner learn from it which epoch that was.
        return not (sender == failed and to == winner and isinstance(message, VoteAnswer))

    world.network.tap = lose
    world.at(first, lambda running: running.leadership.hand_over(1.0))
    await world.until("another leads", lambda: world.leaders() not in ([], [first]), 30.0)
    assert world.leaders() == [winner]
    running = world.machines[winner].running
    assert running is not None
    assert stood[0].epoch == running.elector.promised_epoch, "it was another epoch, so nothing was tried"
    world.network.tap = lambda sender, to, message: True
    await world.until("the one that failed follows", lambda: leader_known_to(world, failed) == winner, 15.0)


CASES = (
    Case(a_promise_is_made, faults.promise_not_on_disk, "its disk says"),
    Case(a_restarted_voter_stands, faults.votes_for_itself_after_a_start, "2 leaders"),
    Case(a_winner_of_an_old_roster, faults.winner_renews_to_all, "2 leaders"),
    Case(a_late_go, faults.handover_without_its_holder, "2 leaders"),
    Case(
        replaced_while_it_comes_back, faults.replaced_in_one_write, "2 leaders", machines=4,
        settings={"replicas": 3, "replace_after_s": 15.0},
    ),
    Case(two_of_one_epoch, faults.the_winner_is_refused, "the one that failed follows"),
)  # fmt: skip
