"""The requests that any node takes from clients and workers, and what workers are answered, on one page.

Frozen dataclasses, on the wire a map from field to value. Durations are in seconds and never deadlines. `bytes`
fields hold packed values, which no daemon needs to unpack. A follower forwards a request one hop to the leader.
Where a request has an `owner`, it sees and changes only tasks of that credential; empty, it sees all (`access.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from meshq.core.infos import Names, TaskInfo
from meshq.core.messages import Done
from meshq.core.reports import (
    Changed,
    ClusterStory,
    Credentials,
    Health,
    Log,
    Stats,
    Status,
    TaskStory,
    TaskView,
    TaskViews,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A task to be submitted. `payload` is the packed `[args, kwargs]`. The `owner` is the server's to say.

    `backoff` is `constant`, `linear` or `exponential`: how `backoff_s` grows from one retry to the next. At most
    `max_running` tasks of this name run at once in the whole cluster, as far as this one is concerned; 0 is no bound.
    `keep_s` is how long the finished task is kept; None is the cluster's `keep_finished_s`, 0 purges it at once.
    `unset` names the options that are left to the task's own (`TaskInfo`).
    """

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
    backoff: str = "exponential"
    max_running: int = 0
    keep_s: float | None = None
    unset: tuple[str, ...] = ()


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
    """One run, as the leader gives it out. `checkpoint` is what an earlier run of the task kept last."""

    id: str
    name: str
    epoch: int
    attempt: int
    payload: bytes
    timeout_s: float | None = None
    checkpoint: bytes | None = None

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
class RunProgress:
    """How far a run says that it is: `done` of `total` in its own unit, 0 where it does not know; and a note."""

    task: str
    done: float = 0.0
    total: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """I live and these are all the runs I have. `tasks` is told when the leader asked for it.

    `drained` says that a person took this node out of the work; `progress` is of the runs that tell any.
    """

    node: str
    boot: str
    name: str
    slots: int
    running: tuple[ClaimRef, ...] = ()
    tasks: tuple[TaskInfo, ...] | None = None
    draining: bool = False
    drained: bool = False
    progress: tuple[RunProgress, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswer:
    """`invalid` are the tasks whose runs here count no longer: end them. `tell` asks for the task infos."""

    epoch: int
    invalid: tuple[str, ...] = ()
    tell: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one run ended, or what it kept on its way.

    `kind` is `done`, `failed` (raised, timed out), `crashed` (the child died), `released` (never begun, or ended
    by a drain; costs no attempt) or `kept`: it goes on, and `checkpoint` is for the next run of its task. `error` is
    the packed `{type, message, traceback}`; `final` forbids a retry.
    """

    task: str
    epoch: int
    attempt: int
    kind: str
    result: bytes | None = None
    error: bytes | None = None
    final: bool = False
    run_s: float = 0.0
    checkpoint: bytes | None = None

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
    """Tasks, newest first: of one state, name or batch where given, `after` an id of an earlier page."""

    state: str | None = None
    name: str | None = None
    limit: int = 50
    after: str | None = None
    owner: str = ""
    batch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Call this task off; wait up to `wait_s` until its run has ended, too."""

    id: str
    owner: str = ""
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelBatch:
    """Call off all open tasks of this batch."""

    batch: str
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A new task like this finished one."""

    id: str
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryFailed:
    """New tasks like the failed ones, of this batch or of all, that were not run again yet."""

    batch: str | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """What a task printed, from the byte `after` on; wait up to `wait_s` for more."""

    id: str
    after: int = 0
    wait_s: float = 0.0
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHere:
    """The same, of a whole id, from the leader to the node that ran the task."""

    id: str
    after: int = 0
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NamesQuery:
    """Which tasks can be submitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Take this node, named as in `Forget`, out of the work, or with `resume` back; empty is whoever is asked."""

    node: str = ""
    resume: bool = False


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
    """Begin (`rotate`) or end (`finish`) a change of the cluster's key; only from this machine. It does not end while
    a machine that was heard lately lacks the new key, unless `force` says so."""

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
    | CancelBatch | RetryFailed | LogQuery | LogHere | NamesQuery | Drain
)  # fmt: skip
Answer = (
    Submitted | Got | HeartbeatAnswer | ResultsTaken | TaskView | TaskViews | Status | Stats | Health | Done
    | TaskStory | ClusterStory | Credentials | Changed | Log | Names
)  # fmt: skip


ANSWER_TO: dict[type, type] = {
    Submit: Submitted, Get: Got, Heartbeat: HeartbeatAnswer, SubmitResult: ResultsTaken,
    TaskQuery: TaskView, WaitQuery: TaskViews, TasksQuery: TaskViews, Cancel: TaskView, Retry: Submitted,
    StatusQuery: Status, StatsQuery: Stats, HealthQuery: Health, Stop: Done, Recover: Done, ChangeKey: Done,
    Forget: Done,
    TaskStoryQuery: TaskStory, ClusterStoryQuery: ClusterStory, CredentialAdd: Done, CredentialRevoke: Done,
    CredentialsQuery: Credentials,
    CancelBatch: Changed, RetryFailed: Submitted, LogQuery: Log, LogHere: Log, NamesQuery: Names, Drain: Done,
}  # fmt: skip
