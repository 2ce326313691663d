"""What one seed's world is like: its machines and settings, and which kinds of trouble come how often."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from meshq.config import Config
from tests.sim.network import Weather

POLICIES = ("survive", "stop")
NODES = (2, 2, 3, 3, 3, 3, 4, 5, 6)
DRIFTS = (0.0, 0.05, 0.05, 0.13)  # as much as the lease's margin allows, and a little less than that
PACES_S = (0.6, 1.5, 2.5, 4.0)
WEATHERS = (Weather(), Weather(0.02, 0.05, 0.001, 0.02), Weather(0.1, 0.1, 0.001, 0.2), Weather(0.0, 0.0, 0.05, 0.4))
# Each kind of strike, and how often it comes where it comes at all.
KINDS = {
    "crash": 3, "blackout": 1, "pause": 2, "sleep": 2, "stop": 1, "join": 1, "forget": 1,
    "isolate": 2, "halves": 2, "bridge": 1, "one_way": 2, "weather": 1,
    "disk": 2, "slow_disk": 1, "wall": 1, "ambush": 4, "handover": 2,
    "clone": 1, "restore": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """What a seed drew.

    Args:
        nodes: Machines at the beginning.
        config: Their settings.
        drift: By what part their clocks may differ from the true time.
        slots: How many tasks run on each at once.
        clients: How many clients there are.
        pace_s: The mean time between two strikes.
        kinds: Which strikes come, and how often each.
    """

    nodes: int
    config: Config
    drift: float
    slots: int
    clients: int
    pace_s: float
    kinds: dict[str, int]

    def __str__(self) -> str:
        kinds = " ".join(self.kinds)
        return (
            f"{self.nodes} machines of at most {self.config.replicas} replicas, {self.config.without_majority}, "
            f"clocks off by {self.drift:.0%}, a strike each {self.pace_s:g} s: {kinds}"
        )


def draw(seed: int, nodes: int | None = None, policy: str | None = None) -> Swarm:
    """What a seed's world is like; what the caller wants otherwise is not drawn."""
    rng = random.Random(f"swarm {seed}")
    drawn_nodes, drawn_policy = rng.choice(NODES), rng.choice(POLICIES)
    settings: dict[str, Any] = {
        "without_majority": policy or drawn_policy,
        "replicas": rng.choice((3, 5, 5)),
        "handover_after_s": rng.choice((4.0, 30.0)),
        "split_after_s": rng.choice((4.0, 6.0)),
        "cold_after_s": rng.choice((8.0, 30.0)),
        "replace_after_s": rng.choice((20.0, 600.0)),
        "claim_s": rng.choice((20.0, 120.0)),
        "drain_s": rng.choice((0.2, 3.0)),
    }
    share = rng.choice((0.2, 0.4, 0.7))
    kinds = {kind: weight * rng.choice((1, 1, 3)) for kind, weight in KINDS.items() if rng.random() < share}
    return Swarm(
        nodes=nodes or drawn_nodes,
        config=Config(**settings),
        drift=rng.choice(DRIFTS),
        slots=rng.choice((1, 2, 4)),
        clients=rng.choice((2, 3, 4)),
        pace_s=rng.choice(PACES_S),
        kinds=kinds or {"crash": 1},
    )
