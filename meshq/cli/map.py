"""`meshq map`: one task for each item."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import islice
from typing import Any

import click

from meshq.cli import items, render
from meshq.cli.arguments import TaskCommand, task_arguments
from meshq.cli.common import Local, client_options, note, on_interrupt
from meshq.cli.items import Items
from meshq.cli.progress import Bar
from meshq.cli.submitting import task_options
from meshq.client import waiting
from meshq.client.aio import AHEAD, AsyncClient
from meshq.client.options import Options, new_ids
from meshq.client.record import Record
from meshq.core import signature
from meshq.core.ids import short
from meshq.core.limits import BATCH_TASKS_MAX
from meshq.core.task import State
from meshq.errors import BadArguments, NoLeader
from meshq.wire import values

# Of so many failures the reason is told; of the others `meshq tasks --failed` has it.
TOLD_MAX = 10


@click.command("map", cls=TaskCommand)
@task_options
@click.option("--over", required=True, metavar="A..B|FILE|-", help="The items: a range, or a file's or stdin's lines.")
@click.option("--in-order", is_flag=True, help="Print the results in the items' order, not as they come.")
@client_options
def map_over(local: Local, name: str, arguments: tuple[str, ...], options: Options, over: str, in_order: bool) -> int:
    """Submit a task for each item of a range or a file; print the results.

    The item is the first argument of its task; ARGS follow it. A line of a file is read as JSON, else as a text; empty
    ones are left out; a bad one is named, and nothing is queued. Each result is a line of JSON; with --json it is an
    object with the item as `over`, and failed tasks are among them. With --in-order a failed one leaves `null`.

    \b
    Examples:
      meshq map primes --over 1..1000
      meshq map primes --over limits.txt --in-order algorithm=trial_division
      ls *.jpg | meshq map thumbnail --over - --batch photos --retries 2 size=200
    """
    if options.keep_s == 0:
        raise click.UsageError("the results are printed, so they can't be forgotten at once: --forget is for submit")
    if options.key is not None:
        raise click.UsageError("--key would make one task of all items")
    args, kwargs = task_arguments(arguments)
    work = _Map(
        local, name, args, kwargs, replace(options, batch=options.batch or f"map-{new_ids(1)[0][-12:]}"), in_order
    )
    return asyncio.run(work.run(items.read(over)))


class _Map:
    def __init__(
        self, local: Local, name: str, args: list[Any], kwargs: dict[str, Any], options: Options, in_order: bool
    ) -> None:
        self._local, self._name, self._options, self._in_order = local, name, options, in_order
        self._args, self._kwargs = args, kwargs
        self._open: dict[str, Any] = {}
        self._failed = 0

    async def run(self, items: Items) -> int:
        async with self._local.client() as client:
            await self._check(client, items)
            bar = Bar(render.line(self._name), len(items))
            try:
                found = waiting.found(client.ask, self._submitted(client, items), AHEAD, None, in_order=self._in_order)
                async with aclosing(found):
                    async for records in found:
                        bar.step("\n".join(self._lines(records)), len(records))
            finally:
                bar.close()
        if self._failed:
            listed = f"meshq tasks --failed --batch {self._options.batch}"
            note(f"meshq map: {self._failed} of {len(items)} tasks failed; see: {listed}")
        return 1 if self._failed else 0

    async def _check(self, client: AsyncClient, items: Items) -> None:
        """What could be refused later on is refused now, with the line, before anything is queued."""
        if not items.lines:
            return
        try:
            known = {each.info.name: each.info for each in (await client.names()).names}
        except NoLeader:
            # The tasks wait for one, and are not checked before.
            return
        info = known.get(self._name)
        if info is None:
            return
        for line, item in zip(items.lines, items, strict=True):
            try:
                signature.check(info, [item, *self._args], self._kwargs)
            except BadArguments as error:
                raise BadArguments(f"{items.where(line)}: {error.message}; nothing was queued") from error

    async def _submitted(self, client: AsyncClient, items: Items) -> AsyncGenerator[list[str], None]:
        left: Iterator[Any] = iter(items)
        batch = f"--batch {self._options.batch}"
        goes_on = f"; the tasks go on, see: meshq tasks {batch} (meshq cancel {batch} ends them)"
        while part := list(islice(left, BATCH_TASKS_MAX)):
            calls = [[item, *self._args] for item in part]
            handles = await client.with_options(self._options).submit_many(self._name, calls, **self._kwargs)
            ids = [handle.id for handle in handles]
            self._open.update(zip(ids, part, strict=True))
            on_interrupt(goes_on)
            yield ids

    def _lines(self, records: Sequence[Record]) -> Iterator[str]:
        for record in records:
            item = self._open.pop(record.id)
            failed = record.state != State.DONE
            self._failed += failed
            if self._local.as_json:
                yield values.dumps({"over": values.to_json(item)} | render.record_map(record))
            elif not failed:
                yield values.dumps(values.to_json(record.result))
            elif self._in_order:
                yield "null"
            if failed and self._failed <= TOLD_MAX and not self._local.as_json:
                said = render.line(f"{values.dumps(values.to_json(item)):.60}: {record.reason}")
                note(f"meshq map: {short(record.id)} {said}")
