"""Who lives in a data directory: the node's id, and how a copied or restored database is told from its own.

A copy is not the node. If it went on under the node's id, the two would stamp different rows with the same seq, and
one that was set back would stamp its seqs a second time. So the database notes whose it is, and where it lies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from meshq.core.ids import is_id
from meshq.errors import StoreError
from meshq.store import meta
from meshq.store.database import Connection
from meshq.store.files import disk_error, write_private

ID_FILE = "node-id"
_MACHINE_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_NOTED = ("node", "inode", "machine", "formerly", "boot")
_RUNNING = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What a database notes about itself.

    Args:
        node: The node whose it is; empty if none has noted it yet.
        inode: Of the database's file. The device is not noted: on many systems its number changes with a reboot.
        machine: The machine's id, hashed; empty where there is none.
        formerly: The id that the node had before; empty if it had no other.
        boot: The last life on it; empty before the first.
    """

    node: str = ""
    inode: str = ""
    machine: str = ""
    formerly: str = ""
    boot: str = ""


def read_id(data_dir: Path) -> str | None:
    """The id of the node that lives here; None where none has lived yet.

    Raises:
        StoreError: The file can't be read, or holds no id; with the path.
    """
    path = data_dir / ID_FILE
    try:
        text = path.read_bytes().decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(path, error, "can't be read") from error
    if not is_id(text):
        raise StoreError(f"{path}: holds no node id but {text[:40]!r}; remove the file to start as a new node")
    return text


def write_id(data_dir: Path, node: str) -> None:
    """Keeps the node's id; it is on disk when this returns.

    Raises:
        DiskFull, DiskFailed: It can't be written; with the path.
    """
    write_private(data_dir / ID_FILE, f"{node}\n")


def whereabouts(path: Path) -> Noted:
    """What a database of no node would note that lies there, on this machine."""
    return Noted(inode=str(path.stat().st_ino), machine=machine_id(_MACHINE_FILES))


def machine_id(files: tuple[Path, ...]) -> str:
    """This machine's id, hashed, since it is nobody else's business; empty where there is none, as on macOS.

    Args:
        files: Where it may stand; the first that holds anything counts.
    """
    for path in files:
        try:
            found = path.read_bytes().strip()
        except OSError:
            continue
        if found:
            return hashlib.sha256(b"meshq machine\0" + found).hexdigest()[:16]
    return ""


def why_not_the_node(noted: Noted, found: Noted) -> str:
    """Why a database does not belong to the node that is to run on it; empty if nothing is against it.

    Args:
        noted: What the database notes.
        found: How it is: the node whose data directory this is, and the file's whereabouts.
    """
    if not noted.node and not noted.inode:
        return ""  # a new one, or of a version that noted nothing
    if noted.node != found.node:
        return "its database belongs to another node"
    if noted.inode != found.inode:
        return "its database was copied or restored"
    # A machine may get its id late, or lose it with an update: only two that differ say something.
    if noted.machine and found.machine and noted.machine != found.machine:
        return "its data directory was moved or copied to another machine"
    return ""


def read_noted(conn: Connection) -> Noted:
    """What the database notes about itself."""
    return Noted(**{key: meta.get(conn, key) or "" for key in _NOTED})


def write_noted(conn: Connection, noted: Noted) -> None:
    """Notes it."""
    for key in _NOTED:
        meta.put(conn, key, getattr(noted, key))


def read_running(conn: Connection) -> bool:
    """Whether the database was left without a stop in order."""
    return meta.get(conn, _RUNNING) is not None


def write_running(conn: Connection, running: bool) -> None:
    """Notes that a daemon runs on it from now on, or that it has stopped in order."""
    if running:
        meta.put(conn, _RUNNING, "1")
    else:
        meta.delete(conn, _RUNNING)
