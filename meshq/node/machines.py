"""Which machines get no work because children die there, as the leader tells it and acts on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from meshq.config import Config
from meshq.core.claims import Claims
from meshq.core.ids import short
from meshq.core.ports import Clock
from meshq.core.requests import Outcome
from meshq.core.soundness import Soundness
from meshq.node import journal
from meshq.node.counters import Counters


class Machines:
    """The soundness of the workers of one leadership.

    Args:
        claims: Knows the workers, their boots and names.
        clock: The lease clock.
        config: How many crashes pause a machine, and for how long.
        counters: Where pauses are counted.
    """

    def __init__(self, claims: Claims, clock: Clock, config: Config, counters: Counters) -> None:
        self._claims = claims
        self._clock = clock
        self._counters = counters
        self._soundness = Soundness(config.bad_machine_crashes, config.bad_machine_pause_s, self._name_of)
        self._told: dict[str, str] = {}

    def _name_of(self, node: str) -> str:
        worker = self._claims.workers.get(node)
        return worker.name if worker is not None and worker.name else short(node)

    def on_outcomes(
        self, node: str, boot: str, outcomes: Collection[Outcome], names: Mapping[str, str], finished: Collection[str]
    ) -> None:
        """Outcomes of a worker were taken.

        Args:
            node, boot: The worker; what an earlier boot of it left on its disk says nothing about the present one.
            outcomes: Those that counted.
            names: What their tasks are called, as far as that is known.
            finished: The tasks that are finished now.
        """
        worker = self._claims.workers.get(node)
        if worker is not None and worker.boot == boot:
            now = self._clock.boot_s()
            for outcome in outcomes:
                name = names.get(outcome.task, "")
                if outcome.kind == "done":
                    self._soundness.on_done(node, boot, outcome.task, name, now)
                elif outcome.kind == "crashed":
                    self._soundness.on_crash(node, boot, outcome.task, name, now)
        self._soundness.forget(finished)
        self.look()

    def look(self) -> bool:
        """Tells who is paused now and who no longer; whether something may depend on the time that passes."""
        paused = {node: reason for node in self._soundness.suspects() if (reason := self.paused(node))}
        for node, reason in paused.items():
            if node not in self._told:
                self._counters.add("machine_paused", node)
                journal.warn("machine_paused", f"{self._name_of(node)} is paused: {reason}", node=node, reason=reason)
        for node in self._told:
            if node not in paused:
                self._counters.add("machine_let_in", node)
                journal.tell("machine_let_in", f"{self._name_of(node)} gets work again", node=node)
        self._told = paused
        return len(self._soundness) > 0

    def paused(self, node: str) -> str:
        """Why this machine gets no work, for people; empty if it gets some."""
        worker = self._claims.workers.get(node)
        return self._soundness.paused(node, worker.boot, self._clock.boot_s()) if worker is not None else ""

    def avoided(self, node: str) -> list[str]:
        """The tasks that are to be tried on another machine before they come to this one again."""
        if not len(self._soundness):
            return []
        now = self._clock.boot_s()
        others = {
            worker.node: worker.tasks or {}
            for worker in self._claims.alive(now)
            if worker.node != node and worker.works
        }
        return self._soundness.avoided(node, others, now)
