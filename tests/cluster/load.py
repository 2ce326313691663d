"""Clients that use a cluster while its machines fail, and write down what they are told.

Each is a thread that speaks HTTP with the daemon of one machine, as a program there would: it hands in tasks, hands a
task in again under the same id where the answer was unclear, at whichever machine answers, looks at tasks, waits for
them and now and then calls one off.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from meshq.client.options import new_ids
from tests.cluster.daemon import Cluster, Daemon, Reply
from tests.cluster.history import FINISHED, Acknowledged, Final, History, Shown, Unclear, Verdict, judge, read_runs

USER_TASKS = str(Path(__file__).parent / "user_tasks.py")
# Of every daemon under load: few slots, since all of them share one machine's processors.
OPTIONS = ("--slots", "2", "--tasks", USER_TASKS)
ANSWER_S = 6.0
WAIT_S = 1.0
SETTLE_S = 120.0
PAGE = 1000
CANCEL_SHARE = 0.03
WAIT_SHARE = 0.1
FILLED_SHARE = 0.4
FILL_TASKS = 500


class Load:
    """Clients on some machines of a cluster, from `with` on until `stop` or the end of the block.

    Args:
        cluster: Where they submit.
        directory: Where the history and the tasks' own notes are written.
        on: The machines that have a client; all that run, by default.
        pace_s: How long each client pauses between two submits.
        run_s: How long each task runs.
    """

    def __init__(
        self,
        cluster: Cluster,
        directory: Path,
        *,
        on: Sequence[int] | None = None,
        pace_s: float = 0.5,
        run_s: float = 0.8,
    ) -> None:
        self.cluster = cluster
        self.history = History(directory / "history.jsonl")
        self.runs = directory / "runs"
        self.pace_s = pace_s
        self.filled: list[str] = []
        self._run_s = run_s
        self._stopped = threading.Event()
        homes = range(len(cluster.ids)) if on is None else on
        self._clients = [_Client(self, home) for home in homes]

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Lets every client end what it is at, and stop."""
        self._stopped.set()
        for client in self._clients:
            client.join(2 * ANSWER_S + WAIT_S)
            assert not client.is_alive(), f"{client.name} hangs"
            if client.failure is not None:
                failure, client.failure = client.failure, None
                raise AssertionError(f"{client.name} broke") from failure

    def pause(self, seconds: float) -> bool:
        """Waits that long; whether the load goes on after it."""
        return not self._stopped.wait(seconds)

    def form(self, task: str, priority: int = 0) -> dict[str, Any]:
        """The submit of this task."""
        return {"id": task, "name": "mark", "args": [str(self.runs), task, self._run_s], "priority": priority}

    def fill(self, daemon: Daemon, count: int, *, priority: int = 0) -> list[str]:
        """Hands in so many tasks at once, so that the queue is not empty when something fails; they must be kept."""
        ids = new_ids(count)
        for begin in range(0, count, FILL_TASKS):
            part = ids[begin : begin + FILL_TASKS]
            reply = daemon.call(
                "POST", "/submit-task", {"tasks": [self.form(task, priority) for task in part]}, timeout_s=20
            )
            assert reply.status in (200, 202), f"{daemon.name}: {reply}"
            self.history.add(*(_acknowledged(daemon.name, task, reply) for task in part))
            self.filled += part
        return ids

    def finished(self, daemon: Daemon, task: str) -> dict[str, Any]:
        """The task as this daemon shows it; empty where it is not finished."""
        view = _must(daemon.call("GET", f"/task/{task}"))
        self.history.add(_shown(daemon.name, view))
        return view if view["state"] in FINISHED else {}

    def done_by(self, daemon: Daemon) -> int:
        """How many of the newest tasks this daemon's machine has done."""
        listed = _must(daemon.call("GET", f"/tasks?state=done&limit={PAGE}"))["tasks"]
        return sum(view["worker"] == self.cluster.ids[daemon.index] for view in listed)

    def keep_full(self, daemon: Daemon, least: int) -> int:
        """How many tasks wait as this daemon sees it; more are handed in where there are fewer than `least`."""
        status = self.cluster.wait_status(daemon, lambda status: "tasks" in status, 10, f"{daemon.name} answers")
        pending: int = status["tasks"]["pending"]
        if pending < least:
            self.fill(daemon, 2 * least - pending)
            pending = 2 * least
        return pending


