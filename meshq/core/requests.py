"""The requests that any node takes from clients and workers, and what workers are answered, on one page.

Frozen dataclasses, on the wire a map from field to value. Durations are in seconds and never deadlines. `bytes`
fields hold packed values, which no daemon needs to unpack. A follower forwards a request one hop to the leader.
Where a request has an `owner`, it sees and changes only tasks of that credential; empty, it sees all (`access.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from meshq.core.messages import Done
from meshq.core.reports import ClusterStory, Credentials, Health, Stats, Status, TaskStory, TaskView, TaskViews


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """A parameter of a task: `kind` is inspect's (`POSITIONAL_OR_KEYWORD` …), `type` a word of signature.TYPES."""

    name: str
    kind: str
    required: bool
    type: str = "any"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """What a node says about a task that it knows."""

    name: str
    doc: str = ""
    params: tuple[Param, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A task to be submitted. `payload` is the packed `[args, kwargs]`. The `owner` is the server's to say."""

    id: str
    name: str
    payload: bytes
    priority: int = 0
    not_before_ms: int = 0
    timeout_s: float | None = None
    retries: int = 0
    backoff_s: float = 1.0
    key: str | None = None
    retry_of: str | None = None
    batch: str | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Keep these tasks. One that is there already, by its id, is the same task. `late` marks those from an outbox."""

    tasks: tuple[TaskSpec, ...]
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Kept: on how many disks, whether they make a majority, and whether they still wait for a leader."""

    ids: tuple[str, ...]
    copies: int
    majority: bool
    queued: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRef:
    """One run, as its worker names it."""

    task: str
    epoch: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run, as the leader gives it out."""

    id: str
    name: str
    epoch: int
    attempt: int
    payload: bytes
    timeout_s: float | None = None

    @property
    def claim(self) -> ClaimRef:
        """How the worker names this run."""
        return ClaimRef(task=self.id, epoch=self.epoch, attempt=self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """Work for me: `free` slots are idle. `holds` are all runs I have; whatever an earlier Get of this boot was
    given and is not among them never arrived. `number` counts this boot's Gets."""

    node: str
    boot: str
    number: int
    slots: int
    free: int
    names: tuple[str, ...]
    holds: tuple[ClaimRef, ...] = ()
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """Runs to start, given in this epoch; none where the wait ran out."""

    epoch: int
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """I live and these are all the runs I have. `tasks` is told when the leader asked for it."""

    node: str
    boot: str
    name: str
    slots: int
    running: tuple[ClaimRef, ...] = ()
    tasks: tuple[TaskInfo, ...] | None = None
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswer:
    """`invalid` are the tasks whose runs here count no longer: end them. `tell` asks for the task infos."""

    epoch: int
    invalid: tuple[str, ...] = ()
    tell: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one run ended.

    `kind` is `done`, `failed` (raised, timed out), `crashed` (the child died) or `released` (never begun, or ended
    by a drain; costs no attempt). `error` is the packed `{type, message, traceback}`; `final` forbids a retry.
    """

    task: str
    epoch: int
    attempt: int
    kind: str
    result: bytes | None = None
    error: bytes | None = None
    final: bool = False
    run_s: float = 0.0

    @property
    def claim(self) -> ClaimRef:
        """The run that ended, as the worker names it."""
        return ClaimRef(task=self.task, epoch=self.epoch, attempt=self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitResult:
    """How runs ended. All are taken, or none and the answer is an error."""

    node: str
    boot: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsTaken:
    """All are on a majority's disks or were known already; `dropped` counted for nothing, with the reason.

    `queued` marks those that wait on this disk for a leader.
    """

    epoch: int
    dropped: dict[str, str]
    queued: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """One task, by its id or a unique beginning or end; wait up to `wait_s` until it is finished."""

    id: str
    wait_s: float = 0.0
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitQuery:
    """Those of these tasks that are finished; wait up to `wait_s` until at least one is. Whole ids only."""

    ids: tuple[str, ...]
    wait_s: float = 0.0
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksQuery:
    """Tasks, newest first: of one state or name where given, `after` an id of an earlier page."""

    state: str | None = None
    name: str | None = None
    limit: int = 50
    after: str | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Call this task off."""

    id: str
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A new task like this finished one."""

    id: str
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusQuery:
    """The cluster, as the leader sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsQuery:
    """This node's own counters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthQuery:
    """Do you live?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Stop this daemon in stages; only from this machine. With `leave` it leaves the cluster for good."""

    leave: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recover:
    """Make this node's copy the cluster; only from this machine, and only where no majority can be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeKey:
    """Begin (`rotate`) or end (`finish`) a change of the cluster's key; only from this machine.

    It does not end while a machine that was heard lately lacks the new key, unless `force` says so.
    """

    step: str
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """This node never comes back: take it off the roster. `node` is an id, a unique end of one, or a name."""

    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialAdd:
    """Put a credential of this name on the list; none of it was there before. Only under a majority."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRevoke:
    """Let the credential of this name be valid no more, for good. Only under a majority."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsQuery:
    """All credentials on the list, or the one of this name."""

    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStoryQuery:
    """What happened to one task, by its id or a unique beginning or end."""

    id: str
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStoryQuery:
    """Who leads, why, and why no other node does; as this node sees it."""


Request = (
    Submit | Get | Heartbeat | SubmitResult | TaskQuery | WaitQuery | TasksQuery | Cancel | Retry
    | StatusQuery | StatsQuery | HealthQuery | Stop | Recover | ChangeKey | Forget | TaskStoryQuery | ClusterStoryQuery
    | CredentialAdd | CredentialRevoke | CredentialsQuery
)  # fmt: skip
Answer = (
    Submitted | Got | HeartbeatAnswer | ResultsTaken | TaskView | TaskViews | Status | Stats | Health | Done
    | TaskStory | ClusterStory | Credentials
)  # fmt: skip


ANSWER_TO: dict[type, type] = {
    Submit: Submitted, Get: Got, Heartbeat: HeartbeatAnswer, SubmitResult: ResultsTaken,
    TaskQuery: TaskView, WaitQuery: TaskViews, TasksQuery: TaskViews, Cancel: TaskView, Retry: Submitted,
    StatusQuery: Status, StatsQuery: Stats, HealthQuery: Health, Stop: Done, Recover: Done, ChangeKey: Done,
    Forget: Done,
    TaskStoryQuery: TaskStory, ClusterStoryQuery: ClusterStory, CredentialAdd: Done, CredentialRevoke: Done,
    CredentialsQuery: Credentials,
}  # fmt: skip
