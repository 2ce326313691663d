"""The data directory of one life: its databases, open and sound, and the id under which they may be used.

Whatever is found damaged is set aside, never deleted, and made anew. Where the seqs or the promises of a node's id may
be lost, or in use elsewhere too, the id is given up: a new one joins as a learner, with the rows that are there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from meshq.core.ids import short, uuid7
from meshq.core.ports import Clock
from meshq.errors import CorruptDatabase, StoreError
from meshq.node import journal
from meshq.store import files, identity
from meshq.store.database import Connection, Database
from meshq.store.files import OUTBOX_FILE, PROMISE_FILE, QUEUE_FILE
from meshq.store.identity import Noted
from meshq.store.outbox import Outbox
from meshq.store.promise import PromiseStore
from meshq.store.schema import OUTBOX, PROMISE, QUEUE

_KINDS: Final = {QUEUE_FILE: (QUEUE, 2), PROMISE_FILE: (PROMISE, 0), OUTBOX_FILE: (OUTBOX, 1)}
TIME_DIGITS: Final = 12  # of an id, from its beginning
# What each held, and what its loss means.
_MEANINGS: Final = {
    QUEUE_FILE: "this node takes a new id and fetches its copy of the queue anew from the leader. If no other machine "
    "has a copy, what is left can be read out with: sqlite3 {kept} .recover | sqlite3 saved.db, and brought back with: "
    "meshq restore saved.db",
    PROMISE_FILE: "whom this node promised its vote is not known any more, so it takes a new id",
    OUTBOX_FILE: "results and tasks that waited in it for a leader are not delivered: the tasks of such results run "
    "again, and such tasks have to be submitted again. What is left can be read out with: sqlite3 {kept} .recover",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a life of a node ended that is to begin anew.

    Args:
        copied: How it showed that this node's id is not its own any more; empty if it did not.
        damaged: The names of the databases that turned out to be damaged.
        reborn: Why it begins anew under the same id; empty if it need not.
    """

    copied: str = ""
    reborn: str = ""
    damaged: frozenset[str] = field(default_factory=frozenset)

    def __bool__(self) -> bool:
        return bool(self.copied or self.damaged or self.reborn)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What a life of a node has on disk.

    Args:
        node: Its id.
        boot: The id of this life, greater than those of all before it.
        formerly: The id that it had before; empty if it had no other.
        database: The queue's.
        promises: What it promised.
        outbox: What waits for a leader.
    """

    node: str
    boot: str
    formerly: str
    database: Database
    promises: PromiseStore
    outbox: Outbox


@asynccontextmanager
async def move_in(
    data_dir: Path, trouble: Trouble, clock: Clock, new_id: Callable[[], str], on_corrupt: Callable[[str], None]
) -> AsyncIterator[House]:
    """Opens the databases for one life; closes them at its end.

    Args:
        data_dir: Is there, and locked.
        trouble: What ended the life before.
        clock: The wall clock names what is set aside.
        new_id: Makes a node's id.
        on_corrupt: Is called with the name of a database that turns out to be damaged while it is used.

    Raises:
        DiskFull, DiskFailed: It can't be read or written.
        NewerDatabase, StoreError: It belongs to a newer meshq, or to another program. All with the path.
    """
    async with AsyncExitStack() as stack:
        entry = _Entry(data_dir, trouble, clock, on_corrupt, stack)
        house = await entry.enter(new_id)
        yield house
        try:
            await house.database.write(partial(identity.write_running, running=False))
        except StoreError as error:
            journal.warn("not_tidy", f"the next start will look through {QUEUE_FILE}: {error}")


class _Entry:
    """The way in."""

    def __init__(
        self,
        data_dir: Path,
        trouble: Trouble,
        clock: Clock,
        on_corrupt: Callable[[str], None],
        stack: AsyncExitStack,
    ) -> None:
        self._data_dir = data_dir
        self._trouble = trouble
        self._clock = clock
        self._on_corrupt = on_corrupt
        self._stack = stack
        # Why the id that was used here until now may be used no longer.
        self._reasons = [trouble.copied] if trouble.copied else []
        self._emptied = False

    async def enter(self, new_id: Callable[[], str]) -> House:
        """Opens everything, and decides under which id."""
        known = identity.read_id(self._data_dir)
        if known is not None:
            self._look_for_losses()
        database = await self._open(QUEUE_FILE)
        noted = await database.read(identity.read_noted)
        unclean = await database.read(identity.read_running)
        if unclean and not await self._is_sound(QUEUE_FILE, database):
            database = await self._open_anew(QUEUE_FILE, database)
            noted = Noted()
        promises = await self._open(PROMISE_FILE, check=unclean)
        outbox = await self._open(OUTBOX_FILE, check=unclean)

        here = replace(identity.whereabouts(self._data_dir / QUEUE_FILE), node=known or "")
        if reason := identity.why_not_the_node(noted, here):
            self._reasons.append(reason)
        before = known or noted.node
        formerly = noted.formerly
        if not known or self._reasons:
            here, formerly = replace(here, node=new_id()), before
        here = replace(here, formerly=formerly, boot=self._new_boot(noted.boot))
        await database.write(partial(_settle, here))
        if here.node != known:
            # Last of all: whoever has an id has had a queue and a place for promises, and misses them if they are gone.
            identity.write_id(self._data_dir, here.node)
        if before and before != here.node:
            self._tell_renamed(before, here.node)
        return House(
            node=here.node, boot=here.boot, formerly=formerly, database=database, promises=PromiseStore(promises),
            outbox=Outbox(outbox, self._clock.wall_ms),
        )  # fmt: skip

    def _new_boot(self, last: str) -> str:
        # The others tell a node's lives apart by their order, and the wall clock may have been set back since the last.
        after_ms = int(last[:TIME_DIGITS], 16) + 1 if last else 0
        return uuid7(max(self._clock.wall_ms(), after_ms), self._clock.random_bits(74))

    def _tell_renamed(self, before: str, now: str) -> None:
        why = "; ".join(self._reasons) or "its database was restored"
        text = f"this node is a new one, {short(now)}, and no longer {short(before)}: {why}"
        if not self._emptied:
            text += (
                ". It keeps the rows that are here and joins the others; if there are no others, make this copy the "
                "cluster with: meshq recover"
            )
        journal.warn("renamed", text, node=now, formerly=before, reason=why)

    def _look_for_losses(self) -> None:
        """A node that has lived here had a queue and a place for its promises; whatever is gone is noticed."""
        for name in (QUEUE_FILE, PROMISE_FILE):
            if name not in self._trouble.damaged and not files.is_there(self._data_dir / name):
                self._reasons.append(f"its database {name} is gone")
                self._emptied |= name == QUEUE_FILE
                # A journal that was left without its database holds the last rows of it.
                self._set_aside(name)

    async def _open(self, name: str, *, check: bool = False) -> Database:
        if name in self._trouble.damaged:
            return await self._open_anew(name, None)
        try:
            database = await self._open_as_it_is(name)
        except CorruptDatabase as error:
            journal.warn("damaged", str(error), file=name)
            return await self._open_anew(name, None)
        if check and not await self._is_sound(name, database):
            return await self._open_anew(name, database)
        return database

    async def _open_anew(self, name: str, database: Database | None) -> Database:
        if database is not None:
            await database.close()
        kept = self._set_aside(name)
        meaning = _MEANINGS[name].format(kept=kept)
        journal.warn("set_aside", f"{name} was damaged and is kept as {kept}: {meaning}", file=name, kept=str(kept))
        if name != OUTBOX_FILE:
            self._reasons.append(f"its database {name} was damaged")
        self._emptied |= name == QUEUE_FILE
        return await self._open_as_it_is(name)

    async def _open_as_it_is(self, name: str) -> Database:
        schema, readers = _KINDS[name]
        database = await Database.open(self._data_dir / name, schema=schema, readers=readers)
        self._stack.push_async_callback(database.close)
        database.on_corrupt = partial(self._on_corrupt, name)
        return database

    async def _is_sound(self, name: str, database: Database) -> bool:
        """Whether nothing is wrong with it; looked at only after a stop that was none, since it takes its time."""
        size_mib = (self._data_dir / name).stat().st_size / (1 << 20)
        journal.tell("checking", f"the last stop was not in order: checking {name}, {size_mib:.1f} MiB", file=name)
        database.on_corrupt = lambda: None
        try:
            await database.check()
        except CorruptDatabase as error:
            journal.warn("damaged", str(error), file=name)
            return False
        database.on_corrupt = partial(self._on_corrupt, name)
        return True

    def _set_aside(self, name: str) -> Path | None:
        stamp = files.stamp(self._clock.wall_ms())
        return files.set_aside(self._data_dir / name, f"{name}.damaged-{stamp}")


def _settle(here: Noted, conn: Connection) -> None:
    identity.write_noted(conn, here)
    identity.write_running(conn, running=True)


def move_out(data_dir: Path, clock: Clock, *, waiting: int) -> Path:
    """Sets aside all that this node has been, so that the next daemon here begins as a new node.

    Args:
        data_dir: Is there, and locked; its databases are closed.
        clock: The wall clock names the folder.
        waiting: How many entries the outbox has. With any, it stays, and the next node delivers them.

    Raises:
        DiskFull, DiskFailed: It can't be written; with the path.
    """
    folder = files.free_path(data_dir / f"left-{files.stamp(clock.wall_ms())}")
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise files.disk_error(folder, error) from error
    for each in (identity.ID_FILE, QUEUE_FILE, PROMISE_FILE, *(() if waiting else (OUTBOX_FILE,))):
        files.set_aside(data_dir / each, each, folder=folder)
    return folder
