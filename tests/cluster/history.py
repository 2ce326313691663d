"""What clients were told, held against what is there at the end.

Clients write down every answer as they get it (`Acknowledged`, `Shown`, `Unclear`); tasks write down every run (see
`user_tasks.mark`). When the cluster is whole again, `judge` compares. It knows nothing of how the cluster works.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FINISHED = frozenset({"done", "failed", "cancelled"})
STORIES_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """A submit was answered: kept, on so many disks, a majority or not; `queued` where it waits for a leader."""

    at_s: float
    node: str
    task: str
    copies: int
    majority: bool
    queued: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A task was shown in this state; `outcome` is its result or error where it was finished."""

    at_s: float
    node: str
    task: str
    state: str
    outcome: Any = None
    majority: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclear:
    """A submit got no answer, or an error: the task may be there or not."""

    at_s: float
    node: str
    task: str
    why: str


Told = Acknowledged | Shown | Unclear


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """A task as it is at the end."""

    state: str
    outcome: Any = None
    majority: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a task, as the task itself noted it."""

    task: str
    token: str
    ended: bool


class History:
    """All that clients were told, in the order in which they wrote it down; any thread may add to it.

    Args:
        path: Each entry is also a line of JSON here, for whoever looks into a failure.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._told: list[Told] = []

    def add(self, *told: Told) -> None:
        """Writes down what a client was told."""
        with self._lock:
            self._told += told
            with self._path.open("a") as file:
                for each in told:
                    file.write(json.dumps({"told": type(each).__name__, **asdict(each)}) + "\n")

    def told(self) -> list[Told]:
        """All of it so far."""
        with self._lock:
            return list(self._told)

    def kept(self, task: str) -> Acknowledged:
        """The newest acknowledgement of this task."""
        found = [each for each in self.told() if isinstance(each, Acknowledged) and each.task == task]
        assert found, f"nobody acknowledged {task}"
        return found[-1]


def read_runs(path: Path) -> list[Run]:
    """The runs that tasks noted in this file."""
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    ended = {token for word, _, token in lines if word == "end"}
    return [Run(task=task, token=token, ended=token in ended) for word, task, token in lines if word == "start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came out. The lists name tasks; those in `broken` are promises that were not kept.

    Args:
        acknowledged: How many tasks were kept, as somebody was told, those that were only queued first included.
        alone: Those of them that were never acknowledged under a majority, nor queued.
        queued: Those that waited on the disk of the node that took them.
        repeated: How many submits were unclear first, and kept when they were repeated under the same id.
        unclear: How many were never answered in the end.
        finished: How many tasks are finished now.
        run_twice: Tasks that ran more than once: allowed where a machine was lost.
        replaced: Tasks whose outcome, shown without a majority, is another one now: allowed.
        broken: By kind of violation: `lost` (kept, and gone), `unfinished`, `changed` (shown under a majority, and
            different), `unasked` (nobody submitted it), `not run` (done, with a result that no run gave), `failed`
            (such a task can't fail).
        gap_s: The longest time between two acknowledgements under a majority.
        stories: What was told of the first tasks that are broken.
    """

    acknowledged: int
    alone: int
    queued: int
    repeated: int
    unclear: int
    finished: int
    run_twice: tuple[str, ...]
    replaced: tuple[str, ...]
    broken: Mapping[str, tuple[str, ...]]
    gap_s: float
    stories: str = field(repr=False)

    def figures(self) -> str:
        """In one line."""
        count = {kind: len(tasks) for kind, tasks in self.broken.items()}
        others = "".join(f", {kind} {number}" for kind, number in count.items() if kind not in ("lost", "changed"))
        return (
            f"acknowledged {self.acknowledged} (without a majority {self.alone}, queued {self.queued}), "
            f"repeated {self.repeated}, unclear {self.unclear}, finished {self.finished}, lost {count.get('lost', 0)}, "
            f"run twice {len(self.run_twice)}, changed {count.get('changed', 0)}{others}, "
            f"replaced {len(self.replaced)}, without an acknowledgement for at most {self.gap_s:.1f} s"
        )

    def check(self) -> None:
        """Fails where a promise was not kept.

        Raises:
            AssertionError: With the figures and the stories of those tasks.
        """
        assert not self.broken, f"{self.figures()}\n{self.stories}"


def judge(told: Sequence[Told], final: Mapping[str, Final], runs: Iterable[Run]) -> Verdict:
    """Compares what was told with what is there.

    Args:
        told: What clients were told, in order.
        final: All tasks at the end, by id.
        runs: The runs that tasks noted.
    """
    acknowledged = [each for each in told if isinstance(each, Acknowledged)]
    kept = {each.task for each in acknowledged}
    firm = {each.task for each in acknowledged if each.majority}
    queued = {each.task for each in acknowledged if each.queued}
    unclear = {each.task for each in told if isinstance(each, Unclear)}
    by_task: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_task[run.task].append(run)
    changed, replaced = _compared([each for each in told if isinstance(each, Shown)], final)
    broken = {
        "lost": kept - final.keys(),
        "unfinished": {task for task, end in final.items() if end.state not in FINISHED},
        "changed": changed,
        "unasked": final.keys() - kept - unclear,
        "not run": {task for task, end in final.items() if end.state == "done" and not _ran(end, by_task[task])},
        "failed": {task for task, end in final.items() if end.state == "failed"},
    }
    wrong = {kind: tuple(sorted(tasks)) for kind, tasks in broken.items() if tasks}
    return Verdict(
        acknowledged=len(kept),
        alone=len(kept - firm - queued),
        queued=len(queued),
        repeated=len(unclear & kept),
        unclear=len(unclear - kept),
        finished=sum(end.state in FINISHED for end in final.values()),
        run_twice=tuple(sorted(task for task, each in by_task.items() if len(each) > 1)),
        replaced=tuple(sorted(replaced)),
        broken=wrong,
        gap_s=longest_gap([each.at_s for each in acknowledged if each.majority]),
        stories="\n".join(_story(kind, tasks, told, final, by_task) for kind, tasks in wrong.items()),
    )


def longest_gap(at_s: Iterable[float]) -> float:
    """The longest time between two neighbours; 0 where there are less than two."""
    ordered = sorted(at_s)
    return max((later - earlier for earlier, later in itertools.pairwise(ordered)), default=0.0)


def _compared(shown: Iterable[Shown], final: Mapping[str, Final]) -> tuple[set[str], set[str]]:
    """Tasks whose shown outcome is not that of the end: those under a majority, and the others."""
    changed: set[str] = set()
    replaced: set[str] = set()
    for each in shown:
        if each.state not in FINISHED:
            continue
        end = final.get(each.task)
        if end is None or (end.state, end.outcome) != (each.state, each.outcome):
            (changed if each.majority else replaced).add(each.task)
    return changed, replaced - changed


def _ran(end: Final, runs: Iterable[Run]) -> bool:
    """Whether the result is that of a run which came to its end."""
    return any(run.ended and end.outcome == [run.task, run.token] for run in runs)


def _story(
    kind: str,
    tasks: Sequence[str],
    told: Sequence[Told],
    final: Mapping[str, Final],
    runs: Mapping[str, Sequence[Run]],
) -> str:
    lines = [f"{kind}: {len(tasks)} tasks"]
    for task in tasks[:STORIES_MAX]:
        lines.append(f"  {task}, at the end {final.get(task)}")
        lines += [f"    {each}" for each in told if each.task == task]
        lines += [f"    {run}" for run in runs.get(task, ())]
    return "\n".join(lines)
