"""What is asked of a daemon with one request each: about tasks, the cluster, and its machines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from meshq.client.connection import Connection
from meshq.client.record import Page, Record, Story
from meshq.core.infos import Names
from meshq.core.limits import PAGE_TASKS_MAX, WAIT_S_MAX
from meshq.core.messages import Done
from meshq.core.reports import Changed, ClusterStory, Health, Log, Stats, Status
from meshq.wire import forms

if TYPE_CHECKING:
    from meshq.client.handle import Handle

# One wait for more of a log.
FOLLOW_S: Final = 20.0
# Between two looks at a log that has not begun, or whose daemon does not wait.
LOOK_PAUSE_S: Final = 0.2
HERE: Final = "-"


class Asking:
    """The requests that are about no submit and no result; `AsyncClient` has them.

    Args:
        connection: To the daemon.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def tasks(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        batch: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Tasks, newest first, without their results.

        Args:
            state: Only those that are pending, running, done, failed or cancelled.
            name: Only those of this name.
            batch: Only those of this batch.
            limit: At most that many; None for all.

        Raises:
            Malformed: There is no such state.
        """
        left, after = limit, None
        while left is None or left > 0:
            page = PAGE_TASKS_MAX if left is None else min(left, PAGE_TASKS_MAX)
            asked = {"limit": str(page), "state": state, "name": name, "batch": batch, "after": after}
            params = {key: value for key, value in asked.items() if value is not None}
            answer = await self._connection.call("GET", "/tasks", Page, params=params)
            for record in answer.tasks:
                yield record
            left, after = None if left is None else left - len(answer.tasks), answer.next
            if after is None:
                return

    async def cancel(self, task: Handle | str, *, wait_s: float = 0.0) -> Record:
        """Calls a task off; one that is finished stays as it is. For a whole batch see `cancel_batch`.

        Args:
            task: A handle, or an id: whole, or a beginning or end that no other task has.
            wait_s: Seconds to wait until its run has ended, too; its record is `ending` where it has not by then.

        Returns:
            The task as it is then; that it is called off is kept by the cluster.

        Raises:
            NotFound, Ambiguous: No task has this id, or several have.
        """
        clock = asyncio.get_running_loop()
        end_s = clock.time() + wait_s
        while True:
            left_s = max(0.0, end_s - clock.time())
            asked_s = min(left_s, WAIT_S_MAX)
            params = {"wait": f"{asked_s:.3f}"} if wait_s > 0 else None
            path = f"{path_of(task)}/cancel"
            record = await self._connection.call("POST", path, Record, params=params, wait_s=asked_s)
            if not record.ending or asked_s == left_s:
                return record

    async def cancel_batch(self, batch: str) -> tuple[str, ...]:
        """Calls off all tasks of a batch that are not finished.

        Args:
            batch: Its name.

        Returns:
            The ids of those that were called off.

        Raises:
            NotFound: There is no such batch.
        """
        path = f"/batch/{quote(batch, safe='')}/cancel"
        return (await self._connection.call("POST", path, Changed)).ids

    async def log_part(self, task: Handle | str, after: int = 0, wait_s: float = 0.0) -> Log:
        """A part of what a task printed.

        Args:
            task: A handle, or an id.
            after: The byte from which on it is wanted.
            wait_s: Seconds to wait for more than that, where the task is not finished.

        Raises:
            NotFound: No task has this id. Unreachable: The node that ran it does not answer.
        """
        params = {"after": str(after)} | ({"wait": f"{wait_s:.3f}"} if wait_s > 0 else {})
        return await self._connection.call("GET", f"{path_of(task)}/log", Log, params=params, wait_s=wait_s)

    async def logs(self, task: Handle | str, *, follow: bool = False) -> AsyncGenerator[Log, None]:
        """What a task printed, part by part: its text is bytes; `lost` bytes before it are kept no more.

        Args:
            task: A handle, or an id: whole, or a beginning or end that no other task has.
            follow: Whether to go on until the task is finished.

        Raises:
            NotFound, Ambiguous: No task has this id, or several have.
            Unreachable: The node that ran it does not answer.
        """
        clock, after, node = asyncio.get_running_loop(), 0, ""
        while True:
            asked_s = clock.time()
            part = await self.log_part(task, after, FOLLOW_S if follow else 0.0)
            if node and part.node != node and after:
                # Another attempt, on another machine: its log is another one.
                after, node = 0, part.node
                continue
            if part.text or part.lost:
                yield part
            moved, after, node = part.next > after, part.next, part.node
            if part.ended or not (follow or moved):
                return
            if not moved and clock.time() - asked_s < LOOK_PAUSE_S:
                await asyncio.sleep(LOOK_PAUSE_S)

    async def names(self) -> Names:
        """The tasks that can be submitted: their signatures, their docstrings, and the nodes that run them."""
        return await self._connection.call("GET", "/names", Names)

    async def drain(self, node: str = HERE) -> None:
        """Takes a node out of the work: what it runs goes on, and it gets no more; a restart does not change that.

        Args:
            node: Its id, an end of the id that no other node has, or its name; the daemon's own by default.

        Raises:
            NotFound, Ambiguous: No node is called so, or several are.
        """
        await self._connection.call("POST", f"/drain/{_node(node)}", Done)

    async def resume(self, node: str = HERE) -> None:
        """Gives a drained node work again; see `drain`."""
        await self._connection.call("POST", f"/resume/{_node(node)}", Done)

    async def story(self, task: Handle | str) -> Story:
        """What happened to a task, why it does not run, and outcomes of other runs that do not stand."""
        return await self._connection.call("GET", f"{path_of(task)}/explain", Story)

    async def cluster_story(self) -> ClusterStory:
        """Who leads and by whose votes, why each other node does not, and what this daemon noted lately."""
        return await self._connection.call("GET", "/explain", ClusterStory)

    async def status(self) -> Status:
        """The cluster: nodes, leader, tasks by state.

        Where it goes on without a majority, `copies` says on how many machines and `missing` for whom it waits.
        """
        return await self._connection.call("GET", "/status", Status)

    async def stats(self) -> Stats:
        """The daemon's own counters."""
        return await self._connection.call("GET", "/stats", Stats)

    async def health(self) -> Health:
        """The daemon: its pid, its role, and whether work can be done now."""
        return await self._connection.call("GET", "/health", Health)

    async def stop(self) -> None:
        """Stops the local daemon in stages; returns at once."""
        # A second request would be taken as a demand to stop without the stages.
        await self._connection.call("POST", "/stop", Done, repeatable=False)

    async def leave(self) -> None:
        """Takes the local daemon out of its cluster for good and stops it; returns at once.

        Raises:
            Conflict: It can't; the text says why. (The same for `recover` and `forget`.)
        """
        await self._connection.call("POST", "/leave", Done, repeatable=False)

    async def recover(self) -> None:
        """Makes the local daemon's copy of the queue the cluster; refused where a majority is there."""
        await self._connection.call("POST", "/recover", Done, repeatable=False)

    async def forget(self, node: str) -> None:
        """Takes a node that never comes back off the roster.

        Args:
            node: Its id, an end of the id that no other node has, or its name.

        Raises:
            NotFound, Ambiguous: No node is called so, or several are.
        """
        await self._connection.call("POST", f"/forget/{_node(node)}", Done, repeatable=False)


def id_of(task: Handle | str) -> str:
    """The id in it."""
    return task if isinstance(task, str) else task.id


def path_of(task: Handle | str) -> str:
    """Where the daemon answers for a task; raises Malformed if that can't be an id."""
    return f"/task/{forms.task_id(id_of(task))}"


def _node(text: str) -> str:
    return quote(forms.node(text), safe="")
