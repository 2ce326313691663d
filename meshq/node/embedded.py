"""The embedded node of `meshq run`: a whole daemon for one command, which nobody else can reach."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from meshq.config import Config
from meshq.node.daemon import Daemon

# Nobody else is there to be looked for, or to be handed anything.
ALONE = {"found_wait_s": 0.01, "drain_s": 0.1, "mdns": False, "seeds": (), "replica": "auto"}
LEADS_S = 10.0


@asynccontextmanager
async def embedded(config: Config) -> AsyncIterator[Path]:
    """A node with a data directory of its own, which is gone afterwards; never a cluster's.

    Args:
        config: Slots, tasks and limits are taken from it.

    Yields:
        The data directory, whose socket answers; the node leads, so that what is wrong with a task is said at once.
    """
    with tempfile.TemporaryDirectory(prefix="meshq-") as folder:
        data_dir = Path(folder)
        daemon = Daemon(msgspec.structs.replace(config, **ALONE), data_dir, alone=True)
        running = asyncio.ensure_future(daemon.run())
        ready = asyncio.ensure_future(_leads(daemon))
        try:
            await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                yield data_dir
        finally:
            ready.cancel()
            if not daemon.ready.is_set():
                # It loads somebody's module, which may take for ever; there is nothing to stop in stages yet.
                running.cancel()
            daemon.stop_asked.set()
            await running


async def _leads(daemon: Daemon) -> None:
    """Returns when the node leads, or has not begun to after a long time: tasks wait in its outbox then."""
    await daemon.ready.wait()
    await daemon.wait_for_leader(LEADS_S)
