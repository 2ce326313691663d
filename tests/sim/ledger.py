"""What every disk holds, kept up to date after each transaction: versions, stamps and vectors, and what breaks a rule.

The rules: a row never goes back; a write goes through the merge, and so forward; a stamp is given once, by its
writer, and stands on the writer's own disk before any other; a vector claims nothing that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshq.core.quorum import majority
from meshq.core.task import FINISHED, State
from meshq.store import feed, values
from tests.sim.disk import WATCHED, Touched
from tests.sim.machine import Machine

Row = tuple[str, str]  # table, and what names the row
Key = tuple[Any, ...]
CHUNK = 500


class Ledger:
    """The books of a world.

    Args:
        now: The true time.
        fail: Is told what is broken.
        moment: Is told what a machine has just written under its own stamp, before anybody else knows: `submit`,
            `claim`, `wait`, `finish`, `purge`, `value` or `roster`.
    """

    def __init__(
        self, now: Callable[[], float], fail: Callable[[str], None], moment: Callable[[Machine, str], None]
    ) -> None:
        self.stamps: dict[tuple[str, int], tuple[Row, Key]] = {}
        # (task, epoch, attempt) -> who wrote that it runs, and how often a merge had voided its claims by then.
        self.givers: dict[tuple[str, int, int], set[tuple[str, int]]] = {}
        self._voided: dict[tuple[str, Row], int] = {}
        self.dropped: set[Row] = set()
        self.purged: set[Row] = set()
        self._held: dict[str, dict[Row, Key]] = {}
        self._vectors: dict[str, dict[str, int]] = {}
        self._genesis: dict[str, str] = {}
        self._forgiven: dict[str, dict[str, int]] = {}
        self.on_moved: Callable[[Machine], None] = lambda machine: None
        self._rosters: dict[tuple[str, int], str] = {}  # stamp -> whose roster it is
        self._lines: dict[tuple[str, int], tuple[str, int]] = {}  # a roster's stamp -> that of what it goes back to
        self._sizes: dict[str, list[tuple[float, int]]] = {}  # when a cluster's roster was written, and of how many
        self._now = now
        self._fail = fail
        self._moment = moment

    def vector(self, node: str) -> dict[str, int]:
        """What a machine's disk claims."""
        return self._vectors.get(node, {})

    def holders(self, task: str) -> int:
        """How many disks have this task."""
        return len(self.who_has(task))

    def who_has(self, task: str) -> frozenset[str]:
        """The machines whose disks have this task, or had it and dropped its tombstone."""
        row = ("tasks", task)
        if row in self.dropped:
            return frozenset(self._held)
        return frozenset(node for node, rows in self._held.items() if row in rows)

    def line(self, writer: str, seq: int) -> tuple[str, int]:
        """What the roster with this stamp goes back to: two people may each have made one copy the cluster."""
        return self._lines.get((writer, seq), (writer, seq))

    def least_majority(self, cluster: str, since_s: float) -> int:
        """The majority of the smallest roster of a cluster that counted at any time since then; 0 if it is unknown."""
        sizes = self._sizes.get(cluster, [])
        place = max((at for at, (when_s, _) in enumerate(sizes) if when_s <= since_s), default=0)
        return majority(min(size for _, size in sizes[place:])) if sizes else 0

    # -- after each transaction --------------------------------------------------------------------------

    def look(self, machine: Machine) -> None:
        """Takes up what the last transaction changed on this machine's disk."""
        disk = machine.disk
        touched, disk.touched = disk.touched, []
        if machine.node not in self._held:
            self._begin(machine)
        held = self._held[machine.node]
        moved = self._has_moved(machine, touched)
        moments = dict.fromkeys(self._take(machine, held, touched, moved=moved))
        vector = feed.read_vector(disk.queue)
        if vector != self._vectors.get(machine.node):
            self._look_at_vector(machine, held, vector)
            self._vectors[machine.node] = vector
        for moment in moments:
            self._moment(machine, moment)

    def _begin(self, machine: Machine) -> None:
        """What is on its disk when it is looked at first: nothing, or what another node had."""
        tables = [table for table, _, _ in WATCHED]
        versions = ((table, machine.disk.versions(table)) for table in tables) if machine.disk.genesis() else ()
        self._held[machine.node] = {(table, row): key for table, rows in versions for row, key in rows.items()}
        self._vectors[machine.node] = feed.read_vector(machine.disk.queue)
        self._genesis[machine.node] = machine.disk.genesis()

    def _has_moved(self, machine: Machine, touched: list[Touched]) -> bool:
        """Whether it belongs to another cluster now: then its rows begin anew there."""
        if not any(each.table == "roster" for each in touched):
            return False
        before, now = self._genesis.get(machine.node, ""), machine.disk.genesis()
        self._genesis[machine.node] = now
        if not before or before == now:
            return False
        self._forgiven[machine.node] = feed.read_vector(machine.disk.queue)
        self.on_moved(machine)
        return True

    def _take(self, machine: Machine, held: dict[Row, Key], touched: list[Touched], *, moved: bool) -> list[str]:
        by_row: dict[Row, list[Touched]] = {}
        for each in touched:
            by_row.setdefault((each.table, each.row), []).append(each)
        here = self._present(machine, by_row)
        moments: list[str] = []
        # Values last: whether one may go depends on its task.
        for row, changes in sorted(by_row.items(), key=lambda entry: entry[0][0] == "payloads"):
            present, before = here.get(row), held.get(row)
            if present is None:
                self._gone(machine, row, before, moved=moved)
                held.pop(row, None)
                continue
            if before is not None and present < before and not moved:
                self._fail(f"{row[0]} {row[1][-8:]} went back on {machine.name}: {before} to {present}")
            held[row] = present
            kept = _kept(changes, present)
            for each in kept:
                if not moved and each.old is not None and each.new is not None and not each.new > each.old:
                    self._fail(f"{each.table} {each.row[-8:]} went back on {machine.name}: {each.old} to {each.new}")
            moments += [self._stamped(machine, row, change) for change in kept]
        return [moment for moment in moments if moment]

    @staticmethod
    def _present(machine: Machine, rows: dict[Row, list[Touched]]) -> dict[Row, Key]:
        found: dict[Row, Key] = {}
        for table in dict.fromkeys(table for table, _ in rows):
            names = [name for of, name in rows if of == table]
            for start in range(0, len(names), CHUNK):
                versions = machine.disk.versions(table, names[start : start + CHUNK])
                found.update(((table, name), key) for name, key in versions.items())
        return found

    def _stamped(self, machine: Machine, row: Row, change: Touched) -> str:
        """Books a version that is on this disk now; what happened, if this machine wrote it itself."""
        key = change.new or ()
        writer, seq = key[-2:]
        if "/clash/" in row[1] or not writer:
            return ""  # an outcome that lost keeps its stamp under a name of its own; nobody writes a dissolved roster
        known = self.stamps.get((writer, seq))
        if writer != machine.node:
            self._voided[machine.node, row] = self._voided.get((machine.node, row), 0) + 1
        elif change.state == State.RUNNING:
            given = (writer, self._voided.get((writer, row), 0))
            self.givers.setdefault((row[1], key[2], change.attempt), set()).add(given)
        if known is not None and known != (row, key) and (row, key) != (known[0], _dissolved(*known)):
            self._fail(
                f"{machine.name} holds {key} of {row[1][-8:]}, but that stamp is {known[1]} of {known[0][1][-8:]}"
            )
        if writer != machine.node:
            if known is None:
                self._fail(f"{machine.name} holds {key} of {row[1][-8:]}, which its writer never had")
            return ""
        if known is None:
            self.stamps[writer, seq] = (row, key)
            if row[0] == "roster":
                self._lines[writer, seq] = self._line(change)
                genesis = self._rosters[writer, seq] = machine.disk.genesis()
                self._sizes.setdefault(genesis, []).append((self._now(), machine.disk.roster_size()))
        if change.state == State.PURGED:
            self.purged.add(row)
        if row[0] != "tasks":
            return {"roster": "roster"}.get(row[0], "value")
        if change.state in FINISHED:
            return "finish"
        first = "submit" if change.old is None else "wait"
        return {State.RUNNING: "claim", State.PURGED: "purge"}.get(State(change.state), first)

    def _line(self, change: Touched) -> tuple[str, int]:
        """The stamp of the roster that it goes back to: of the founding, or of a copy that was made the cluster."""
        assert change.new is not None
        old, new = change.old, change.new
        if old is None or old[0] < new[0]:
            return new[-2:]
        return self._lines.get(old[-2:], old[-2:])

    def _gone(self, machine: Machine, row: Row, before: Key | None, *, moved: bool) -> None:
        """A row is not there any more: a tombstone was dropped, or what nobody else has was set aside."""
        if before is None or moved:
            return
        if row[0] == "tasks":
            if before[0] == 2:
                self.dropped.add(row)
                return
            if machine.disk.rows("SELECT 1 FROM held WHERE id = ?", (row[1],)):
                return
        elif row[0] == "payloads" and self._is_over(machine, row[1]):
            self.dropped.add(row)
            return
        self._fail(f"{row[0]} {row[1][-8:]} vanished from {machine.name}: {before}")

    def _is_over(self, machine: Machine, ref: str) -> bool:
        """Whether nobody needs this value any more: its task was purged, or is finished where a run kept it."""
        key = self._held.get(machine.node, {}).get(("tasks", ref.split("/")[0]))
        return key is None or key[0] == 2 or (key[0] == 1 and ref.endswith(values.CHECKPOINT))

    # -- vectors -----------------------------------------------------------------------------------------

    def _look_at_vector(self, machine: Machine, held: dict[Row, Key], vector: dict[str, int]) -> None:
        known = self._vectors.get(machine.node, {})
        forgiven = self._forgiven.get(machine.node, {})
        for writer, seq in vector.items():
            first = max(known.get(writer, 0), forgiven.get(writer, 0)) + 1
            for each in range(first, seq + 1):
                stamped = self.stamps.get((writer, each))
                if self._rosters.get((writer, each), machine.disk.genesis()) != machine.disk.genesis():
                    continue  # the roster of a cluster that became part of another one
                if stamped is not None and not self._is_there(held, *stamped):
                    row, key = stamped
                    self._fail(
                        f"{machine.name} claims {writer[-4:]}:{each} of {row[0]} {row[1][-8:]}, which is {key}, "
                        f"but has {held.get(row)}"
                    )

    def _is_there(self, held: dict[Row, Key], row: Row, key: Key) -> bool:
        here = held.get(row)
        if here is not None and here >= min(key, _dissolved(row, key)):
            return True
        return row in self.dropped or _came_late(held, row)


def _came_late(held: dict[Row, Key], row: Row) -> bool:
    """Whether this is what a run kept, and came with the end of its task: it was gone before anybody saw it here."""
    task = held.get(("tasks", row[1].split("/")[0]))
    return row[0] == "payloads" and row[1].endswith(values.CHECKPOINT) and task is not None and task[0] > 0


def _dissolved(row: Row, key: Key) -> Key:
    """What becomes of a version when its cluster becomes part of another one."""
    return {"tasks": (key[0], 0, 0, *key[3:]), "payloads": (0, *key[1:])}.get(row[0], key)


def _kept(changes: list[Touched], present: Key) -> list[Touched]:
    """The versions up to the one that is there: what came after it was rolled back."""
    for place in range(len(changes) - 1, -1, -1):
        if changes[place].new == present:
            return [change for change in changes[: place + 1] if change.new is not None]
    return []
