"""A server that lets callers in for as long as a test takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshq.wire.server import Server


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    """Starts and ends it."""
    await server.start()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        try:
            yield server
        finally:
            await server.close()
            running.cancel()
