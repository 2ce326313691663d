"""The frame of stories about one rule: sound as long as the rule stands, and seen to break when it is taken away."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from meshq.config import Config
from tests.sim.checks import Checker
from tests.sim.faults import Fault
from tests.sim.world import SimWorld

Told = Callable[[SimWorld, Checker], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Case:
    """A story, the fault that breaks it, and what is said then.

    Args:
        told: The story; the machines are one cluster when it begins, and the first leads.
        fault: Takes the rule away, from the moment at which they are one cluster.
        says: A part of what is found broken.
        machines, slots: The world.
        settings: Of `Config`, where they differ from the defaults.
    """

    told: Told
    fault: Fault
    says: str
    machines: int = 3
    slots: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.told.__name__


def broken(case: Case, *, with_fault: bool) -> list[str]:
    """What was found broken when the story ran."""
    world = SimWorld(7, case.machines, Config(**case.settings), slots=case.slots)
    checker = Checker(world)

    async def run() -> None:
        await world.form()
        with case.fault() if with_fault else nullcontext():
            await case.told(world, checker)
        checker.look()
        checker.look_at_vectors()

    try:
        world.run(run())
    except AssertionError as error:
        return [*world.failures, str(error)]
    return world.failures


def told_of(case: Case, *, with_fault: bool) -> str:
    """The same as one text."""
    return "\n".join(broken(case, with_fault=with_fault))
