"""Fixtures for tests with real daemons; where no network can be made they skip with the reason, or fail in CI."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.cluster.daemon import Cluster, Daemon
from tests.cluster.net import Net, why_not

MakeNet = Callable[..., Net]
MakeCluster = Callable[..., Cluster]

_trouble = cache(why_not)
_LOGS = pytest.StashKey[list[Cluster]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks everything here."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the ends of the daemons' logs to a failure's report."""
    report = yield
    if report.failed:
        for cluster in item.stash.get(_LOGS, []):
            report.sections.append(("Daemons", cluster.tails()))
    return report


@pytest.fixture
def make_net() -> Iterator[MakeNet]:
    """Makes nets; they are gone after the test."""
    if trouble := _trouble():
        # What is skipped in CI would never be seen to fail.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(trouble)
    with ExitStack() as stack:
        yield lambda count, **options: stack.enter_context(Net(count, **options))


@pytest.fixture
def cluster(make_net: MakeNet, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeCluster]:
    """Makes and starts daemons on a net of their own; the first has the lowest id. All are ended after the test.

    Args of what it returns: `count`; `options` for each `meshq up`; `each`, more options by daemon; `multicast`;
    `settings` that differ from the defaults; `spare`, how many more daemons there are, for `start_next` to start.
    """
    made: list[Cluster] = []
    request.node.stash[_LOGS] = made

    def make(
        count: int,
        *,
        options: Sequence[str] = ("--slots", "1"),
        each: Callable[[Net, int], Sequence[str]] = lambda net, index: (),
        multicast: bool = True,
        settings: Mapping[str, object] | None = None,
        spare: int = 0,
    ) -> Cluster:
        net = make_net(count + spare, multicast=multicast)
        daemons = [
            Daemon(net, index, tmp_path, [*options, *each(net, index)], settings) for index in range(count + spare)
        ]
        made.append(Cluster(net, daemons))
        made[-1].start(count)
        return made[-1]

    yield make
    for one in made:
        one.end()
