"""An event loop in a thread of its own, for whoever has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

from meshq.client.aio import AsyncClient

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="meshq-client", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it there and waits for it here; what ends the wait here ends the work there."""
        if threading.current_thread() is self.thread:
            work.close()
            raise RuntimeError("a Client was called from its own event loop; use AsyncClient there")
        if self.loop.is_closed():
            work.close()
            raise RuntimeError("the Client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def iterate(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Fetches one item after the other there; ends the generator when this one is left."""

        async def step() -> tuple[T, ...]:
            async for item in items:
                return (item,)
            return ()

        try:
            while got := self.run(step()):
                yield got[0]
        finally:
            if not self.loop.is_closed():
                self.run(_ended(items))

    def close(self, client: AsyncClient) -> None:
        """Closes the client, then the loop."""
        if threading.current_thread() is self.thread:
            # The garbage collector came by here; the loop can't wait for itself.
            self.loop.stop()
            return
        asyncio.run_coroutine_threadsafe(_closed(client), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


async def _closed(client: AsyncClient) -> None:
    me = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not me]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await client.close()
    await asyncio.get_running_loop().shutdown_asyncgens()
    await asyncio.get_running_loop().shutdown_default_executor()


async def _ended(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
