"""What nodes tell people: tasks, the cluster, and the story of either. The answers to most of `requests.py`.

Frozen dataclasses, on the wire a map from field to value. Times that end in `_ms` are wall clock milliseconds, for
display only. `bytes` fields hold packed values.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task as people see it. `result` and `error` are packed; `queued` marks one that waits for a leader.

    `majority` is false for one that finished without a majority behind it: another outcome may replace this one.
    `owner` is the credential with which it was submitted, empty where that was the cluster's key. `progress` is what
    the run said last: done, total (0: not known) and a note. `ending` marks a cancelled one whose run has not ended.
    """

    id: str
    name: str
    state: str
    attempt: int
    result: bytes | None = None
    error: bytes | None = None
    retry_of: str | None = None
    priority: int = 0
    worker: str | None = None
    failures: int = 0
    crashes: int = 0
    losses: int = 0
    submitted_ms: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    queued: bool = False
    majority: bool = True
    owner: str = ""
    batch: str | None = None
    key: str | None = None
    not_before_ms: int = 0
    timeout_s: float | None = None
    retries: int = 0
    progress: tuple[float, float, str] | None = None
    ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The tasks that a request about several of them changed."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A part of what a task printed, on one node: `text` ends at the byte `next`, `lost` bytes before it are gone.

    `ended` says that no more comes: the task is finished, or its run was of another node since.
    """

    task: str
    node: str
    text: bytes
    next: int
    lost: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskViews:
    """Some tasks; `next` continues the list where there are more."""

    tasks: tuple[TaskView, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """Another outcome of a task than the one that stands: it ran twice, in parts that did not see each other.

    `differs` says whether the two differ in state, result or error.
    """

    task: str
    state: str
    worker: str | None
    epoch: int
    result: bytes | None
    error: bytes | None
    finished_ms: int | None
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a task: when by the writer's wall clock, which move, who wrote it in which epoch, and why."""

    at_ms: int
    move: str
    epoch: int
    node: str
    worker: str | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStory:
    """A task's story, oldest change first. `waits` is why it does not run now; empty if it does or is finished."""

    task: TaskView
    changes: tuple[Change, ...]
    waits: str = ""
    clashes: tuple[Clash, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node in the status. `heard_s` is null for one that never answered; `behind` counts rows, null if unknown.

    `paused` is why it gets no work; empty if it does. `drained` says that a person wants it so.
    """

    id: str
    name: str
    role: str
    address: str
    heard_s: float | None
    slots: int
    running: int
    behind: int | None
    paused: str = ""
    drained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What came home from a node that had gone on without the majority: numbers of tasks.

    `twice` of them had finished on both sides, `differed` with different outcomes; `held` are too old to be judged
    and were put aside.
    """

    at_ms: int
    node: str
    merged: int
    twice: int
    differed: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The cluster. `node` is who answers; `tasks` counts by state; `per_minute` are tasks finished.

    Without a majority, `split` is `warm` or `cold` where this part goes on all the same, `copies` is on how many
    machines, and `missing` are the replicas that it waits for. `merge` is the newest report of parts that met again.
    `insecure` says that the cluster has no key.
    """

    node: str
    leader: str | None
    epoch: int
    majority: bool
    nodes: tuple[NodeView, ...]
    tasks: dict[str, int]
    per_minute: int = 0
    queued: int = 0
    copies: int = 0
    split: str = ""
    missing: tuple[str, ...] = ()
    merge: MergeReport | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counters by name, since this daemon's start."""

    node: str
    boot: str
    uptime_s: float
    counters: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Yes; and whether work can be done now.

    `cluster` is its name, `protocol` the oldest and the newest version that it speaks, and `clock_s` a reading of
    the clock by which it times leases: two of them tell how fast that runs.
    """

    ok: bool
    node: str
    role: str
    leader: str | None
    version: str
    pid: int
    cluster: str = ""
    protocol: tuple[int, ...] = ()
    clock_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standpoint:
    """One node's place in the lease: `why` it does not lead, or how it came to."""

    node: str
    name: str
    role: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that this node noted: when by its wall clock, and what."""

    at_ms: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStory:
    """The cluster explained. `votes` are those who follow or granted; `waits` is what is missing; empty if nothing is.

    `since_ms` is when the present leader was first followed here. `events` are this node's newest ones, oldest first.
    """

    node: str
    leader: str | None
    epoch: int
    majority: bool
    since_ms: int | None
    votes: tuple[str, ...]
    nodes: tuple[Standpoint, ...]
    waits: str
    events: tuple[Event, ...]
    merges: tuple[MergeReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialView:
    """A credential on the list. `revoked_ms` is null for one that is valid."""

    name: str
    issued_ms: int
    revoked_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The list of credentials, by name."""

    credentials: tuple[CredentialView, ...]
