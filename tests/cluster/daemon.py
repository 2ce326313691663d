"""Real daemons, each on a machine of its own, used by the command line as a person or a script would."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from meshq.core.keys import Key
from meshq.wire.unix import socket_path
from tests.cluster.net import Net
from tests.cluster.trees import descendants, freeze, runs, thaw

T = TypeVar("T")
TAIL_LINES = 30
POLL_S = 0.1
CHILDREN_GONE_S = 5.0
# Of all clusters here, but for those whose settings say otherwise.
KEY = Key(bytes(range(100, 120)))
# Settings of a cluster without a key.
INSECURE = {"key": "", "insecure": 1}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left behind. `out` is its JSON: a list for `tasks`, else one value, None where it said nothing."""

    code: int
    out: Any
    err: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer over HTTP: its status, and its body out of JSON."""

    status: int
    body: Any


class Process:
    """A process on one machine of the net, with a log of its own.

    Args:
        argv: The command line.
        log: Where its output goes; a second start appends.
        variables: What is added to its environment.
    """

    def __init__(
        self, net: Net, index: int, argv: Sequence[str], log: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        self._net = net
        self._argv = list(argv)
        self._variables = dict(variables or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.index = index
        self.log = log
        self.exit_code: int | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Starts it; returns at once."""
        assert not self.alive(), "started twice"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._net.command(self.index, *self._argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(self.log.parent) | self._variables,
                cwd=self.log.parent,
            )

    def alive(self) -> bool:
        """Whether it runs."""
        if self._process is not None and self._process.poll() is not None:
            self.exit_code = self._process.returncode
        return self._process is not None and self._process.returncode is None

    def kill9(self) -> None:
        """Ends it as a power cut would, but for its disk."""
        self._signal(signal.SIGKILL)
        self.wait(10)

    def terminate(self) -> None:
        """Asks it to stop, and does not wait."""
        self._signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 30) -> int:
        """Asks it to stop, waits, and returns its exit code."""
        self.terminate()
        return self.wait(timeout_s)

    def pause(self) -> None:
        """Lets it stand still, as a closed lid does."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def wait(self, timeout_s: float) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None, "not started"
        try:
            self.exit_code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.index} still runs after {timeout_s} s\n{self.tail()}") from None
        return self.exit_code

    def tail(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        ended = "not started" if self._process is None else f"ended with {self.exit_code}"
        state = "running" if self.alive() else ended
        return "\n".join([f"--- {self.log.name} ({state})", *lines[-TAIL_LINES:]])

    def events(self) -> list[dict[str, Any]]:
        """The JSON lines of its log."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                found.append(entry)
        return found

    def _signal(self, number: int) -> None:
        if self.alive():
            os.kill(self.pid, number)


