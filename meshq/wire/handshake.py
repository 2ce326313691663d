"""The first frame of each side of a link: who I am, and whether we belong together."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Final

from meshq.core import ids
from meshq.core.addresses import format_address
from meshq.core.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION, Refused
from meshq.core.texts import printable
from meshq.errors import Malformed
from meshq.wire import codec

CONTROL: Final = "control"
BULK: Final = "bulk"
KINDS: Final = (CONTROL, BULK)
GREETING_S: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is to others.

    Args:
        node: Its id.
        boot: Its present life, an id too: of two lives of one node the greater is the younger.
        cluster_hash: What stands for the cluster, with the name and key of it hidden.
        port: Where it listens; 0 where it doesn't.
        version: The newest protocol version that it speaks.
        oldest: The oldest one, from 1 to `version`; it speaks all in between.
    """

    node: str
    boot: str
    cluster_hash: str
    port: int
    version: int = PROTOCOL_VERSION
    oldest: int = PROTOCOL_OLDEST

    def __post_init__(self) -> None:
        if not 1 <= self.oldest <= self.version:
            raise ValueError(f"a node can't speak protocol versions {self.oldest} to {self.version}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The first frame; whoever accepted the link may say `refused` in it, and then ends it.

    `version` is the oldest protocol version that its sender speaks, `newest` the newest. A node of version 1 tells
    and knows only the first, and takes no other than its own: so this is what keeps a link with one possible.
    """

    version: int
    cluster: str
    node: str
    boot: str
    kind: str
    port: int
    refused: Refused | None = None
    newest: int | None = None


_ALLOWED = {"Greeting": Greeting}
# Why the other side may refuse: what it says beyond these would be names of its own making.
_CODES: Final = frozenset({
    "link_other_version", "link_other_cluster", "link_myself", "link_cloned", "link_malformed", "link_older_boot",
})  # fmt: skip
_REASON_CHARS_MAX: Final = 300


def greeting(me: Identity, kind: str, refused: Refused | None = None) -> bytes:
    """My first frame on a link of this kind."""
    return codec.encode(
        Greeting(
            version=me.oldest, newest=me.version, cluster=me.cluster_hash, node=me.node, boot=me.boot, kind=kind,
            port=me.port, refused=refused,
        )
    )  # fmt: skip


def read(data: bytes) -> Greeting:
    """The other side's first frame, with `newest` filled in, and `refused` in words that can be counted and shown.

    Raises:
        Malformed: It is no greeting.
    """
    found: Greeting = codec.decode(data, _ALLOWED)
    if not ids.is_id(found.node) or not ids.is_id(found.boot):
        raise Malformed("a greeting names a node or boot that is no id")
    if found.kind not in KINDS or not 0 <= found.port <= 65535:
        raise Malformed(f"a greeting of kind {found.kind[:20]!r} with port {found.port}")
    newest = found.version if found.newest is None else found.newest
    if not 1 <= found.version <= newest:
        raise Malformed(f"a greeting of protocol versions {found.version} to {newest}; they count from 1")
    return replace(found, newest=newest, refused=found.refused and _shown(found.refused))


def _shown(refused: Refused) -> Refused:
    code = refused.code if refused.code in _CODES else "link_refused"
    return replace(refused, code=code, message=printable(refused.message[:_REASON_CHARS_MAX]))


def agreed(me: Identity, other: Greeting) -> int:
    """The protocol version of a link between the two: the greatest that both speak; 0 where there is none."""
    version = min(me.version, other.newest or other.version)
    return version if version >= max(me.oldest, other.version) else 0


def verdict(me: Identity, other: Greeting, kind: str) -> Refused | None:
    """Why this link must not be; None where nothing is against it. The code is the counter's name, too."""
    if not agreed(me, other):
        return _refused("link_other_version", _no_common_version(me, other))
    if other.cluster != me.cluster_hash:
        return _refused("link_other_cluster", "another cluster: the two machines have different cluster names")
    if other.node == me.node and other.boot == me.boot:
        return _refused("link_myself", "this is my own address")
    if other.node == me.node:
        return _refused(
            "link_cloned",
            f"another daemon has the node id …{ids.short(me.node)}: its data directory was copied",
        )
    if other.kind != kind:
        return _refused("link_malformed", f"greeted as {other.kind} on a {kind} link")
    return None


def _no_common_version(me: Identity, other: Greeting) -> str:
    older = "this one" if me.version < other.version else "that one"
    theirs, mine = _versions(other.version, other.newest or other.version), _versions(me.oldest, me.version)
    return (
        f"that machine (…{ids.short(other.node)}) speaks protocol {theirs}, this one (…{ids.short(me.node)}) {mine}: "
        f"upgrade meshq on {older}"
    )


def _versions(oldest: int, newest: int) -> str:
    return f"version {newest}" if oldest == newest else f"versions {oldest} to {newest}"


def older_boot(node: str) -> Refused:
    """Why a node's earlier life is refused."""
    return _refused("link_older_boot", f"a younger daemon with the node id …{ids.short(node)} is linked already")


def _refused(code: str, message: str) -> Refused:
    return Refused(code=code, message=message, retryable=True)


def join_address(host: str, port: int) -> str:
    """An address as people and messages write it; an IPv4 address inside IPv6 becomes plain."""
    try:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
    except ValueError:
        mapped = None
    return format_address(str(mapped or host), port)
