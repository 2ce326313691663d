"""A node of `meshq demo`: `meshq up` which ends with the process that started it, however that ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from meshq import config
from meshq.errors import MeshqError
from meshq.node.daemon import run_daemon


def main() -> int:
    """Runs the node whose settings and data directory are the process's arguments."""
    settings, data_dir = map(Path, sys.argv[1:])
    threading.Thread(target=_end_with_starter, daemon=True).start()
    # Nothing of the environment: what a person set there is for their own nodes.
    try:
        return run_daemon(config.load(settings), data_dir)
    except MeshqError as error:
        # The demo shows the last line.
        sys.stderr.write(f"{error.message}\n")
        return 1


def _end_with_starter() -> None:
    """Stdin is a pipe into which nobody writes, and whose other end only the starter has."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
