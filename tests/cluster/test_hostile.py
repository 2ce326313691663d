"""A short attack on a cluster at work; the long one is run by hand: `python -m tests.fuzz.hostile`."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.conftest import MakeCluster
from tests.cluster.load import OPTIONS
from tests.fuzz import hostile


def test_hostile_requests_stop_no_daemon_and_harm_no_task(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS, settings=hostile.SETTINGS, spare=1)
    report = hostile.attack(three, tmp_path, requests=1000, seed=7)
    print(hostile.table(report))
    assert report.wrong == []
    assert {who for who, seen in report.seen.items() if sum(seen.values()) > 20} == {
        "holder of the key", "bearer of a credential", "Unix socket", "node, on links", "stranger",
        "holder of another key",
    }  # fmt: skip
    for who in ("stranger", "holder of another key"):
        assert report.seen[who].keys() <= {"hung up", "left half-way", "not let in"}
    assert max(map(len, hostile.table(report).splitlines())) <= hostile.COLUMNS
