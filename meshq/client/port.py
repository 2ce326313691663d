"""The way to a daemon elsewhere: to its port, in TLS."""

from __future__ import annotations

import ssl
from typing import Final

import aiohttp
from yarl import URL

from meshq.client import proof, sight
from meshq.client.proof import Proof
from meshq.client.sight import Kind, Sight
from meshq.client.ways import REQUESTS_MAX
from meshq.discovery.seeds import Seed
from meshq.errors import BadKey, ConfigError, MeshqError, NoAnswer, NoDaemon
from meshq.wire import security

LOOK_S: Final = 3.0


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
        doubted = (
            not isinstance(error, aiohttp.ClientConnectorError) or security.cause_of(error, ssl.SSLError) is not None
        )
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
        if (away := sight.unreached(error)) is not None:
            return kind(self._away(away))
        if security.cause_of(error, security.NoNode) is not None:
            return BadKey(f"{to} shows a client's certificate, and no machine's: it is none of the cluster's machines")
        seen = await sight.look(to.host, to.port, LOOK_S)
        told = seen.kind in (Kind.SECURED, Kind.INSECURE, Kind.OTHER)
        if not told or (self._met and seen.issuer in self._proof.issuers):
            return NoAnswer(f"{self.where} broke off; see the log there")
        return self._judged(seen, kind)

    def _away(self, seen: Sight) -> str:
        """What to say of an address where nobody was reached."""
        to = self._address
        match seen.kind:
            case Kind.UNKNOWN:
                return f"no machine {to.host} is known here; its IP address will do, too: --to IP:{to.port}"
            case Kind.SILENT:
                return f"nothing at {to} answered: is that machine on, its firewall open, and the port meshq's?"
            case Kind.CLOSED:
                return f"no daemon listens at {to}; start it there with: meshq up (it tells its port)"
            case Kind.ABSENT | Kind.NO_WAY:
                return f"no way leads to {to.host}: is it on this network, and is that machine on?"
            case _:
                return f"{to} can't be reached: {seen.text}"

    def _judged(self, seen: Sight, kind: type[NoDaemon]) -> MeshqError:
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
