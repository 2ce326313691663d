"""The node's id, made at the first start and kept in the data directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from meshq.core.ids import is_id
from meshq.errors import StoreError

ID_FILE = "node-id"


def load_or_create(data_dir: Path, make_id: Callable[[], str]) -> str:
    """The id of the node whose data directory this is; a new one is on disk before this returns.

    Args:
        data_dir: Must exist.
        make_id: Makes a new id, at the first start only.

    Raises:
        StoreError: The file can't be read or written, or holds no id; with the path.
    """
    path = data_dir / ID_FILE
    try:
        text = path.read_bytes().decode("ascii", "replace").strip()
    except FileNotFoundError:
        text = make_id()
        _write(path, text)
    except OSError as error:
        raise StoreError(f"{path}: can't be read: {error.strerror}") from error
    if not is_id(text):
        raise StoreError(f"{path}: holds no node id but {text[:40]!r}; remove the file to start as a new node")
    return text


def _write(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, f"{text}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreError(f"{path}: can't be written: {error.strerror}") from error
