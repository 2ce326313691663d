"""The file that holds a node's keys: one on a line, the one that it shows first; then the names of those dropped."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshq.core import keys
from meshq.core.keys import Key
from meshq.errors import BadKey, StoreError
from meshq.store import files

KEY_FILE: Final = "key"
DROPPED_MAX: Final = 8
_DROPPED: Final = "dropped "
_BYTES_MAX: Final = 4096
_ANEW: Final = "remove this file, and give the key anew with: meshq up --key KEY"


@dataclass(frozen=True, slots=True)
class Held:
    """The keys of a node.

    Args:
        keys: The one that it shows, and the next one while the key is being changed; none where it has none.
        dropped: The names of keys that are valid no more, the newest last.
    """

    keys: tuple[Key, ...] = ()
    dropped: tuple[str, ...] = ()


def read(data_dir: Path) -> Held:
    """The keys in this data directory; none where there is no file.

    Raises:
        StoreError: It can't be read, holds something else, or others than its owner may read it; with the path.
    """
    path = data_dir / KEY_FILE
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = file.read(_BYTES_MAX).decode("ascii", "replace")
    except FileNotFoundError:
        return Held()
    except OSError as error:
        raise files.disk_error(path, error, "can't be read") from error
    if mode & 0o077:
        raise StoreError(f"{path}: others may read the key (mode {mode:o}); take that away with: chmod 600 {path}")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    dropped = [line.removeprefix(_DROPPED) for line in lines if line.startswith(_DROPPED)]
    try:
        held = tuple(keys.parse(line) for line in lines if not line.startswith(_DROPPED))
    except BadKey as error:
        raise StoreError(f"{path}: {error.message}; {_ANEW}") from error
    if not held:
        raise StoreError(f"{path}: holds no key; {_ANEW}")
    return Held(held, tuple(dropped))


def write(data_dir: Path, held: Held) -> None:
    """Keeps these keys in place of those before; they are on disk when this returns.

    Raises:
        DiskFull, DiskFailed: It can't be written; with the path.
    """
    files.write_private(data_dir / KEY_FILE, _text(held))


def set_aside(data_dir: Path, held: Held) -> Path:
    """Keeps a copy of keys that others take the place of, and tells where.

    Args:
        data_dir: Where they are in use.
        held: At least one key.

    Raises:
        DiskFull, DiskFailed: It can't be written; with the path.
    """
    path = data_dir / f"{KEY_FILE}.{held.keys[0].name}"
    files.write_private(path, _text(held))
    return path


def _text(held: Held) -> str:
    lines = [*(key.text for key in held.keys), *(dropped_line(name) for name in held.dropped[-DROPPED_MAX:])]
    return "".join(f"{line}\n" for line in lines)


def dropped_line(name: str) -> str:
    """The line that says that the key of this name is valid no more."""
    return _DROPPED + name
