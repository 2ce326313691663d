"""The words of the lease: where a node stands, what happens to it, and what it wants done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from meshq.core.membership import Roster
from meshq.core.messages import Done, Handover, Refused, Renew, RenewAnswer, Vote, VoteAnswer


@dataclass(frozen=True, slots=True)
class Promise:
    """A voter's word, as it stands on disk: it follows `holder` in `epoch` and nobody of a lower one.

    `lease_s` is the longest lease that was promised under it.
    """

    epoch: int = 0
    holder: str = ""
    lease_s: float = 0.0


class Role(StrEnum):
    """Where a node stands between following and leading."""

    FOLLOWER = "follower"
    ASKING = "asking"  # a pre-vote: would a majority grant?
    READY = "ready"  # a pre-vote for a hand-over was won; the holder has to let go
    VOTING = "voting"
    GATHERING = "gathering"
    LEADER = "leader"


HOLDING = frozenset({Role.GATHERING, Role.LEADER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations in seconds; `margin` is the part of a lease that the leader counts."""

    heartbeat_s: float
    lease_s: float
    margin: float
    stand_step_s: float
    alive_s: float


# -- events ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """The instant that `deadline` named has come."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request of another node; its effects hold exactly one reply."""

    sender: str
    message: Vote | Renew | Handover


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to a request that was sent at `sent_s`, on this node's lease clock."""

    sender: str
    sent_s: float
    request: Vote | Renew
    answer: VoteAnswer | RenewAnswer


@dataclass(frozen=True, slots=True)
class Heard:
    """A node answered something else: it is alive."""

    sender: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that this granter held is here, its roster too; `roster` is the newest one here."""

    epoch: int
    sender: str
    roster: Roster


@dataclass(frozen=True, slots=True)
class GatherFailed:
    """This granter could not be pulled from."""

    epoch: int
    sender: str


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """A newer roster was written here."""

    roster: Roster


@dataclass(frozen=True, slots=True)
class Outdated:
    """Rows of this epoch came home: a leader of a lower one can't change them."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Established:
    """The first write of this epoch is committed."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Resign:
    """The node can't go on as leader or candidate; of one epoch only where that is named."""

    reason: str
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class HandOver:
    """Begin to hand the lease over to this replica."""

    target: str


@dataclass(frozen=True, slots=True)
class LetGo:
    """The target holds everything and no write is under way: let the lease of this epoch go."""

    target: str
    epoch: int


Event = (
    Tick | Received | Answered | Heard | Gathered | GatherFailed
    | RosterChanged | Outdated | Established | Resign | HandOver | LetGo
)  # fmt: skip


# -- effects, to be carried out in their order; after a Persist that failed, none ------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Have this on disk before anything that follows leaves the node."""

    promise: Promise


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to the request that is being handled."""

    message: RenewAnswer | Done | Refused


@dataclass(frozen=True, slots=True)
class VoteReply:
    """The answer to a Vote; the driver adds what this node holds."""

    granted: bool
    pre: bool
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """A request to one replica."""

    to: str
    message: Vote | Renew | Handover


@dataclass(frozen=True, slots=True)
class SendAll:
    """A renewal to every node that can be reached, on the roster or not."""

    message: Renew


@dataclass(frozen=True, slots=True)
class Gather:
    """Pull from these granters what they hold more than this node."""

    epoch: int
    granters: Mapping[str, VoteAnswer]


@dataclass(frozen=True, slots=True)
class Lead:
    """This node leads this epoch from now."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Ended:
    """This node's candidature or leadership of this epoch is over for good."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Follow:
    """This node follows another leader, or none."""

    leader: str | None
    epoch: int


@dataclass(frozen=True, slots=True)
class HandoverReady:
    """The target has its majority: stop writing, wait until it holds everything, then `LetGo`."""

    target: str


Effect = Persist | Reply | VoteReply | Send | SendAll | Gather | Lead | Ended | Follow | HandoverReady