class Daemon(Process):
    """`meshq up` on one machine.

    Args:
        directory: Where its data directory and its log are made.
        options: More options for `meshq up`.
        settings: Settings that differ from the defaults, by name; they are given in the environment, as the key is.
        program: What Python runs.
    """

    def __init__(
        self,
        net: Net,
        index: int,
        directory: Path,
        options: Sequence[str] = (),
        settings: Mapping[str, object] | None = None,
        program: Sequence[str] = ("-m", "meshq", "up"),
    ) -> None:
        self.data_dir = directory / f"data{index}"
        self.name = f"node{index}"
        argv = [sys.executable, *program, "--data-dir", str(self.data_dir), "--name", self.name]
        variables = {f"MESHQ_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        log = directory / f"node{index}.log"
        super().__init__(net, index, [*argv, "--log-format", "json", *options], log, variables)

    def kill9(self) -> None:
        """Ends it as a power cut would, but for its disk, and waits until its children are gone, too."""
        orphans = descendants(self.pid) if self.alive() else []
        super().kill9()
        end = time.monotonic() + CHILDREN_GONE_S
        while left := [pid for pid in orphans if runs(pid)]:
            assert time.monotonic() < end, f"children {left} of {self.name} outlive it\n{self.tail()}"
            time.sleep(0.01)

    def pause(self) -> None:
        """Lets it and all its children stand still, as a closed lid does."""
        if self.alive():
            freeze(self.pid)

    def resume(self) -> None:
        """Lets all of them go on."""
        if self.alive():
            thaw(self.pid)

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = 10) -> Reply:
        """One HTTP request to this daemon, over its Unix socket: far cheaper than a command.

        Raises:
            OSError, http.client.HTTPException: No answer.
        """
        connection = _UnixConnection(socket_path(self.data_dir), timeout_s)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return Reply(answer.status, json.loads(answer.read()))
        finally:
            connection.close()

    def look(self, timeout_s: float = 2) -> dict[str, Any]:
        """As `status`, over HTTP."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            reply = self.call("GET", "/status", timeout_s=timeout_s)
            if reply.status == 200 and isinstance(reply.body, dict):
                return reply.body
        return {}

    def cli(self, command: str, *args: str, timeout_s: float = 30) -> Answer:
        """Runs `meshq COMMAND --json` against this daemon."""
        argv = [sys.executable, "-m", "meshq", *command.split(), "--data-dir", str(self.data_dir), "--json", *args]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment(self.log.parent),
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if command == "tasks":
            return Answer(done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line], done.stderr)
        return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr)

    def text(self, command: str, *args: str, timeout_s: float = 30) -> str:
        """What `meshq COMMAND` prints for people."""
        argv = [sys.executable, "-m", "meshq", *command.split(), "--data-dir", str(self.data_dir), *args]
        home = environment(self.log.parent)
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, env=home, check=False).stdout

    def ask(self, command: str, *args: str, timeout_s: float = 30) -> Any:
        """As `cli`, for a command that must succeed; only its JSON."""
        answer = self.cli(command, *args, timeout_s=timeout_s)
        assert answer.code == 0, f"meshq {command} {' '.join(args)}: exit {answer.code}: {answer.err}\n{self.tail()}"
        return answer.out

    def status(self) -> dict[str, Any]:
        """The cluster as this daemon sees it; empty where it does not answer."""
        answer = self.cli("status")
        return answer.out if answer.code == 0 and isinstance(answer.out, dict) else {}


class Cluster:
    """Several daemons on one net, the first of which has the lowest id."""

    def __init__(self, net: Net, daemons: Sequence[Daemon]) -> None:
        self.net = net
        self.daemons = list(daemons)
        self.ids: list[str] = []

    def start(self, count: int | None = None) -> None:
        """Starts them in turn, each as soon as the one before has its id, so that the ids are in order.

        Args:
            count: Only the first so many; `start_next` starts another one. None: all.
        """
        for _ in self.daemons[:count]:
            self.start_next()
        assert self.ids == sorted(self.ids), self.ids

    def start_next(self) -> Daemon:
        """Starts the first daemon that never ran, and waits until it answers."""
        daemon = self.daemons[len(self.ids)]
        daemon.start()
        self.ids.append(self.wait_answer(daemon)["node"])
        return daemon

    def daemon(self, node: str | None) -> Daemon:
        """The daemon with this id."""
        assert node in self.ids, f"{node} is none of {self.ids}"
        return self.daemons[self.ids.index(node)]

    def wait_answer(self, daemon: Daemon, timeout_s: float = 15) -> dict[str, Any]:
        """Waits until this daemon answers; fails at once where it has ended."""
        return self.wait_until(lambda: self._living(daemon).status(), timeout_s, f"{daemon.name} answers")

    def wait_until(self, predicate: Callable[[], T], timeout_s: float, what: str, *, poll_s: float = POLL_S) -> T:
        """Asks until the answer is true, and returns it.

        Raises:
            AssertionError: It did not become true; says what was seen last, and the ends of all logs.
        """
        end = time.monotonic() + timeout_s
        while True:
            seen = predicate()
            if seen:
                return seen
            if time.monotonic() >= end:
                raise AssertionError(f"not within {timeout_s} s: {what}\nlast seen: {seen!r}\n{self.tails()}")
            time.sleep(poll_s)

    def wait_status(
        self,
        daemon: Daemon,
        fits: Callable[[dict[str, Any]], object],
        timeout_s: float,
        what: str,
        *,
        poll_s: float = POLL_S,
    ) -> dict[str, Any]:
        """Waits until what `meshq status` says there fits, and returns it."""
        last: dict[str, Any] = {}

        def look() -> bool:
            last.clear()
            last.update(daemon.look())
            return bool(last and fits(last))

        try:
            self.wait_until(look, timeout_s, what, poll_s=poll_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\nlast status of {daemon.name}: {json.dumps(last, indent=1)}") from None
        return dict(last)

    def wait_leader(self, asked: Daemon, leader: str, timeout_s: float = 20) -> dict[str, Any]:
        """Waits until this daemon names that leader, with a majority."""
        return self.wait_status(
            asked,
            lambda status: status["leader"] == leader and status["majority"],
            timeout_s,
            f"{asked.name} sees {leader} lead",
        )

    def wait_replicas(self, asked: Daemon, count: int, timeout_s: float = 30) -> dict[str, Any]:
        """Waits until this daemon sees that many replicas in sync, one of them the leader."""
        return self.wait_status(
            asked,
            lambda status: (
                sum(node["role"] in ("leader", "replica") and node["behind"] == 0 for node in status["nodes"]) == count
                and status["leader"] is not None
            ),
            timeout_s,
            f"{asked.name} sees {count} replicas in sync",
        )

    def wait_done(self, asked: Daemon, count: int, timeout_s: float) -> dict[str, Any]:
        """Waits until that many tasks are done; looks seldom, since the processors are few and the tasks need them."""
        return self.wait_status(
            asked, lambda status: status["tasks"]["done"] >= count, timeout_s, f"{count} tasks are done", poll_s=0.5
        )

    def tails(self) -> str:
        """The ends of all logs."""
        return "\n".join(daemon.tail() for daemon in self.daemons)

    def _living(self, daemon: Daemon) -> Daemon:
        assert daemon.alive(), f"{daemon.name} has ended\n{daemon.tail()}"
        return daemon

    def end(self) -> None:
        """Ends all that still run."""
        for daemon in self.daemons:
            if daemon.alive():
                daemon.kill9()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("meshq", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def environment(home: Path) -> dict[str, str]:
    """The environment of every process here: nothing of the user's own meshq gets in, and all have one key."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MESHQ_", "XDG_"))}
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1", "MESHQ_KEY": KEY.text}
