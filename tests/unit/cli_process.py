"""Commands as processes, for the command line's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def environment(data_dir: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESHQ_")}
    return {**kept, "MESHQ_DATA_DIR": str(data_dir), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start(data_dir: Path, *args: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "meshq", *args],
        env={**environment(data_dir), **more},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def meshq(data_dir: Path, *args: str, typed: str = "", **more: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command whose user types this."""
    with start(data_dir, *args, **more) as process:
        out, err = process.communicate(typed, timeout=60)
    assert "Traceback" not in err or "--traceback" in args, err
    return process.returncode, out, err


def one_line(text: str) -> bool:
    return text.endswith("\n") and text.count("\n") == 1
