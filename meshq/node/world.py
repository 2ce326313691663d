"""Everything outside of a node that it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from meshq.core.infos import TaskInfo
from meshq.core.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION
from meshq.core.ports import Clock, Pool, TaskLogs, Transport
from meshq.core.reports import Event
from meshq.node.counters import Counters
from meshq.node.keyring import Keyring
from meshq.store.database import BaseDatabase
from meshq.store.outbox import Outbox
from meshq.store.promise import PromiseStore


def _ignore(reason: str) -> None:
    """For a node that nobody else can reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a node is given; the simulator hands in other parts of the same ports.

    Args:
        clock: Time and chance.
        transport: To the other nodes.
        database: The queue's.
        promises: Where promises go.
        outbox: What waits for a leader.
        pool: What runs tasks; started.
        tasks: The tasks that the pool knows.
        announced: Set when others can find this node.
        told: Where addresses go that other nodes told.
        addresses: Where this node can be reached, as of now.
        address_of: Where another node was last reached; None if this node never reached it.
        pid: This process.
        counters: Where everything is counted that was refused, dropped or went wrong.
        version, oldest: The newest and the oldest protocol version that this node speaks.
        copied: Told that the database is a copy of another node's, and why: this life is over, and so is its id.
        reborn: Told that this life is over and another one of the same node has to begin, and why.
        recent: What this node told people lately.
        keyring: Its keys; None where it talks to nobody, or in another way.
        logs: What its tasks printed; None where nobody keeps that.
    """

    clock: Clock
    transport: Transport
    database: BaseDatabase
    promises: PromiseStore
    outbox: Outbox
    pool: Pool
    tasks: tuple[TaskInfo, ...]
    announced: asyncio.Event
    told: Callable[[str, tuple[str, ...]], None]
    addresses: Callable[[], tuple[str, ...]]
    address_of: Callable[[str], str | None]
    pid: int
    counters: Counters = field(default_factory=Counters)
    version: int = PROTOCOL_VERSION
    oldest: int = PROTOCOL_OLDEST
    copied: Callable[[str], None] = _ignore
    reborn: Callable[[str], None] = _ignore
    recent: Callable[[], tuple[Event, ...]] = tuple
    keyring: Keyring | None = None
    logs: TaskLogs | None = None
