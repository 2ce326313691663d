"""Every message between nodes, on one page; `requests.py` has those of clients and workers.

All are frozen dataclasses. On the wire each is a map from field to value, so that a field can be added in a
later version. Durations are in seconds and never deadlines. `bytes` fields hold packed values, which no daemon
needs to unpack.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshq.core.membership import Ended, Roster

# A node speaks its own version and the one before, so that machines can be upgraded in turn; a link uses the greatest
# that both its ends speak (`Transport.version_of`), the cluster the least of all replicas' `Hello.version`.
# Whoever does not know a field ignores it, and one that did not come has its default: so every new field has one, and
# none is taken away. Rows have no names: what a link's version does not know is not sent (`store/feed.py`).
# New in version 2: `Greeting.newest`, `Hello.version` and what follows it, `Rows.full`, `Rows.dropped`,
# `Roster.absorbed`, `Roster.into`, `Call.owner`; forwarded, the requests `Forget`, `TaskStoryQuery`, `CancelBatch`,
# `RetryFailed`, `LogQuery`, `LogHere`, `NamesQuery`, `Drain` and those about credentials, which version 1 refuses.
PROTOCOL_VERSION = 2
PROTOCOL_OLDEST = 1


# -- between nodes: control ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerHint:
    """Where a node was last reached, told to others. `addresses` are `IP:PORT` or `[IPv6]:PORT`."""

    node: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who I am and what I know; asked twice a second, answered in kind. Liveness is an answer to this.

    `version` is the newest protocol version that this node speaks. `leader` is whom it follows, itself perhaps, in
    `epoch`. `split` is `warm` or `cold` while it works without a majority. `hears` are the replicas that answer it.
    `formerly` is the id that it had before its database was copied or lost; `dissolved` are the clusters, by genesis,
    in which it was a replica and that its roster does not name yet. `keys` are the names of the keys that it accepts,
    `offered` is the next one while the key is being changed, `dropped` are the names of those that are valid no more.
    """

    boot: str
    name: str
    addresses: tuple[str, ...]
    roster: Roster
    votes: bool
    slots: int
    running: int
    stopping: bool = False
    peers: tuple[PeerHint, ...] = ()
    version: int = 1
    leader: str = ""
    epoch: int = 0
    split: str = ""
    hears: tuple[str, ...] = ()
    formerly: str = ""
    dissolved: dict[str, Ended] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    offered: str = field(default="", repr=False)
    dropped: tuple[str, ...] = ()

    @property
    def fresh(self) -> bool:
        """Whether its sender belongs to no cluster yet."""
        return not self.roster.genesis


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """Grant me the lease for this epoch; `pre` only asks whether you would.

    `handover_epoch` and `handover_holder` name the lease that its holder let go in favour of this candidate.
    """

    epoch: int
    pre: bool
    lease_s: float
    genesis: str
    handover_epoch: int = 0
    handover_holder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteAnswer:
    """Granted or not; `epoch` is the highest the voter promised. The rest is what it holds."""

    granted: bool
    pre: bool
    epoch: int
    reason: str = ""
    vector: dict[str, int]
    roster: Roster


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """I lead this epoch; follow me for another `lease_s` from now."""

    epoch: int
    lease_s: float
    genesis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewAnswer:
    """Followed or not; `epoch` is the highest the node promised."""

    followed: bool
    epoch: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """The steps of giving a lease away: `prepare` (leader to target), `ready` (back), `go` (the lease is let go)."""

    epoch: int
    step: str
    genesis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """I stop in order; take me off the roster."""

    genesis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Yes, and there is nothing more to say."""


# -- between nodes: bulk ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """All rows beyond my vector, please; wait up to `wait_s` for the first. `epoch` is the highest I promised."""

    vector: dict[str, int]
    epoch: int
    genesis: str
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A part of a pull's answer. Only the last one carries the vectors, which count once all parts are applied.

    `full` marks the parts of a full copy: what the asker holds beyond it is nobody else's. `dropped` is the vector
    of the newest tombstones that were dropped.
    """

    rows: bytes
    last: bool
    vector: dict[str, int]
    committed: dict[str, int]
    full: bool = False
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A client's or worker's request, forwarded one hop to the leader; `request` is its class's name.

    `owner` is the credential whose bearer sent it; empty for who has the cluster's key.
    """

    request: str
    body: bytes
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """The answer to a forwarded request; `answer` is its class's name."""

    answer: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No, and why. `code` is the name of the log line and of the counter."""

    code: str
    message: str
    retryable: bool


PEER_MESSAGES: tuple[type, ...] = (
    Hello, Vote, VoteAnswer, Renew, RenewAnswer, Handover, Leave, Done, Pull, Rows, Call, CallAnswer, Refused,
)  # fmt: skip
