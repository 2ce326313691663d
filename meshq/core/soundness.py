"""Which machines are to blame for the deaths of their children, and which tasks: the rules of one leadership.

A child's death has its cause in the task or in the machine. A task whose child died on two machines, and that has
passed on none since, has itself to blame and counts against no machine. Against a machine count the different tasks
whose children died there with no success in between: enough of them, while one of their names passes elsewhere, and
it is unsound. Nothing of this stands on a disk; a new leader learns it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meshq.core.ids import short

# Beyond these the oldest is forgotten, which costs at most one more crash, or a later pause.
TASKS_MAX = 1000  # tasks that crashed and are open still; also forgotten `pause_s` after their last crash
NAMES_MAX = 1000  # names that passed since the first crash that counts against any machine
MACHINES_MAX = 1000  # machines against which something counts
STREAK_MAX = 100  # crashes that count against one machine, or `crashes_max` if that is more
# How many tasks a reason names.
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class _Crash:
    """A task whose child died on a machine, first at that time."""

    task: str
    name: str
    at: float


@dataclass(frozen=True, slots=True)
class _Pause:
    """A machine gets no work. `since` is the first of the crashes for which it is paused."""

    until: float
    since: float
    reason: str


@dataclass(slots=True)
class _Machine:
    """What counts against a machine. On `probation`, which is the `since` of its last pause, one crash is enough."""

    boot: str
    crashes: dict[str, _Crash] = field(default_factory=dict)
    pause: _Pause | None = None
    probation: float | None = None


class Soundness:
    """What a leader knows of machines whose children die.

    Args:
        crashes_max: So many different tasks that crash on a machine, one after the other, pause it.
        pause_s: So long it gets no work then.
        name_of: What people call a node.
    """

    def __init__(self, crashes_max: int, pause_s: float, name_of: Callable[[str], str] = short) -> None:
        self._crashes_max, self._pause_s, self._name_of = crashes_max, pause_s, name_of
        self._machines: dict[str, _Machine] = {}
        self._crashed: dict[str, dict[str, _Crash]] = {}  # task -> node -> its newest crash there
        self._passed: dict[str, dict[str, float]] = {}  # name -> node -> when last, of the newest two nodes

    def __len__(self) -> int:
        """How many entries it remembers, of all kinds."""
        streaks = sum(max(1, len(machine.crashes)) for machine in self._machines.values())
        return streaks + len(self._crashed) + len(self._passed)

    # -- what happens ------------------------------------------------------------------------------------

    def on_crash(self, node: str, boot: str, task: str, name: str, now: float) -> None:
        """The child that ran this task there died."""
        machine = self._known(node, boot, now) or _Machine(boot)
        # In its place by its newest crash, so that the oldest can be forgotten.
        self._machines.pop(node, None)
        self._machines[node] = machine
        _cut(self._machines, MACHINES_MAX)
        if machine.pause is None:
            machine.crashes.setdefault(task, _Crash(task, name, now))
            _cut(machine.crashes, max(STREAK_MAX, self._crashes_max))
        nodes = self._crashed.pop(task, {})
        nodes[node] = _Crash(task, name, now)
        self._crashed[task] = nodes
        self.forget(self._outdated(now))
        self._judge(now)

    def on_done(self, node: str, boot: str, task: str, name: str, now: float) -> None:
        """The task passed there, which speaks for this machine, and against others where its like crashed."""
        self._crashed.pop(task, None)
        if not self._machines:
            return
        machine = self._known(node, boot, now)
        # During a pause it is a run that began before its end: it says nothing about what comes after.
        if machine is not None and machine.pause is None:
            del self._machines[node]
        if not self._machines:
            self._passed.clear()
            return
        if name:
            nodes = self._passed.pop(name, {})
            nodes.pop(node, None)
            nodes[node] = now
            _cut(nodes, 2)
            self._passed[name] = nodes
            _cut(self._passed, NAMES_MAX)
        self._judge(now)

    def forget(self, tasks: Iterable[str]) -> None:
        """These tasks are finished, or long ago. One that had itself to blame counts against nobody for good."""
        for task in tasks:
            nodes = self._crashed.get(task, {})
            if self._blames_itself(task):
                for node in nodes:
                    if node in self._machines:
                        self._machines[node].crashes.pop(task, None)
            self._crashed.pop(task, None)

    def suspects(self) -> list[str]:
        """The machines against which something counts."""
        return list(self._machines)

    # -- what follows ------------------------------------------------------------------------------------

    def paused(self, node: str, boot: str, now: float) -> str:
        """Why this machine gets no work, for people; empty if it gets some. A new boot ends a pause."""
        machine = self._machines.get(node)
        if machine is None or machine.pause is None or machine.boot != boot or now >= machine.pause.until:
            return ""
        left_s = machine.pause.until - now
        return f"{machine.pause.reason}; no work for {left_s:.0f} s more, unless its daemon starts anew"

    def avoided(self, node: str, others: Mapping[str, Collection[str]], now: float) -> list[str]:
        """The tasks that this machine is not to get now: they crashed here, and were not yet tried elsewhere.

        Args:
            node: The machine.
            others: The other machines that take work, with the names of the tasks that each knows.
            now: By the clock of all other calls, in seconds.
        """
        resting = {each for each, machine in self._machines.items() if machine.pause and now < machine.pause.until}
        return [
            task
            for task, nodes in self._crashed.items()
            if (crash := nodes.get(node)) is not None
            and now - crash.at < self._pause_s
            and any(
                crash.name in names for other, names in others.items() if other not in nodes and other not in resting
            )
        ]

    # -- judgement ---------------------------------------------------------------------------------------

    def _known(self, node: str, boot: str, now: float) -> _Machine | None:
        """What is known of a machine that speaks as this boot now."""
        machine = self._machines.get(node)
        if machine is None:
            return None
        over = machine.pause is not None and now >= machine.pause.until
        if over or machine.boot != boot:
            machine.probation = machine.pause.since if machine.pause is not None else machine.probation
            machine.boot, machine.pause = boot, None
            machine.crashes.clear()
        return machine

    def _outdated(self, now: float) -> list[str]:
        """Tasks that crashed last so long ago that no pause of that time is left, and the oldest beyond the limit."""
        tasks = list(self._crashed)
        extra = max(0, len(tasks) - TASKS_MAX)
        return [
            task
            for index, task in enumerate(tasks)
            if index < extra or all(now - crash.at >= self._pause_s for crash in self._crashed[task].values())
        ]

    def _judge(self, now: float) -> None:
        """Pauses who is unsound, and lets those in again whose crashes turned out to be the tasks' own fault."""
        for node, machine in self._machines.items():
            needed = self._crashes_max if machine.probation is None else 1
            counting = [crash for crash in machine.crashes.values() if not self._blames_itself(crash.task)]
            crashes = counting[-needed:]
            since = machine.probation
            if since is None:
                since = crashes[0].at if crashes else now
            passed = self._passed_elsewhere(node, crashes, since)
            if len(crashes) < needed or not passed:
                machine.pause = None
            elif machine.pause is None:
                reason = self._reason(crashes, passed)
                machine.pause = _Pause(now + self._pause_s, since, reason)

    def _blames_itself(self, task: str) -> bool:
        return len(self._crashed.get(task, ())) > 1

    def _passed_elsewhere(self, node: str, crashes: list[_Crash], since: float) -> dict[str, str]:
        """The names of these crashes that passed on another machine since then, each with the machine."""
        return {
            crash.name: other
            for crash in crashes
            for other, at in self._passed.get(crash.name, {}).items()
            if other != node and at >= since
        }

    def _reason(self, crashes: list[_Crash], passed: Mapping[str, str]) -> str:
        named = ", ".join(f"{crash.name} {short(crash.task)}" for crash in crashes[:NAMED_MAX])
        if len(crashes) > NAMED_MAX:
            named += f" and {len(crashes) - NAMED_MAX} more"
        where = ", ".join(f"{name} passed on {self._name_of(node)}" for name, node in list(passed.items())[:NAMED_MAX])
        if len(crashes) > 1:
            return f"{len(crashes)} different tasks crashed here one after the other ({named}), while {where}"
        return f"a task crashed here ({named}), while {where}"


def _cut(entries: dict[str, Any], most: int) -> None:
    """Forgets the oldest entry beyond so many."""
    if len(entries) > most:
        del entries[next(iter(entries))]
