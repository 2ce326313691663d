"""Two clusters in one world: what stories of their union are told with."""

from __future__ import annotations

from collections.abc import Iterable

from tests.sim.world import SimWorld


def part(world: SimWorld, some: Iterable[str], others: Iterable[str]) -> None:
    """From now on neither side hears the other."""
    world.network.cuts |= _between(some, others)


def join(world: SimWorld, some: Iterable[str], others: Iterable[str]) -> None:
    """From now on both sides hear each other again."""
    world.network.cuts -= _between(some, others)


def _between(some: Iterable[str], others: Iterable[str]) -> set[tuple[str, str]]:
    return {pair for one in some for other in others for pair in ((one, other), (other, one))}


def genesis(world: SimWorld, node: str) -> str:
    return world.roster_of(node).genesis


def is_of(world: SimWorld, node: str, nodes: list[str]) -> bool:
    """Whether these are the replicas, as this machine knows it."""
    return world.roster_of(node).members == (*nodes,)


async def two_clusters(world: SimWorld) -> None:
    """The first machine is a cluster, the elder one, and the others are another; they don't hear each other yet."""
    elder, *younger = world.nodes
    world.start(elder)
    await world.until("the elder cluster is there", lambda: world.reigns(elder))
    part(world, [elder], younger)
    for node in younger:
        world.start(node)
    await world.until("so is the younger one", lambda: all(is_of(world, node, younger) for node in younger))
    assert world.reigns(younger[0])
