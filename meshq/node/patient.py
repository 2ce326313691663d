"""What a look at machines that do not meet came to, and this machine as far as it matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from meshq.client.aio import AsyncClient
from meshq.config import Config
from meshq.core import keys
from meshq.core.ids import short
from meshq.core.keys import Key
from meshq.core.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION
from meshq.core.reports import Health, NodeView
from meshq.errors import MeshqError, NoAnswer, NoDaemon
from meshq.store import identity, keyfile


class Cause(StrEnum):
    """What keeps machines from meeting."""

    NOTHING = ""
    NO_DAEMON = "no_daemon"
    HANGS = "hangs"
    NO_NETWORK = "no_network"
    INTERFACE = "interface"
    NO_MULTICAST = "no_multicast"
    NOBODY = "nobody"
    UNKNOWN_HOST = "unknown_host"
    HOST_DOWN = "host_down"
    NO_WAY = "no_way"
    FIREWALL = "firewall"
    PORT_CLOSED = "port_closed"
    NO_MESHQ = "no_meshq"
    NO_KEY = "no_key"
    OTHER_KEY = "other_key"
    CLONED_ID = "cloned_id"
    OTHER_CLUSTER = "other_cluster"
    VERSION = "version"
    CLOCK_RATE = "clock_rate"
    NOT_MET = "not_met"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look came to.

    Args:
        what: What was looked at: a part of this machine, or another one's address.
        text: What was found, and what to do.
        cause: What is wrong there.
    """

    what: str
    text: str
    cause: Cause = Cause.NOTHING

    @property
    def well(self) -> bool:
        """Whether nothing is wrong there."""
        return self.cause is Cause.NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """This machine, as far as it matters.

    Args:
        config: Its settings.
        client: Asks its daemon.
        daemon: What came of that.
        keys: Its keys; none where it has none.
        insecure: Whether there is to be none.
        node: Its id; empty where no daemon ran yet.
        boot: The present life of its daemon; empty where none answers.
        cluster: Its cluster's name.
        protocol: The oldest and the newest version that it speaks.
    """

    config: Config
    client: AsyncClient
    daemon: Finding
    keys: Sequence[Key]
    insecure: bool
    node: str
    boot: str
    cluster: str
    protocol: tuple[int, int]

    async def known(self) -> list[NodeView]:
        """The other nodes that its daemon knows."""
        if not self.boot:
            return []
        try:
            return [each for each in (await self.client.status()).nodes if each.id != self.node]
        except MeshqError:
            return []  # it stops, or hangs


async def admit(config: Config, data_dir: Path, client: AsyncClient) -> Patient:
    """Looks at what is kept on this machine, and asks its daemon, which may have been started with other settings.

    Args:
        config: The settings as they are now.
        data_dir: The daemon's.
        client: Asks it.

    Raises:
        BadKey: The settings hold a key that is none.
        StoreError: The data directory can't be read.
    """
    held: Sequence[Key] = () if config.insecure else keyfile.read(data_dir).keys
    if config.key and not held and not config.insecure:
        held = [keys.parse(config.key)]
    try:
        health, stats, status = await client.health(), await client.stats(), await client.status()
    except NoDaemon as error:
        cause = Cause.HANGS if isinstance(error, NoAnswer) else Cause.NO_DAEMON
        daemon = Finding(what="daemon", text=error.message, cause=cause)
        return Patient(
            config=config, client=client, daemon=daemon, keys=held, insecure=config.insecure,
            node=identity.read_id(data_dir) or "", boot="", cluster=config.cluster,
            protocol=(PROTOCOL_OLDEST, PROTOCOL_VERSION),
        )  # fmt: skip
    text = f"runs here: {short(health.node)}, of cluster {health.cluster!r}"
    return Patient(
        config=config, client=client, daemon=Finding(what="daemon", text=text), keys=() if status.insecure else held,
        insecure=status.insecure, node=health.node, boot=stats.boot, cluster=health.cluster,
        protocol=versions(health),
    )  # fmt: skip


def versions(health: Health) -> tuple[int, int]:
    """The oldest and the newest protocol version that a daemon speaks; the first ones told none."""
    return (health.protocol[0], health.protocol[-1]) if health.protocol else (1, 1)
