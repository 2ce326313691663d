"""The client for asyncio: submits tasks through one daemon, and waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack

from meshq.client import waiting, ways
from meshq.client.asking import path_of
from meshq.client.connection import Connection
from meshq.client.handle import Batch, Handle
from meshq.client.options import Options, Words, new_ids
from meshq.client.record import Record
from meshq.client.sending import KEPT_PER_S, Form, batches, may_take, pulled
from meshq.client.watching import Watching
from meshq.core.requests import Submitted
from meshq.errors import Malformed, MeshqError, NoAnswer, NotFound, TooLarge
from meshq.wire import values

# `map` submits the next tasks when no more than this many are unfinished.
AHEAD = 5_000

Call = tuple[Sequence[Any], Mapping[str, Any]]


class AsyncClient(Watching):
    """Talks to the daemon on this machine, or to one elsewhere. Open it with `async with`, or `close()` it at the end.

    Args:
        data_dir: The local daemon's data directory; None for the default.
        connect_timeout_s: Seconds without an answer after which there is no daemon.
        to: `HOST:PORT` of a daemon elsewhere; None for the local one.
        key: The key of its cluster; None for that in `MESHQ_KEY`, or in the data directory.
        credential: A credential's text, in place of the key.

    Raises:
        ConfigError: `to` is no address, or there is nothing to prove oneself with. BadKey: That is of no use.
    """

    def __init__(
        self,
        data_dir: Path | str | None = None,
        *,
        connect_timeout_s: float = 10.0,
        to: str | None = None,
        key: str | None = None,
        credential: str | None = None,
    ) -> None:
        way = ways.find(data_dir, to=to, key=key, credential=credential)
        super().__init__(Connection(way, connect_timeout_s))
        self._options = Options()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._connection.close()

    def options(self, **words: Unpack[Words]) -> AsyncClient:
        """This client, on the same connections, with these options, and no others, for what it submits.

        Args:
            words: priority, delay_s, at, timeout_s, retries, backoff, backoff_s, key, max_running, keep_s, forget,
                batch; see `Options`.
        """
        return self.with_options(Options(**words))

    def with_options(self, options: Options) -> AsyncClient:
        """The same, with options that are there already."""
        other = copy(self)
        other._options = options
        return other

    async def submit(self, name: str, /, *args: Any, **kwargs: Any) -> Handle:
        """Submits a task; returns when the cluster keeps it.

        Args:
            name: The task's name.
            args, kwargs: Its arguments: JSON's values, bytes, tuples, sets, datetimes, integers of any size.

        Raises:
            UnknownTask, BadArguments: The cluster knows no such task, or it takes other arguments.
            Malformed: An option is wrong; it says which, and what is allowed.
            NoDaemon: No daemon answers.
            NoAnswer: It gave none, and may take the task all the same.
        """
        return (await self._submit(name, [(args, kwargs)], self._options))[0]

    async def submit_many(self, name: str, arguments: Iterable[Sequence[Any]], /, **kwargs: Any) -> Batch:
        """Submits one task for each sequence of arguments, with few requests: one, up to 100,000 small ones.

        Args:
            name: The tasks' name.
            arguments: The positional arguments of each.
            kwargs: The keyword arguments of all.

        Returns:
            Their handles, as a batch; it has the name in the option `batch`, or one of its own.

        Raises:
            UnknownTask, BadArguments: As for `submit`; it says how many were kept before.
            Malformed: An option is wrong; a key is none for several tasks.
        """
        calls = [(tuple(args), kwargs) for args in arguments]
        options = self._for_many() if len(calls) > 1 else self._batched(new_ids(1)[0])
        handles = await self._submit(name, calls, options)
        return Batch(self, options.batch or "", handles)

    async def submit_packed(
        self, name: str, payloads: Sequence[bytes], ids: Sequence[str], batch: str | None = None
    ) -> list[Handle]:
        """The same for arguments that are packed, and with ids of one's own: whoever sends one twice makes one task.

        Args:
            name: The tasks' name.
            payloads: What `values.pack_arguments` makes of the arguments of each.
            ids: An id for each, as `new_ids` makes them.
            batch: Their batch; None for that of the options, if any.
        """
        return await self._send_all(name, payloads, self._batched(batch), ids)

    async def batch(self, name: str) -> Batch:
        """The tasks of a batch, in the order in which they were submitted.

        Args:
            name: What it is called.

        Raises:
            NotFound: There are none.
        """
        records = [record async for record in self.tasks(batch=name)]
        if not records:
            raise NotFound(f"there are no tasks of the batch {name}")
        return Batch.found(self, name, records[::-1])

    async def map(
        self,
        name: str,
        /,
        *iterables: Iterable[Any],
        timeout_s: float | None = None,
        in_order: bool = True,
        cancel_rest: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """The results of one task for each item; tasks are submitted as it goes on, up to 100,000 with one request.

        Args:
            name: The tasks' name.
            iterables: As for the built-in `map`: their items side by side are the arguments.
            timeout_s: Seconds until all are finished; None: however long it takes.
            in_order: Whether the results come in the items' order; else as they come.
            cancel_rest: Whether all tasks of the batch that are not finished are called off where this ends early: it
                was left, a task failed, or the time is over. Else they go on in the cluster.

        Raises:
            TaskFailed: The next one has no result.
            WaitTimeout: They are not finished by then.
        """
        found = self.map_records(name, *iterables, timeout_s=timeout_s, in_order=in_order, cancel_rest=cancel_rest)
        async with aclosing(found):
            async for record in found:
                yield record.value()

    async def map_records(
        self,
        name: str,
        /,
        *iterables: Iterable[Any],
        timeout_s: float | None = None,
        in_order: bool = True,
        cancel_rest: bool = False,
    ) -> AsyncGenerator[Record, None]:
        """The same, as records, with the tasks that failed among them."""
        calls, clock = zip(*iterables, strict=False), asyncio.get_running_loop().time

        async def called() -> AsyncGenerator[list[tuple[Any, ...]], None]:
            while batch := pulled(calls, clock):
                yield batch

        found = self.map_parts(name, called(), timeout_s, in_order=in_order, cancel_rest=cancel_rest)
        async with aclosing(found):
            async for records in found:
                for record in records:
                    yield record

    async def map_parts(
        self,
        name: str,
        calls: AsyncIterator[list[tuple[Any, ...]]],
        timeout_s: float | None,
        *,
        in_order: bool = True,
        cancel_rest: bool = False,
    ) -> AsyncGenerator[list[Record], None]:
        """The same, some records at a time, for arguments that come in parts, each of which is submitted at once."""
        options, sent = self._for_many(), False

        async def submitted() -> AsyncGenerator[list[str], None]:
            nonlocal sent
            async for batch in calls:
                sent = True
                yield [handle.id for handle in await self._submit(name, [(args, {}) for args in batch], options)]

        found = waiting.found(self.ask, submitted(), AHEAD, timeout_s, in_order=in_order)
        whole = False
        try:
            async with aclosing(found):
                async for records in found:
                    yield records
            whole = True
        finally:
            if cancel_rest and sent and not whole:
                await self.cancel_batch(options.batch or "")

    async def retry(self, task: Handle | str) -> Handle:
        """Submits a finished task anew; the new one names the old one as `retry_of`.

        Raises:
            Conflict: It is not finished, or its arguments were purged.
        """
        # A second request would make a second task.
        path = f"{path_of(task)}/retry"
        answer = await self._connection.call("POST", path, Submitted, repeatable=False, new_work=True)
        return self._handles(answer)[0]

    async def retry_failed(self, batch: str | None = None) -> list[Handle]:
        """Submits anew the tasks that failed and were not tried again since.

        Args:
            batch: Only those of this batch; None for all.

        Returns:
            The new tasks; none where none failed.

        Raises:
            NotFound: There is no such batch.
        """
        params = None if batch is None else {"batch": batch}
        answer = await self._connection.call(
            "POST", "/retry-failed", Submitted, params=params, repeatable=False, new_work=True
        )
        return self._handles(answer)

    def _batched(self, batch: str | None) -> Options:
        """The options, with this batch, unless they have one."""
        return self._options if self._options.batch is not None else replace(self._options, batch=batch)

    def _for_many(self) -> Options:
        """The options for several tasks, which are a batch."""
        if self._options.key is not None:
            raise Malformed("key: would make one task of all of them")
        return self._batched(new_ids(1)[0])

    async def _submit(self, name: str, calls: Sequence[Call], options: Options) -> list[Handle]:
        # All are packed before the first is sent: a value that can't travel stops everything.
        return await self._send_all(name, [values.pack_arguments(args, kwargs) for args, kwargs in calls], options)

    async def _send_all(
        self, name: str, payloads: Sequence[bytes], options: Options, ids: Sequence[str] | None = None
    ) -> list[Handle]:
        given = options.given()
        tasks: list[Form] = [
            {"id": task_id, "name": name, "payload": payload, **given}
            for task_id, payload in zip(ids or new_ids(len(payloads)), payloads, strict=True)
        ]
        kept: list[Handle] = []
        try:
            for batch in batches(tasks):
                await self._send(batch, kept)
        except MeshqError as error:
            if kept:
                error.append(f"; before that, the first {len(kept)} of {len(tasks)} tasks were kept")
            raise
        return kept

    async def _send(self, tasks: Sequence[Form], kept: list[Handle]) -> None:
        body = {"tasks": list(tasks)}
        try:
            answer = await self._connection.call(
                "POST", "/submit-task", Submitted, body=body, new_work=True, wait_s=len(tasks) // KEPT_PER_S
            )
        except TooLarge:
            if len(tasks) == 1:
                raise
            half = len(tasks) // 2
            await self._send(tasks[:half], kept)
            await self._send(tasks[half:], kept)
            return
        except NoAnswer as error:
            error.append(f"; {may_take([task['id'] for task in tasks])}")
            raise
        except Malformed as error:
            if len(tasks) == 1:
                raise Malformed(error.message.removeprefix("tasks[0].")) from error
            raise
        kept += self._handles(answer)

    def _handles(self, answer: Submitted) -> list[Handle]:
        return [
            Handle(id=task, copies=answer.copies, majority=answer.majority, queued=answer.queued, client=self)
            for task in answer.ids
        ]
