"""Where a command that runs a node takes its configuration from."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshq import classic, config
from meshq.cli.common import note
from meshq.errors import ConfigError

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
    _check_owner(data_dir)
    origin = trace(data_dir, path, overrides)
    for one in origin.classic:
        name = config.ENV_PREFIX + one.setting.upper()
        note(f"{one.source} is taken as {one.setting} = {one.value}; meshq's own name for it is {name}")
    return origin.config


def _check_owner(data_dir: Path) -> None:
    """Whether the folder is this user's own: what stands in its configuration names code, which would be run."""
    try:
        found = data_dir.stat()
    except OSError:
        return  # there is none yet, or the next step says what is wrong with it
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{data_dir} belongs to another user (uid {found.st_uid}), who could have anything run here; choose "
            "another with --data-dir"
        )
    if found.st_mode & stat.S_IWOTH:
        raise ConfigError(f"every user of this machine may write to {data_dir}; type: chmod o-w {data_dir}")


def trace(data_dir: Path, path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> config.Origin:
    """The same, and where each value came from."""
    named = os.environ.get("MESHQ_CONFIG")
    if path is None:
        path = Path(named).expanduser() if named else data_dir / FILE_NAME
        if not named and not path.exists():
            path = None
    return config.trace(path, os.environ, overrides, classic.find(os.environ, Path(classic.DOTENV)))
