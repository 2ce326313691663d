"""Virtual time for tests: the simulator's loop, on which an hour takes as long as what is done in it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.sim.loop import VirtualLoop

Result = TypeVar("Result")


def virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs this on a loop of virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now_s() -> float:
    return asyncio.get_running_loop().time()
