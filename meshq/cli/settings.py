"""Where a command that runs a node takes its configuration from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshq import classic, config
from meshq.cli.common import note

FILE_NAME = "meshq.toml"


def load(data_dir: Path, path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> config.Config:
    """The configuration of a node with this data directory; says on stderr which classic names were understood.

    Args:
        data_dir: Its `meshq.toml` is read, where there is one and no other file is named.
        path: A file; None: what `MESHQ_CONFIG` names.
        overrides: What the command line says.

    Raises:
        ConfigError: Something in it is wrong.
    """
    origin = trace(data_dir, path, overrides)
    for one in origin.classic:
        name = config.ENV_PREFIX + one.setting.upper()
        note(f"{one.source} is taken as {one.setting} = {one.value}; meshq's own name for it is {name}")
    return origin.config


def trace(data_dir: Path, path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> config.Origin:
    """The same, and where each value came from."""
    named = os.environ.get("MESHQ_CONFIG")
    if path is None:
        path = Path(named).expanduser() if named else data_dir / FILE_NAME
        if not named and not path.exists():
            path = None
    return config.trace(path, os.environ, overrides, classic.find(os.environ, Path(classic.DOTENV)))
