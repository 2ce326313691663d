"""A real daemon of one node, for whoever tests an executor on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meshq import Client
from meshq.errors import NoDaemon

READY_S = 30.0
STOP_S = 20.0


@contextmanager
def daemon(folder: Path, *, allow: Sequence[str] = (), tasks: Sequence[str] = (), slots: int = 4) -> Iterator[Path]:
    """Runs `meshq up`, alone, as long as the block lasts.

    Args:
        folder: Its data directory, and where its log goes.
        allow, tasks, slots: The settings of these names.

    Yields:
        The data directory; the node leads.
    """
    settings = {"allow": list(allow), "tasks": list(tasks), "slots": slots, "port": 0}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    config = folder / "node.toml"
    config.write_text("\n".join([*lines, "mdns = false", "found_wait_s = 0.01", "drain_s = 0.1", "insecure = true"]))
    command = [sys.executable, "-m", "meshq", "up", "--data-dir", str(folder), "--config", str(config)]
    paths = os.pathsep.join(filter(None, sys.path))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": paths})
    try:
        _wait(folder, process, log)
        yield folder
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(folder: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + READY_S
    with Client(folder, connect_timeout_s=1.0) as client:
        while process.poll() is None and time.monotonic() < end_s:
            try:
                if client.health().leader is not None:
                    return
            except NoDaemon:
                pass
            time.sleep(0.05)
    raise RuntimeError(f"the daemon did not start:\n{log.read_text('utf-8')}")
