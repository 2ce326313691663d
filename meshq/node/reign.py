"""One leadership: what a leader has and a follower has not."""

from __future__ import annotations

from collections.abc import Mapping

from meshq.config import Config
from meshq.core.ports import Clock
from meshq.core.split import Term
from meshq.node.counters import Counters
from meshq.node.dispatcher import Dispatcher
from meshq.node.elector import Elector
from meshq.node.homecoming import Homecoming
from meshq.node.intake import Intake
from meshq.node.janitor import Janitor
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.node.steward import Steward
from meshq.node.waiters import Waiters


class Reign:
    """The parts of one leadership, each on its own."""

    def __init__(
        self,
        term: Term,
        replicator: Replicator,
        elector: Elector,
        peers: Peers,
        clock: Clock,
        config: Config,
        counters: Counters,
        waiters: Waiters,
        expected: Mapping[str, float],
        after: int,
    ) -> None:
        self.term = term
        self.dispatcher = Dispatcher(term, replicator, clock, config, counters, waiters, expected, after)
        self.intake = Intake(replicator, self.dispatcher, waiters, clock, config)
        self.homecoming = Homecoming(term, replicator, self.dispatcher, peers, clock, counters)
        self.janitor = Janitor(term, replicator, clock, config, counters)
        self.steward = Steward(term, replicator, elector, peers, clock, config)
