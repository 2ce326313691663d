"""What tests of the cluster's commands share: a twin of three nodes, and what a terminal shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.cells import cell_len

from meshq.core.reports import MergeReport
from tests.unit.client_twin import NODE, Twin

BETA = replace(NODE, id="b" * 24 + "3c6df59e", name="beta", role="replica", heard_s=300.0)
GAMMA = replace(NODE, id="c" * 24 + "b65caece", name="gamma", role="replica", heard_s=None)
COUNTS = {"pending": 3, "running": 1, "done": 30, "failed": 2, "cancelled": 1}
MERGE = MergeReport(at_ms=0, node=BETA.id, merged=37, twice=2, differed=1, held=0)


@contextmanager
def three_nodes(tmp_path: Path) -> Iterator[Twin]:
    """A daemon's twin that knows two more nodes."""
    with Twin().serving(tmp_path) as twin:
        twin.status = replace(twin.status, nodes=(NODE, BETA, GAMMA), tasks=COUNTS)
        yield twin


def lines(out: str) -> list[str]:
    """What a terminal of 80 columns shows; without colours, since nobody looks."""
    assert "\x1b" not in out
    assert max(map(cell_len, out.splitlines())) <= 80
    return out.splitlines()


def flat(out: str) -> str:
    """The same as one line, wherever it was broken."""
    return re.sub(r"\s+", " ", " ".join(lines(out)))
