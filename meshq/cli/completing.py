"""What the shell's completion offers beside commands and options: names, ids and nodes that a daemon tells quickly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshq.cli import common, render
from meshq.core.ids import short
from meshq.errors import MeshqError

if TYPE_CHECKING:
    from meshq.client.aio import AsyncClient

Found = list[tuple[str, str]]

ANSWER_S = 1.0
RECENT_TASKS = 20


def names(ctx: click.Context, _: click.Parameter, begun: str) -> list[Any]:
    """Names of tasks that can be submitted."""

    async def asked(client: AsyncClient) -> Found:
        return [(each.info.name, render.line(each.info.doc)) for each in (await client.names()).names]

    return _offered(ctx, begun, asked)


def ids(ctx: click.Context, _: click.Parameter, begun: str) -> list[Any]:
    """The newest tasks."""

    async def asked(client: AsyncClient) -> Found:
        found = client.tasks(limit=RECENT_TASKS)
        return [(short(each.id), f"{render.line(each.name)}, {each.state}") async for each in found]

    return _offered(ctx, begun, asked)


def batches(ctx: click.Context, _: click.Parameter, begun: str) -> list[Any]:
    """The batches of the newest tasks."""

    async def asked(client: AsyncClient) -> Found:
        found = [each.batch async for each in client.tasks(limit=RECENT_TASKS)]
        return [(batch, "") for batch in dict.fromkeys(found) if batch is not None]

    return _offered(ctx, begun, asked)


def nodes(ctx: click.Context, _: click.Parameter, begun: str) -> list[Any]:
    """The nodes, by their names where these are unique."""

    async def asked(client: AsyncClient) -> Found:
        found = (await client.status()).nodes
        called = [each.name for each in found]
        return [
            (each.name if called.count(each.name) == 1 else short(each.id), f"{each.role}, {short(each.id)}")
            for each in found
        ]

    return _offered(ctx, begun, asked)


def _offered(ctx: click.Context, begun: str, asked: Callable[[AsyncClient], Awaitable[Found]]) -> list[Any]:
    from click.shell_completion import CompletionItem

    try:
        found = asyncio.run(_asked(_local(ctx), asked))
    except (MeshqError, TimeoutError):
        # Whoever only presses a key wants no error for it.
        return []
    fit: Iterable[tuple[str, str]] = ((text, told) for text, told in found if text.startswith(begun))
    return [CompletionItem(text, help=told or None) for text, told in fit]


async def _asked(local: common.Local, asked: Callable[[AsyncClient], Awaitable[Found]]) -> Found:
    async with asyncio.timeout(ANSWER_S), local.client(patience_s=ANSWER_S) as client:
        return await asked(client)


def _local(ctx: click.Context) -> common.Local:
    """The daemon that the line means, as far as it is typed."""
    given = ctx.params
    data_dir, credential = given.get("data_dir"), given.get("credential")
    found = common.default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    return common.Local(found, ANSWER_S, True, given.get("to"), None if credential is None else Path(credential))
