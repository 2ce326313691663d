"""What must hold in a simulated world, looked at from outside: on the disks, and in what clients were told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from meshq.core.requests import Submitted, TaskView
from meshq.core.task import FINISHED
from meshq.store import feed
from tests.sim.world import SimWorld

KEY = "rank, majority, epoch, version, writer, seq"


@dataclass(slots=True)
class Told:
    """What clients were told, which is what the promises are about."""

    acknowledged: dict[str, Submitted] = field(default_factory=dict)
    outcomes: dict[str, tuple[str, bytes | None, bytes | None]] = field(default_factory=dict)


class Checker:
    """Looks at all machines after each step; what is wrong is a failure of the world."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.told = Told()
        self._keys: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._stamped: dict[tuple[str, int], tuple[str, tuple[Any, ...]]] = {}

    def fail(self, text: str) -> None:
        """Notes a broken promise."""
        if text not in self.world.failures:
            self.world.tell(f"BROKEN: {text}")
            self.world.failures.append(text)

    # -- what clients are told ---------------------------------------------------------------------------

    def on_submitted(self, answer: Submitted | None) -> None:
        """A client was told that its tasks are kept."""
        if answer is not None:
            for task in answer.ids:
                known = self.told.acknowledged.get(task)
                if known is None or known.queued:
                    self.told.acknowledged[task] = answer

    def on_view(self, view: TaskView | None) -> None:
        """A client was shown a task: an outcome that was shown once never changes."""
        if view is None or view.state not in FINISHED:
            return
        outcome = (view.state, view.result, view.error)
        known = self.told.outcomes.setdefault(view.id, outcome)
        if known != outcome:
            self.fail(f"task {view.id[-8:]} was shown as {known}, and now as {outcome}")

    # -- after each step ---------------------------------------------------------------------------------

    def look(self) -> None:
        """The checks that hold at every instant."""
        leaders = self.world.leaders()
        if len(leaders) > 1:
            self.fail(f"{len(leaders)} leaders: {[self.world.machines[node].name for node in leaders]}")
        for node, machine in self.world.machines.items():
            for task, *key in machine.disk.rows(f"SELECT id, {KEY} FROM tasks"):
                self._look_at_row(node, str(task), tuple(key))
        for task, answer in self.told.acknowledged.items():
            if not answer.queued:
                self._look_for(task, answer)
        for bug in self.world.network.bugs:
            self.fail(f"a handler broke: {bug}")

    def _look_at_row(self, node: str, task: str, key: tuple[Any, ...]) -> None:
        before = self._keys.get((node, task))
        if before is not None and key < before:
            self.fail(f"task {task[-8:]} went back on {self.world.machines[node].name}: {before} to {key}")
        self._keys[node, task] = key
        self._stamped[key[4], key[5]] = (task, key)

    def _look_for(self, task: str, answer: Submitted) -> None:
        holders = sum((node, task) in self._keys for node in self.world.nodes)
        if holders < answer.copies:
            self.fail(f"task {task[-8:]} was acknowledged with {answer.copies} copies; {holders} disks have it")

    # -- at the end --------------------------------------------------------------------------------------

    def look_at_vectors(self) -> None:
        """A vector never claims a version that is not there, or a later one of the same row."""
        for node, machine in self.world.machines.items():
            vector = feed.read_vector(machine.disk.queue)
            for (writer, seq), (task, key) in self._stamped.items():
                here = self._keys.get((node, task))
                if seq <= vector.get(writer, 0) and (here is None or here < key):
                    self.fail(f"{machine.name} claims {writer[-4:]}:{seq} of task {task[-8:]}, but has {here}")

    def is_settled(self) -> bool:
        """Whether all is finished, everywhere the same, and every machine a replica."""
        if not self.world.is_one_cluster() or len(self.world.leaders()) != 1:
            return False
        tables = [
            machine.disk.rows(f"SELECT id, state, {KEY} FROM tasks ORDER BY id")
            for machine in self.world.machines.values()
        ]
        finished = all(str(row[1]) in FINISHED for row in tables[0])
        waiting = any(
            machine.disk.outbox.execute("SELECT count(*) FROM entries").fetchone()[0]
            for machine in self.world.machines.values()
        )
        alike = all(table == tables[0] for table in tables)
        return finished and alike and not waiting

    def look_at_the_end(self) -> None:
        """When all is settled: nothing that was promised is missing or different."""
        self.look()
        self.look_at_vectors()
        machine = next(iter(self.world.machines.values()))
        final = {
            str(task): (str(state), result, error)
            for task, state, result, error in machine.disk.rows("SELECT id, state, result, error FROM tasks")
        }
        for task in self.told.acknowledged:
            if task not in final:
                self.fail(f"task {task[-8:]} was acknowledged and is gone")
        for task, outcome in self.told.outcomes.items():
            if final.get(task) != outcome:
                self.fail(f"task {task[-8:]} was shown as {outcome}, and ends as {final.get(task)}")