class _Client(threading.Thread):
    def __init__(self, load: Load, home: int) -> None:
        super().__init__(name=f"client{home}", daemon=True)
        self.failure: Exception | None = None
        self._load = load
        self._home = home
        self._random = random.Random(home)
        self._unfinished: list[str] = []

    def run(self) -> None:
        try:
            while self._load.pause(self._load.pace_s):
                self._submit(new_ids(1)[0])
                self._look()
        except Exception as failure:
            # The edge of the thread: `stop` raises it in the test.
            self.failure = failure

    def _submit(self, task: str) -> None:
        """Until somebody says that it is kept: at home first, then at the other machines in turn."""
        daemons = self._load.cluster.daemons
        turn = self._home
        while True:
            daemon = daemons[turn % len(daemons)]
            reply = self._ask(daemon, "POST", "/submit-task", self._load.form(task))
            if isinstance(reply, Reply) and reply.status in (200, 202):
                self._load.history.add(_acknowledged(daemon.name, task, reply))
                self._unfinished.append(task)
                return
            self._load.history.add(Unclear(at_s=time.monotonic(), node=daemon.name, task=task, why=str(reply)))
            turn += 1
            if not self._load.pause(self._load.pace_s):
                return

    def _look(self) -> None:
        """Looks at one of its oldest unfinished tasks, or at some task that was handed in at once; at home."""
        filled, chance = self._load.filled, self._random.random()
        if not self._unfinished or (filled and chance < FILLED_SHARE):
            if filled:
                self._show(self._random.choice(filled), "")
            return
        task, chance = self._random.choice(self._unfinished[:8]), self._random.random()
        if chance > 1 - CANCEL_SHARE:
            # Its answer names the state alone; what it says is looked at like anything else.
            self._ask(self._load.cluster.daemons[self._home], "POST", f"/task/{task}/cancel")
        if chance < WAIT_SHARE:
            self._show(task, f"?wait={WAIT_S}")
        else:
            self._show(task, "")

    def _show(self, task: str, query: str) -> None:
        daemon = self._load.cluster.daemons[self._home]
        reply = self._ask(daemon, "GET", f"/task/{task}{query}")
        if not isinstance(reply, Reply) or reply.status != 200:
            return
        shown = _shown(daemon.name, reply.body)
        self._load.history.add(shown)
        # Outcomes without a majority may be replaced: such a task is looked at again.
        if shown.state in FINISHED and shown.majority and task in self._unfinished:
            self._unfinished.remove(task)

    def _ask(self, daemon: Daemon, method: str, path: str, body: object = None) -> Reply | str:
        """The answer, or why there is none."""
        try:
            return daemon.call(method, path, body, timeout_s=ANSWER_S)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"{type(error).__name__}: {error}"


def _acknowledged(node: str, task: str, reply: Reply) -> Acknowledged:
    assert task in reply.body["ids"], f"{node} acknowledged {reply.body['ids']} and not {task}"
    return Acknowledged(
        at_s=time.monotonic(),
        node=node,
        task=task,
        copies=reply.body["copies"],
        majority=reply.body["majority"],
        queued=reply.body["queued"],
    )


def _shown(node: str, view: Mapping[str, Any]) -> Shown:
    return Shown(
        at_s=time.monotonic(),
        node=node,
        task=view["id"],
        state=view["state"],
        outcome=_outcome(view),
        majority=view.get("majority", True),
    )


def _outcome(view: Mapping[str, Any]) -> Any:
    return view["result"] if view["state"] == "done" else view["error"]


