"""The ways to a daemon: over the Unix socket on this machine, or to its port from elsewhere."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final, Protocol

import aiohttp
import platformdirs
from yarl import URL

from meshq.discovery import seeds
from meshq.discovery.seeds import Seed
from meshq.errors import ConfigError, MeshqError, NoAnswer, NoDaemon
from meshq.wire.unix import socket_path, squatter

# Above the daemon's backlog of connections a Unix socket refuses more, so the client keeps its own queue.
REQUESTS_MAX: Final = 64


class Way(Protocol):
    """How requests get to one daemon.

    Args:
        where: The daemon, in messages.
        url: What its paths are appended to.
    """

    where: str
    url: URL

    def connector(self) -> aiohttp.BaseConnector:
        """Makes its connections."""

    def context(self) -> ssl.SSLContext | bool:
        """How the next connection proves itself."""

    def turn(self, context: ssl.SSLContext | bool, error: Exception) -> None:
        """Takes another proof for what is sent from now on, if this error may mean that the one was not believed."""

    def met(self) -> None:
        """The daemon answered."""

    def timeout(self, connect_timeout_s: float, wait_s: float) -> aiohttp.ClientTimeout:
        """How long one request may take, if the daemon may hold the answer back for `wait_s`."""

    def silent(self, timeout_s: float) -> NoAnswer:
        """What to say when an answer did not come in time."""

    async def nobody(self, error: Exception, *, arrived: bool) -> MeshqError:
        """What to say when no request gets through any more; `arrived`: one may have got there."""


def default_data_dir() -> Path:
    """Where the local daemon keeps its data: `MESHQ_DATA_DIR`, else the user's own data directory."""
    given = os.environ.get("MESHQ_DATA_DIR")
    return Path(given).expanduser() if given else platformdirs.user_data_path("meshq")


def find(data_dir: Path | str | None, *, to: str | None, key: str | None, credential: str | None) -> Way:
    """The way to the daemon that is meant.

    Args:
        data_dir: A local daemon's data directory; None for the default.
        to: `HOST:PORT` of a daemon elsewhere.
        key: The key of its cluster; None for that in `MESHQ_KEY`, or in the data directory.
        credential: A credential's text, in place of a key.

    Raises:
        ConfigError: `to` is no address, or there is nothing to prove oneself with; BadKey: it is of no use.
        StoreError: The file with the key can't be read.
    """
    folder = default_data_dir() if data_dir is None else Path(data_dir)
    if to is not None:
        # Loaded here: most commands ask the local daemon, and prove nothing.
        from meshq.client import port, proof

        address = _address(to)
        return port.Port(address, proof.find(folder, key=key, credential=credential))
    if key is not None or credential is not None:
        given = "credential" if key is None else "key"
        raise ConfigError(f"a {given} is for a daemon elsewhere: say which, with --to HOST:PORT")
    return Socket(folder)


def _address(to: str) -> Seed:
    try:
        return seeds.parse(to)
    except ConfigError as error:
        raise ConfigError(f"--to {error.message.removeprefix('--seed ')}") from error


class Socket:
    """Over the Unix socket of the daemon with this data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._path = socket_path(data_dir)
        if (owner := squatter(self._path)) is not None:
            raise ConfigError(
                f"{self._path.parent} belongs to another user (uid {owner}), so that a daemon there is not yours; "
                "choose a data directory with a shorter path: --data-dir DIR"
            )
        self.where = f"the daemon at {self._path}"
        self.url = URL("http://meshq")

    def connector(self) -> aiohttp.BaseConnector:
        """Makes its connections."""
        return aiohttp.UnixConnector(str(self._path), limit=REQUESTS_MAX)

    def context(self) -> bool:
        """Nothing is proved there: the file's mode decides."""
        return True

    def turn(self, context: ssl.SSLContext | bool, error: Exception) -> None:
        """There is no other."""

    def met(self) -> None:
        """Changes nothing."""

    def timeout(self, connect_timeout_s: float, wait_s: float) -> aiohttp.ClientTimeout:
        """One connects there at once."""
        return aiohttp.ClientTimeout(total=connect_timeout_s + wait_s)

    def silent(self, timeout_s: float) -> NoAnswer:
        """It hangs."""
        return NoAnswer(f"{self.where} gave no answer within {timeout_s:g} s; it hangs or this machine is overloaded")

    async def nobody(self, error: Exception, *, arrived: bool) -> MeshqError:
        """Nobody listens, or it broke off."""
        if not isinstance(error, aiohttp.ClientConnectorError):
            return NoAnswer(f"{self.where} broke off; see its log, or start it again with: meshq up")
        if isinstance(error.os_error, PermissionError):
            return NoDaemon(f"{self.where} belongs to another user")
        kind = NoAnswer if arrived else NoDaemon
        return kind(f"no daemon listens at {self._path}; start one with: meshq up")
