"""What comes home: rows that others hold and this leader lacks, of a dead leader or of a part that was cut off."""

from __future__ import annotations

from meshq.core.ids import short
from meshq.core.ports import Clock
from meshq.core.reports import MergeReport
from meshq.core.split import Term
from meshq.errors import MeshqError
from meshq.node import journal
from meshq.node.counters import Counters
from meshq.node.dispatcher import Dispatcher
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.node.tally import Tally
from meshq.store import feed


class Homecoming:
    """Brings home, under one leadership, and reports what came of it.

    Args:
        term: The leadership.
        replicator: Knows who holds more, pulls and writes.
        dispatcher: Is told which tasks changed under it.
        peers: Names.
        clock: The wall clock.
        counters: Where failed pulls are counted.
    """

    def __init__(
        self,
        term: Term,
        replicator: Replicator,
        dispatcher: Dispatcher,
        peers: Peers,
        clock: Clock,
        counters: Counters,
    ) -> None:
        self._term = term
        self._replicator = replicator
        self._dispatcher = dispatcher
        self._peers = peers
        self._clock = clock
        self._counters = counters

    async def run(self) -> None:
        """Pulls from whoever shows something that this leader lacks, until it is cancelled."""
        replicator = self._replicator
        while True:
            count = replicator.lacks.count
            if not replicator.lacking:
                await replicator.lacks.after(count)
                continue
            node = next(iter(replicator.lacking))
            del replicator.lacking[node]
            try:
                tally = await replicator.fetch(node)
            except MeshqError as error:
                # It shows what it holds again with its next pull.
                self._counters.add("fetch_failed", f"{node}: {error}")
                continue
            self._dispatcher.merged(tally.tasks)
            await self.report(node, tally)

    async def report(self, node: str, tally: Tally) -> None:
        """Says what came home from a node, and keeps that with the queue."""
        if not (tally.tasks or tally.twice or tally.held):
            return
        at_ms = self._clock.wall_ms()
        merged = len(set(tally.tasks))
        found = MergeReport(
            at_ms=at_ms, node=node, merged=merged, twice=tally.twice, differed=tally.differed, held=tally.held
        )
        journal.tell("merged", told(found, self._peers.name_of(node)), node=node, tasks=merged)
        key = f"{at_ms:013d}-{short(node)}"
        await self._replicator.write(self._term, lambda conn, pen: feed.write_report(conn, pen, found, key))


def told(report: MergeReport, name: str) -> str:
    """The report as one line."""
    differed = f", {report.differed} of them differently" if report.differed else ""
    held = f", {report.held} too old to be judged are held" if report.held else ""
    tasks = f"{report.merged} task{'s'[: report.merged != 1]}"
    return f"merged {tasks} from {name}: {report.twice} ran twice{differed}, 0 lost{held}"