def settle(load: Load, timeout_s: float = SETTLE_S) -> Verdict:
    """Ends the load, waits until the cluster has nothing left to do, and compares; prints the figures.

    Every machine that is up must see the same leader with a majority, all copies in sync, no open task, and no submit
    that still waits on a disk.
    """
    load.stop()
    cluster, daemons = load.cluster, [daemon for daemon in load.cluster.daemons if daemon.alive()]
    seen: dict[str, dict[str, Any]] = {}

    def calm() -> bool:
        seen.update({daemon.name: daemon.look() for daemon in daemons})
        leaders = {status.get("leader") for status in seen.values()}
        return len(leaders) == 1 and all(_is_calm(status) for status in seen.values())

    try:
        cluster.wait_until(calm, timeout_s, "nothing is left to do", poll_s=0.5)
    except AssertionError as error:
        statuses = "\n".join(f"{name}: {status}" for name, status in seen.items())
        verdict = judge(load.history.told(), {}, read_runs(load.runs))
        raise AssertionError(f"{error}\n{statuses}\n{verdict.figures()}") from None
    finals = [outcomes(daemon) for daemon in daemons]
    assert all(final == finals[0] for final in finals), "machines show different tasks, all being in sync"
    verdict = judge(load.history.told(), finals[0], read_runs(load.runs))
    print(verdict.figures())
    return verdict


def _is_calm(status: Mapping[str, Any]) -> bool:
    if not status or not status["majority"] or status["queued"]:
        return False
    tasks = status["tasks"]
    copies = [node["behind"] for node in status["nodes"] if node["role"] in ("leader", "replica", "learner")]
    return tasks["pending"] == tasks["running"] == 0 and set(copies) == {0}


def outcomes(daemon: Daemon) -> dict[str, Final]:
    """All tasks as this daemon shows them; fails where one is listed twice."""
    listed: list[dict[str, Any]] = []
    after = ""
    while True:
        page = _must(daemon.call("GET", f"/tasks?limit={PAGE}{after}"))
        listed += page["tasks"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    final = {view["id"]: Final(state=view["state"], majority=view.get("majority", True)) for view in listed}
    assert len(final) == len(listed), "a task is listed twice"
    finished = [task for task, end in final.items() if end.state in FINISHED]
    for part in _parts(finished):
        for view in _must(daemon.call("POST", "/wait", {"ids": part}))["tasks"]:
            final[view["id"]] = Final(state=view["state"], outcome=_outcome(view), majority=view.get("majority", True))
    return final


def _must(reply: Reply) -> dict[str, Any]:
    assert reply.status == 200, reply
    body: dict[str, Any] = reply.body
    return body


def _parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[begin : begin + PAGE] for begin in range(0, len(ids), PAGE))


def wait_whole(cluster: Cluster, timeout_s: float = 40) -> Daemon:
    """Waits until all machines that are up follow one leader with a majority and hold all that it holds; the leader."""
    daemons = [daemon for daemon in cluster.daemons if daemon.alive()]
    seen: dict[str, dict[str, Any]] = {}

    def whole() -> bool:
        seen.update({daemon.name: daemon.look() for daemon in daemons})
        return len({status.get("leader") for status in seen.values()}) == 1 and all(
            status and status["majority"] and _in_sync(status) >= len(daemons) for status in seen.values()
        )

    try:
        cluster.wait_until(whole, timeout_s, "all machines that are up are replicas in sync", poll_s=0.2)
    except AssertionError as error:
        statuses = "\n".join(f"{name}: {status}" for name, status in seen.items())
        raise AssertionError(f"{error}\n{statuses}") from None
    return cluster.daemon(seen[daemons[0].name]["leader"])


def _in_sync(status: Mapping[str, Any]) -> int:
    return sum(node["role"] in ("leader", "replica") and node["behind"] == 0 for node in status["nodes"])


def other_leader(cluster: Cluster, asked: Daemon, old: Daemon) -> dict[str, Any]:
    """Waits until this daemon follows another leader than that one, with a majority."""
    old_id = cluster.ids[old.index]
    return cluster.wait_status(
        asked,
        lambda status: status["majority"] and status["leader"] not in (None, old_id),
        20,
        f"{asked.name} follows another leader than {old.name}",
        poll_s=0.05,
    )
