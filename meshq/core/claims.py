"""Who runs what: the leader's table of workers and claims, which lasts for one epoch and stands on no disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from meshq.core.ids import is_id
from meshq.core.infos import Name, TaskInfo
from meshq.core.requests import ClaimRef, RunProgress


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to one run. `number` is the Get that was answered with it, 0 for a run that was adopted.

    `arrived` says that the worker named it since. `progress` is what the run said last: done, total and a note.
    """

    ref: ClaimRef
    node: str
    boot: str
    name: str
    number: int
    until: float
    arrived: bool = False
    progress: tuple[float, float, str] | None = None


@dataclass(slots=True)
class Worker:
    """A worker, as it last spoke: `named` are the tasks of its runs, `called_off` claims that it may not know to be
    over."""

    node: str
    boot: str
    heard_at: float
    name: str = ""
    slots: int = 0
    running: int = 0
    draining: bool = False
    drained: bool = False
    number: int = 0
    tasks: dict[str, TaskInfo] | None = None
    claims: dict[str, None] = field(default_factory=dict)
    silenced: dict[str, None] = field(default_factory=dict)  # what its silence freed: lost, should it have died
    named: Collection[str] = ()
    called_off: dict[str, Claim] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        """Whether it takes work."""
        return bool(self.slots) and not (self.draining or self.drained)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What follows from a worker's naming its runs: which are not known here, which of its claims are free now.

    `lost` are what an earlier boot ran, free by now: the node itself was lost, not just the run.
    """

    unknown: tuple[ClaimRef, ...] = ()
    foreign: tuple[str, ...] = ()
    freed: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class Claims:
    """All claims of one leadership.

    Args:
        claim_s: How long a claim lasts that its worker does not name.
        dead_after_s: After how long a silent worker's claims are free.
    """

    def __init__(self, claim_s: float, dead_after_s: float) -> None:
        self.workers: dict[str, Worker] = {}
        self._claims: dict[str, Claim] = {}
        self._ended: dict[ClaimRef, float] = {}
        self._claim_s = claim_s
        self._dead_after_s = dead_after_s

    def __len__(self) -> int:
        return len(self._claims)

    def of(self, task: str) -> Claim | None:
        """The claim of this task, if somebody holds it."""
        return self._claims.get(task)

    def count(self, name: str) -> int:
        """How many claims there are of tasks of this name."""
        return sum(claim.name == name for claim in self._claims.values())

    def held_by(self, node: str) -> list[Claim]:
        """All claims of a worker."""
        worker = self.workers.get(node)
        return [self._claims[task] for task in worker.claims] if worker else []

    def hold(self, ref: ClaimRef, node: str, boot: str, name: str, number: int, now: float) -> None:
        """Gives the task to this worker's boot."""
        self.drop([ref.task])
        self._claims[ref.task] = Claim(ref, node, boot, name, number, now + self._claim_s, arrived=number == 0)
        worker = self.workers.get(node)
        if worker is not None:
            worker.claims[ref.task] = None

    def drop(self, tasks: Iterable[str]) -> None:
        """Ends these claims."""
        for task in tasks:
            claim = self._claims.pop(task, None)
            if claim is not None and claim.node in self.workers:
                self.workers[claim.node].claims.pop(task, None)

    def call_off(self, tasks: Iterable[str]) -> None:
        """Ends these claims; their runs go on until their workers hear of it."""
        for task in tasks:
            claim = self._claims.get(task)
            if claim is not None and claim.node in self.workers:
                self.workers[claim.node].called_off[task] = claim
            self.drop([task])

    def is_ending(self, task: str, node: str, now: float) -> bool:
        """Whether this worker may still run a task whose claim is over; of one that fell silent nobody can say."""
        worker = self.workers.get(node)
        if worker is None or now - worker.heard_at >= self._dead_after_s:
            return False
        return task in worker.called_off or (task in worker.named and task not in worker.claims)

    def tell(self, node: str, boot: str, progress: Iterable[RunProgress]) -> None:
        """What runs of this worker's boot say of how far they are; only that of its claims counts."""
        for told in progress:
            claim = self._claims.get(told.task)
            if claim is not None and claim.node == node and claim.boot == boot:
                self._claims[told.task] = replace(claim, progress=(told.done, told.total, told.note))

    def end(self, runs: Iterable[ClaimRef], now: float) -> None:
        """These runs have ended; a message that still names them was under way then."""
        for ref in runs:
            self.drop([ref.task])
            self._ended[ref] = now + self._dead_after_s

    def speak(self, node: str, boot: str, runs: Collection[ClaimRef], now: float, number: int | None = None) -> Spoken:
        """A worker names all its runs, with a Get (numbered) or a heartbeat.

        Whatever an earlier Get was given and a later one does not name never arrived, so it is free at once.
        """
        worker = self.workers.get(node)
        if worker is not None and is_id(boot) and boot < worker.boot:
            # A message that was under way when the node started anew: its runs died with it.
            return Spoken(foreign=tuple(ref.task for ref in runs))
        lost: list[str] = []
        freed: list[str] = []
        if worker is None or worker.boot != boot:
            if worker is not None:
                freed, lost = list(worker.claims), [*worker.silenced, *worker.claims]
            self.drop(freed)
            worker = self.workers[node] = Worker(node, boot, now)
        elif worker.silenced:
            worker.silenced.clear()  # it was cut off, and lives
        worker.heard_at = now
        worker.named = named = {ref.task for ref in runs}
        _hear_of_called_off(worker, number)
        unknown: list[ClaimRef] = []
        foreign: list[str] = []
        for ref in runs:
            claim = self._claims.get(ref.task)
            if claim is None and ref not in self._ended:
                unknown.append(ref)
            elif claim is None or claim.node != node or claim.ref != ref:
                foreign.append(ref.task)
            else:
                until = now + self._claim_s
                self._claims[ref.task] = Claim(ref, node, boot, claim.name, claim.number, until, True, claim.progress)
        if number is not None:
            unnamed = [task for task in worker.claims if task not in named and self._claims[task].number < number]
            self.drop(unnamed)
            freed += unnamed
        return Spoken(tuple(unknown), tuple(foreign), tuple(freed), tuple(lost))

    def expire(self, now: float) -> list[str]:
        """Frees the claims of silent workers, and those that nobody named for too long; these tasks are free."""
        freed: list[str] = []
        for worker in self.workers.values():
            if now - worker.heard_at >= self._dead_after_s:
                freed += worker.claims
                worker.silenced.update(worker.claims)
        freed += [task for task, claim in self._claims.items() if now >= claim.until and task not in freed]
        self.drop(freed)
        self._ended = {ref: until for ref, until in self._ended.items() if now < until}
        return freed

    def alive(self, now: float) -> list[Worker]:
        """The workers that spoke lately."""
        return [worker for worker in self.workers.values() if now - worker.heard_at < self._dead_after_s]

    def known_tasks(self, now: float) -> dict[str, TaskInfo]:
        """Every task that some live worker knows."""
        known: dict[str, TaskInfo] = {}
        for worker in self.alive(now):
            if not worker.draining:
                known.update(worker.tasks or {})
        return known

    def names(self, now: float) -> list[Name]:
        """The same, by name, each with the nodes that run it at present."""
        known = self.known_tasks(now)
        nodes: dict[str, list[str]] = {name: [] for name in known}
        for worker in self.alive(now):
            if worker.works:
                for name in worker.tasks or {}:
                    nodes[name].append(worker.node)
        return [Name(info=known[name], nodes=tuple(sorted(nodes[name]))) for name in sorted(known)]


def _hear_of_called_off(worker: Worker, number: int | None) -> None:
    """Of what was called off, a worker that speaks has what it names; and what may still be on its way to it."""
    for task, claim in list(worker.called_off.items()):
        if task in worker.named:
            worker.called_off[task] = replace(claim, arrived=True)
        elif claim.arrived or (number is not None and number > claim.number):
            del worker.called_off[task]
