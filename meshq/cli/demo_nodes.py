"""The nodes of `meshq demo`: processes of their own in a directory that is gone afterwards."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from meshq.core.keys import SECRET_BYTES, Key
from meshq.errors import NoDaemon

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota")
SLOTS = 2
END_S = 1.0
# All durations have their defaults: what is seen here is what a person's own machines do.
SETTINGS = """\
host = "127.0.0.1"
port = 0
mdns = false
slots = {slots}
tasks = ["meshq.cli.demo_task"]
cluster = "meshq-demo"
key = "{key}"
name = "{name}"
seeds = [{seeds}]
"""


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One node.

    Args:
        name: What it is called.
        data_dir: Its data.
        process: Its daemon.
        log: What that writes.
    """

    name: str
    data_dir: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    @property
    def lives(self) -> bool:
        """Whether its process does."""
        return self.process.poll() is None

    def check(self) -> None:
        """Raises NoDaemon, with what it said last, where it ended by itself."""
        if not self.lives:
            said = self.log.read_text("utf-8", "replace").strip().splitlines()[-1:]
            raise NoDaemon(f"the demo's node {self.name} ended: {' '.join(said) or 'it said nothing'}")

    def kill(self) -> None:
        """Ends it as a power cut would: it can't say a word."""
        self.process.kill()
        self.process.wait()


class DemoNodes:
    """All of them.

    Args:
        folder: Where their data is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[DemoNode] = []
        self._key = Key(secrets.token_bytes(SECRET_BYTES)).text

    def start(self, seeds: tuple[str, ...] = ()) -> DemoNode:
        """Starts one more.

        Args:
            seeds: Addresses of others that run already.
        """
        name = NAMES[len(self.all)]
        settings, data_dir, log = (self.folder / f"{name}{end}" for end in (".toml", "", ".log"))
        written = ", ".join(f'"{seed}"' for seed in seeds)
        settings.write_text(SETTINGS.format(slots=SLOTS, key=self._key, name=name, seeds=written))
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "meshq.cli.demo_node", str(settings), str(data_dir)],
                stdin=subprocess.PIPE, stdout=file, stderr=file, env=_without_settings(os.environ),
                # Ctrl-C is for the demo, which ends them.
                start_new_session=True,
            )  # fmt: skip
        node = DemoNode(name, data_dir, process, log)
        self.all.append(node)
        return node

    def end(self) -> None:
        """Ends all that still run: asks them, and does not wait for long."""
        left = [node.process for node in self.all if node.lives]
        for process in left:
            process.terminate()
        end_s = time.monotonic() + END_S
        for process in left:
            try:
                process.wait(max(0.0, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for node in self.all:
            if node.process.stdin is not None:
                node.process.stdin.close()


@contextmanager
def demo_nodes() -> Iterator[DemoNodes]:
    """No node yet, and a place for some; they and their data are gone afterwards, whatever happens."""
    with TemporaryDirectory(prefix="meshq-demo-", ignore_cleanup_errors=True) as folder:
        nodes = DemoNodes(Path(folder))
        try:
            yield nodes
        finally:
            nodes.end()


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith("MESHQ_")}
