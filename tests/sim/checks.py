"""What must hold in a simulated world, looked at from outside: on disks, in messages, in what clients were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshq.core.messages import Handover, Leave, Pull, Renew, RenewAnswer, Rows, Vote, VoteAnswer
from meshq.core.reports import TaskView
from meshq.core.requests import Job, Submitted
from meshq.core.task import FINISHED, OPEN
from meshq.store import feed
from tests.sim.host import KINDS
from tests.sim.ledger import Ledger
from tests.sim.machine import Machine
from tests.sim.world import SimWorld

KEY = ", ".join(feed.TASK_KEY)
ANSWER_S = 60.0  # how long an answer may be under way
Outcome = tuple[str, bytes | None, bytes | None]


@dataclass(slots=True)
class Told:
    """What clients were told, which is what the promises are about.

    `acknowledged` tells for each task which disks had it then. `outcomes` are those that were shown under a majority,
    by cluster and task; `shown` are all. `calls` counts the answers.
    """

    acknowledged: dict[str, frozenset[str]] = field(default_factory=dict)
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    shown: dict[str, set[Outcome]] = field(default_factory=dict)


class Checker:
    """Looks at all machines after each step; what is wrong is a failure of the world."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.told = Told()
        self.on_moment: Callable[[Machine, str], None] = lambda machine, moment: None
        self.ledger = Ledger(lambda: world.loop.now, self.fail, lambda machine, moment: self.on_moment(machine, moment))
        self.ledger.on_moved = self._on_moved
        self.lost = 0
        self.changed = 0
        self.runs: Counter[str] = Counter()  # of tasks that end well where nothing is broken
        self._boots: dict[tuple[str, int, int], set[str]] = {}
        world.watcher = self
        world.network.watch = self.on_message
        world.network.after = self.look_at_leaders

    def fail(self, text: str) -> None:
        """Notes a broken promise."""
        if text not in self.world.failures:
            self.world.tell(f"BROKEN: {text}")
            self.world.failures.append(text)

    # -- what clients are told ---------------------------------------------------------------------------

    def on_submitted(self, answer: Submitted | None) -> None:
        """A client was told that its tasks are kept: as many disks have them as it was told."""
        if answer is None:
            return
        for task in answer.ids:
            holders = self.ledger.who_has(task)
            if not answer.queued and len(holders) < answer.copies:
                text = f"was acknowledged with {answer.copies} copies; {len(holders)} disks have it"
                self.fail(f"task {task[-8:]} {text}")
            self.told.acknowledged[task] = holders | self.told.acknowledged.get(task, frozenset())

    def on_view(self, view: TaskView | None, *, has_result: bool = True, cluster: str = "") -> None:
        """A client was shown a task: an outcome that was shown under a majority never changes.

        Two clusters that have not met yet may both have been given a task, and each has its own outcome.
        """
        if view is None or view.state not in FINISHED:
            return
        outcome = (view.state, view.error, view.result if has_result else None)
        if has_result:
            self.told.shown.setdefault(view.id, set()).add(outcome)
        if not view.majority:
            return
        if has_result:
            self._look_for_copies(view.id, outcome, cluster)
        known = self.told.outcomes.get((cluster, view.id))
        if known is None and has_result:
            self.told.outcomes[cluster, view.id] = outcome
        elif known is not None and (known != outcome if has_result else known[:2] != outcome[:2]):
            self.changed += 1
            self.fail(f"task {view.id[-8:]} was shown as {known}, and now as {outcome}")

    def _look_for_copies(self, task: str, outcome: Outcome, cluster: str) -> None:
        """What is shown as finished under a majority is on the disks of one."""
        sql = "SELECT state, error, result FROM tasks WHERE id = ? AND rank = 1"
        found = [machine.disk.rows(sql, (task,)) for machine in self.world.machines.values()]
        holders = found.count([outcome])
        needed = self.ledger.least_majority(cluster, self.world.loop.now - ANSWER_S)
        if holders < needed and ("tasks", task) not in self.ledger.purged:
            self.fail(f"task {task[-8:]} was shown as {outcome[0]} under a majority; {holders} disks have it")

    def _on_moved(self, machine: Machine) -> None:
        """Its cluster became part of another: a task that both were given may have another outcome there."""
        moved = {str(task) for (task,) in machine.disk.rows("SELECT id FROM tasks WHERE rank = 1")}
        for cluster, task in list(self.told.outcomes):
            if task in moved and cluster != machine.disk.genesis():
                del self.told.outcomes[cluster, task]

    # -- after each step ---------------------------------------------------------------------------------

    def after_write(self, machine: Machine, database: str) -> None:
        """A transaction is done on a disk, and nobody knows yet."""
        if database == "queue":
            self.ledger.look(machine)
        elif database == "promise":
            self.on_moment(machine, "promise")
        self.look_at_leaders()

    def look_at_leaders(self) -> None:
        """At most one machine leads a majority of a cluster at any instant; each recovery makes another cluster."""
        leaders = self.world.leaders()
        if len(leaders) < 2:
            return
        rosters = [self.world.roster_of(node) for node in leaders]
        clusters = Counter((roster.genesis, self.ledger.line(roster.writer, roster.seq)) for roster in rosters)
        if max(clusters.values()) > 1:
            self.fail(f"{len(leaders)} leaders: {[self.world.name(node) for node in leaders]}")

    def on_message(self, sender: str, to: str, message: Any) -> None:
        """A message leaves: what it promises is on its sender's disk, and what it claims too."""
        match message:
            case VoteAnswer(granted=True, pre=False, epoch=epoch) | RenewAnswer(followed=True, epoch=epoch):
                self._look_at_promise(sender, epoch, to)
            case Renew(epoch=epoch):
                self._look_at_promise(sender, epoch, sender)
            case Handover(step=step):
                self.on_moment(self.world.machines[sender], step)
            case Leave():
                self.on_moment(self.world.machines[sender], "leave")
            case Vote(pre=False):
                self.on_moment(self.world.machines[sender], "vote")
            case Rows(last=False):
                self.on_moment(self.world.machines[sender], "full")
            case Pull(vector=vector):
                known = self.ledger.vector(sender)
                for writer, seq in vector.items():
                    if seq > known.get(writer, 0):
                        text = f"says {writer[-4:]}:{seq}, and its disk {known.get(writer)}"
                        self.fail(f"{self.world.name(sender)} {text}")

    def _look_at_promise(self, node: str, epoch: int, holder: str) -> None:
        promised = self.world.machines[node].disk.promised()
        if promised[0] < epoch or (promised[0] == epoch and promised[1] != holder):
            text = f"promises {epoch} to {self.world.name(holder)}; its disk says {promised}"
            self.fail(f"{self.world.name(node)} {text}")

    def on_run(self, machine: Machine, job: Job) -> None:
        """A run begins: a claim is held once, by each leader that gave it."""
        if KINDS.get(job.name, KINDS["work"])[1] == "done" and job.timeout_s is None:
            self.runs[job.id] += 1
        run = (job.id, job.epoch, job.attempt)
        boots = self._boots.setdefault(run, set())
        boots.add(machine.boot)
        if len(boots) > max(1, len(self.ledger.givers.get(run, ()))):
            self.fail(f"attempt {job.attempt} of task {job.id[-8:]} in epoch {job.epoch} runs on {len(boots)} machines")

    def look(self) -> None:
        """What can be looked at without anything having happened."""
        self.look_at_leaders()
        for bug in self.world.network.bugs:
            self.fail(f"a handler broke: {bug}")

    # -- at the end --------------------------------------------------------------------------------------

    def look_at_vectors(self) -> None:
        """No vector claims what is not there: looked at after each transaction, so this is the last of them."""
        for machine in self.world.machines.values():
            if not machine.gone:  # else its disk may be another's by now
                self.ledger.look(machine)

    def is_settled(self) -> bool:
        """Whether all is finished, everywhere the same, nothing waits, and the lowest machine leads."""
        return not self.unsettled()

    def unsettled(self) -> str:
        """What keeps it from being settled; empty if it is."""
        world = self.world
        if not world.is_one_cluster():
            return "the machines are not one cluster"
        here = [machine for machine in world.machines.values() if not machine.gone]
        running = here[0].running
        members = running.replicator.roster.members if running is not None else ()
        if not self.the_lowest_leads(members):
            return f"{[world.name(node) for node in world.leaders()]} lead of {[world.name(node) for node in members]}"
        for machine in here:
            if (waiting := machine.disk.outbox.execute("SELECT count(*) FROM entries").fetchone()[0]) > 0:
                return f"{waiting} entries wait in the outbox of {machine.name}"
        tables = [self._tasks(world.machines[node]) for node in members]
        unfinished = [str(row[0]) for row in tables[0] if str(row[1]) in OPEN]
        if unfinished:
            return f"{len(unfinished)} tasks are not finished, as {unfinished[0][-8:]}"
        return "" if all(table == tables[0] for table in tables) else "the replicas differ"

    def the_lowest_leads(self, members: tuple[str, ...]) -> bool:
        """Whether the lowest replica leads, and nobody else."""
        return self.world.leaders() == list(members[:1])

    @staticmethod
    def _tasks(machine: Machine) -> list[tuple[Any, ...]]:
        return machine.disk.rows(f"SELECT id, state, {KEY} FROM tasks ORDER BY id")

    def look_at_the_end(self) -> None:
        """Nothing that was promised is missing, and when all is settled, nothing is different."""
        self.look()
        self.look_at_vectors()
        left = [machine for machine in self.world.machines.values() if not machine.gone]
        final: dict[str, set[Outcome]] = {}
        for machine in left:
            for task, state, error, result in machine.disk.rows("SELECT id, state, error, result FROM tasks"):
                final.setdefault(str(task), set()).add((str(state), error, result))
        names = {machine.node for machine in left}
        for task, holders in self.told.acknowledged.items():
            # What only a machine had that never comes back is gone with it.
            if task not in final and ("tasks", task) not in self.ledger.dropped and holders & names:
                self.lost += 1
                self.fail(f"task {task[-8:]} was acknowledged and is gone")
        if self.world.failures:
            return
        for (_, task), outcome in self.told.outcomes.items():
            if ("tasks", task) not in self.ledger.purged and outcome not in final.get(task, ()):
                self.changed += 1
                self.fail(f"task {task[-8:]} was shown as {outcome}, and ends as {final.get(task)}")
