"""What tests of strangers share: whom they ask, what they ask for, and whether it left a trace."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from meshq.core.keys import Key
from meshq.wire.http import build_app
from tests.cluster.daemon import Cluster, Daemon, Process, environment
from tests.unit.wire_service import DictService

STRANGER = str(Path(__file__).parent / "stranger.py")
PORT = 7373
DATABASES = ("queue.db", "promise.db", "outbox.db")
QUIET_S = 1.0
CLEAR, NOBODY = {"as": "clear"}, {"as": "nobody"}
Show = Mapping[str, str]
Row = dict[str, Any]


def made(key: Key, role: str = "holder", name: str = "") -> Show:
    """The proof of somebody who makes itself a certificate out of this key."""
    return {"as": "made", "key": key.text, "role": role, "name": name}


class _NoLinks:
    """Takes no links: only the paths are asked for."""

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        raise NotImplementedError

    async def hang_up(self) -> None:
        """There are none."""


class Endpoints:
    """Every path that a daemon answers at, and a body for each that would do something.

    Args:
        waiting, done: Tasks of others.
        node: A node of the cluster, in whose name is spoken.
    """

    def __init__(self, waiting: str, done: str, node: str) -> None:
        self._parts = {"node": node, "name": "eve", "step": "rotate", "batch": "others"}
        self._tasks = {"cancel": waiting, "retry": done}
        self._done = done
        outcome = {"task": waiting, "epoch": 1, "attempt": 1, "kind": "done", "result": "forged"}
        self._bodies: dict[str, object] = {
            "/submit-task": {"name": "echo", "args": ["stranger"]},
            "/get-task": {"node": node, "boot": "1", "number": 1, "slots": 8, "free": 8, "names": ["echo"]},
            "/heartbeat": {"node": node, "boot": "1", "name": "box", "slots": 8, "tasks": []},
            "/submit-result": {"node": node, "boot": "1", "outcomes": [outcome]},
            "/wait": {"ids": [done]},
        }

    def all(self) -> list[tuple[str, str, object]]:
        """Method, path and body of each."""
        app = build_app(DictService(), _NoLinks(), new_id=str, wall_ms=lambda: 0, body_bytes_max=1)
        return sorted(self._calls(app), key=lambda call: (call[1], call[0]))

    def _calls(self, app: web.Application) -> Iterator[tuple[str, str, object]]:
        for route in app.router.routes():
            assert route.resource is not None
            pattern = route.resource.canonical
            last = pattern.rpartition("/")[2]
            parts = {**self._parts, "id": self._tasks.get(last, self._done)}
            path = pattern.format_map(parts)
            if path == "/peer":
                path += "?kind=control"
            yield route.method, path, self._bodies.get(pattern)


class Strangers:
    """People on a machine of the net that is no machine of the cluster.

    Args:
        cluster: Has a spare machine, which is theirs.
        directory: Where their processes' output goes.
    """

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.index = len(cluster.ids)
        self.at = [(cluster.net.address(index), PORT) for index in range(self.index)]
        self._directory = directory
        self._started = 0

    def do(self, what: str, **arguments: object) -> list[Row]:
        """Lets one of them do something, to the end, and returns what it says of it."""
        command = self.cluster.net.command(self.index, *self._argv(what, arguments))
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, check=False, env=environment(self._directory)
        )
        assert done.returncode == 0, f"{what}: {done.stderr}"
        return [json.loads(line) for line in done.stdout.splitlines()]

    def ask(self, show: Show, calls: Sequence[tuple[str, str, object]]) -> list[Row]:
        """Sends these requests to each daemon, and returns the answers."""
        rows = self.do("ask", show=show, at=self.at, calls=calls)
        assert len(rows) == len(calls) * len(self.at)
        return rows

    @contextmanager
    def busy(self, what: str, **arguments: object) -> Iterator[Process]:
        """One of them that goes on with something, until the end of the block."""
        self._started += 1
        log = self._directory / f"stranger{self._started}.log"
        process = Process(self.cluster.net, self.index, self._argv(what, arguments), log)
        process.start()
        try:
            yield process
        finally:
            process.kill9()

    def told(self, process: Process, event: str, count: int = 1, timeout_s: float = 20) -> list[Row]:
        """Waits until it has said something so often, and returns all of that."""

        def said() -> list[Row]:
            return [row for row in process.events() if row["event"] == event]

        self.cluster.wait_until(lambda: len(said()) >= count, timeout_s, f"{event} from {process.log.name}")
        return said()

    def _argv(self, what: str, arguments: Mapping[str, object]) -> list[str]:
        return [sys.executable, STRANGER, json.dumps({"do": what, **arguments})]


# -- what came back --------------------------------------------------------------------------------------


def outcome(row: Row) -> str:
    """What came back, as the table shows it."""
    if row["status"] is None:
        return f"nothing ({row['code']})" if row["came"] == 0 else f"{row['came']} bytes ({row['code']})"
    return f"{row['status']} {row['code']}".strip()


def show_table(who: str, rows: Sequence[Row]) -> None:
    """Prints what came back, one line for each endpoint; what all daemons said alike stands there once."""
    print(f"\n{who}")
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found.setdefault((row["method"], row["path"]), []).append(outcome(row))
    for (method, path), said in found.items():
        path = re.sub(r"[0-9a-f]{32}", "…", path)
        print(f"  {method:<5} {path:<28} {' | '.join(dict.fromkeys(said))}")


def show_links(who: str, rows: Sequence[Row]) -> None:
    """The same of links."""
    print(f"\n{who}")
    for row in rows:
        print(f"  {row['at']:<12} {row['kind']:<8} {row['end']}, and before that {row['came'] or 'nothing'}")


# -- what is there ---------------------------------------------------------------------------------------


Dump = dict[str, list[tuple[Any, ...]]]


def dump(daemon: Daemon) -> Dump:
    """All rows of all tables of all its databases, but for when peers were last heard: that is kept once a minute."""
    found: Dump = {}
    for name in DATABASES:
        with closing(sqlite3.connect(f"file:{daemon.data_dir / name}?mode=ro", uri=True)) as conn:
            tables = [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                what = "node, name, addresses" if table == "peers" else "*"
                found[f"{name}:{table}"] = sorted(conn.execute(f"SELECT {what} FROM {table}").fetchall(), key=repr)
    return found


Dumps = dict[str, Dump]


def everything(cluster: Cluster) -> Dumps:
    """What is in the databases of all daemons that run."""
    return {daemon.name: dump(daemon) for daemon in cluster.daemons if daemon.alive()}


def when_quiet(cluster: Cluster) -> Dumps:
    """The same, as soon as nothing is under way: every copy is whole, and known to be so, and nothing changes in it."""
    seen = [everything(cluster)]

    def still() -> bool:
        seen.append(everything(cluster))
        known = [all_of["queue.db:committed"] == all_of["queue.db:vector"] for all_of in seen[-1].values()]
        return all(known) and seen[-1] == seen[-2]

    cluster.wait_until(still, 60, "nothing changes in the databases", poll_s=QUIET_S)
    return seen[-1]


def changed(before: Dumps, cluster: Cluster) -> list[str]:
    """What differs now, row by row."""
    found = []
    for name, tables in everything(cluster).items():
        for table, rows in tables.items():
            old = before[name].get(table, [])
            found += [f"{name} {table}: + {row}" for row in rows if row not in old]
            found += [f"{name} {table}: - {row}" for row in old if row not in rows]
    return found
