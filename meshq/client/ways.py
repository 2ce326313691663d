"""The ways to a daemon: over the Unix socket on this machine, or to its port from elsewhere."""

from __future__ import annotations

import errno
import os
import ssl
from pathlib import Path
from typing import Final, Protocol

import aiohttp
import platformdirs
from yarl import URL

from meshq.client import proof, sight
from meshq.client.proof import NoNode, Proof
from meshq.client.sight import Kind
from meshq.discovery import seeds
from meshq.discovery.seeds import Seed
from meshq.errors import BadKey, ConfigError, MeshqError, NoAnswer, NoDaemon
from meshq.wire.server import socket_path

# Above the daemon's backlog of connections a Unix socket refuses more, so the client keeps its own queue.
REQUESTS_MAX: Final = 64
LOOK_S: Final = 3.0
_NO_ROUTE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})


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
        address = _address(to)
        return Port(address, proof.find(folder, key=key, credential=credential))
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


class Port:
    """To the port of a daemon elsewhere, in TLS.

    Args:
        address: Where it is.
        shown: What it is shown.
    """

    def __init__(self, address: Seed, shown: Proof) -> None:
        self.where = f"the daemon at {address}"
        self.url = URL.build(scheme="https", host=address.host, port=address.port)
        self._address = address
        self._proof = shown
        self._at = 0
        self._met = False

    def connector(self) -> aiohttp.BaseConnector:
        """Makes its connections."""
        return aiohttp.TCPConnector(limit=REQUESTS_MAX)

    def context(self) -> ssl.SSLContext:
        """How the next connection proves itself."""
        return self._proof.contexts[self._at]

    def turn(self, context: ssl.SSLContext | bool, error: Exception) -> None:
        """Takes the next key, unless another request has done so already."""
        # Who was called judges last, and hangs up without a word: any loss of a connection may be that.
        doubted = not isinstance(error, aiohttp.ClientConnectorError) or _cause(error, ssl.SSLError) is not None
        if doubted and context is self.context():
            self._at = (self._at + 1) % len(self._proof.contexts)

    def met(self) -> None:
        """It was no other's key."""
        self._met = True

    def timeout(self, connect_timeout_s: float, wait_s: float) -> aiohttp.ClientTimeout:
        """So long to connect, and as long again for the answer."""
        return aiohttp.ClientTimeout(total=2 * connect_timeout_s + wait_s, sock_connect=connect_timeout_s)

    def silent(self, timeout_s: float) -> NoAnswer:
        """It hangs."""
        return NoAnswer(f"{self.where} gave no answer within {timeout_s:g} s; it hangs or that machine is overloaded")

    async def nobody(self, error: Exception, *, arrived: bool) -> MeshqError:
        """Why it can't be reached, and what to do about it."""
        kind, to = NoAnswer if arrived else NoDaemon, self._address
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return kind(f"no machine {to.host} is known here; its IP address will do, too: --to IP:{to.port}")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return kind(f"nothing at {to} answered: is that machine on, its firewall open, and the port meshq's?")
        why = getattr(error, "os_error", None)
        if isinstance(why, ConnectionRefusedError):
            return kind(f"no daemon listens at {to}; start it there with: meshq up (it tells its port)")
        if isinstance(why, OSError) and why.errno in _NO_ROUTE:
            return kind(f"no way leads to {to.host}: is it on this network, and is that machine on?")
        if isinstance(why, OSError) and not isinstance(why, (ssl.SSLError, ConnectionError)):
            return kind(f"{to} can't be reached: {why.strerror or why}")
        if _cause(error, NoNode) is not None:
            return BadKey(f"{to} shows a client's certificate, and no machine's: it is none of the cluster's machines")
        seen = await sight.look(to.host, to.port, LOOK_S)
        if seen.kind is Kind.NOBODY or (self._met and seen.issuer in self._proof.issuers):
            return NoAnswer(f"{self.where} broke off; see the log there")
        return self._judged(seen, kind)

    def _judged(self, seen: sight.Sight, kind: type[NoDaemon]) -> MeshqError:
        """What to say of somebody who never answered a request."""
        to, source = self._address, self._proof.source
        if seen.kind is Kind.INSECURE:
            return ConfigError(
                f"the meshq at {to} is insecure: it has no key, and --to talks only to one that has; start it there "
                "without --insecure"
            )
        if seen.kind is Kind.OTHER:
            return kind(
                f"no meshq answers at {to}, but something else: is the port right? (meshq status shows it there)"
            )
        if seen.issuer in self._proof.issuers:
            return BadKey(f"{self.where} hung up: it does not take {source} any more; {self._remedy()}")
        return BadKey(f"that machine has another key: {to} does not know {source}; {self._remedy()}")

    def _remedy(self) -> str:
        if self._proof.credential is not None:
            return "ask for another there: meshq key issue --submit-only NAME"
        return f"meshq key show prints the right one there (give it as {proof.KEY_VARIABLE})"


def _cause(error: BaseException, kind: type[Exception]) -> BaseException | None:
    """What of this kind an error was raised for."""
    known: BaseException | None = error
    while known is not None and not isinstance(known, kind):
        known = getattr(known, "os_error", None) or known.__cause__
    return known
