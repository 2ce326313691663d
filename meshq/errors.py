"""Every way in which meshq says no: whose fault it is, what it is called on the wire, and its HTTP status."""

from __future__ import annotations

from typing import Any, ClassVar


class MeshqError(Exception):
    """Something inside meshq went wrong; the daemon's log says more.

    The first line of a class's docstring is its default message.

    Args:
        message: What was wrong, where, and what is allowed; one line.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        doc = (type(self).__doc__ or "").strip().splitlines()
        self.message = message or (doc[0] if doc else self.code)
        super().__init__(self.message)

    def append(self, text: str) -> None:
        """Adds to the message what only the caller knows."""
        self.message += text
        self.args = (self.message,)

    def to_wire(self) -> dict[str, Any]:
        """The body of an error answer: `{code, message, retryable}`."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable}


class Malformed(MeshqError):
    """The request is not well formed."""

    code, status = "malformed", 400


class Forbidden(MeshqError):
    """This is not allowed from there."""

    code, status = "forbidden", 403


class NotFound(MeshqError):
    """There is no such task."""

    code, status = "not_found", 404


class Conflict(MeshqError):
    """The request contradicts what is there."""

    code, status = "conflict", 409


class Ambiguous(Conflict):
    """More than one task fits this id; give more of its characters."""

    code = "ambiguous"


class StaleEpoch(Conflict):
    """The request belongs to an epoch that is over."""

    code, retryable = "stale_epoch", True


class TooLarge(MeshqError):
    """The body is larger than this cluster takes."""

    code, status = "too_large", 413


class UnknownTask(MeshqError):
    """No live node knows a task of this name."""

    code, status = "unknown_task", 422


class BadArguments(MeshqError):
    """The arguments do not fit the task's signature."""

    code, status = "bad_arguments", 422


class Unencodable(MeshqError):
    """A value can't be sent."""

    code, status = "unencodable", 422


class QueueFull(MeshqError):
    """The queue holds as many tasks as it may; try again when some are finished."""

    code, status, retryable = "queue_full", 429, True


class NoLeader(MeshqError):
    """No node leads at the moment; try again in a few seconds."""

    code, status, retryable = "no_leader", 503, True


class NotLeader(NoLeader):
    """This node does not lead."""

    code = "not_leader"


class Stopping(NoLeader):
    """This node is stopping and takes no new work."""

    code = "stopping"


class Unreachable(NoLeader):
    """The other node did not answer."""

    code = "unreachable"


class StoreError(MeshqError):
    """The database can't be used."""

    code = "store"


class Undecided(MeshqError):
    """It can't be said yet whether this can be done; try again in a few seconds."""

    code, status, retryable = "undecided", 503, True


class DiskFull(StoreError):
    """The disk of the data directory is full; nothing was kept."""

    code, status = "disk_full", 507


class DiskFailed(StoreError):
    """The disk of the data directory can't be written; see whether it is read-only or failing."""

    code, status, retryable = "disk_failed", 503, True


class CorruptDatabase(StoreError):
    """This node's database is damaged and is made anew; try again in a few seconds."""

    code, status, retryable = "corrupt_database", 503, True


class NewerDatabase(StoreError):
    """The database was written by a newer meshq; upgrade this machine."""

    code = "newer_database"


class InvariantBroken(MeshqError):
    """A rule that always holds was broken; this is a bug in meshq."""

    code = "invariant"


class ConfigError(MeshqError):
    """The configuration is wrong."""

    code, status = "config", 400


class BadKey(ConfigError):
    """This is no key."""

    code = "bad_key"


class NoDaemon(MeshqError):
    """No meshq daemon answers on this machine; start one with: meshq up."""

    code, status = "no_daemon", 503


class NoAnswer(NoDaemon):
    """The daemon gave no answer; it may have done what it was asked to all the same."""

    code = "no_answer"


class WaitTimeout(MeshqError):
    """The task is not finished yet."""

    code, status, retryable = "timeout", 504, True


class TaskFailed(MeshqError):
    """The task ended without a result.

    Args:
        message: The failure in one line.
        error: The task's error as stored: type, message, traceback.
        task_id: The task.
        state: `failed` or `cancelled`.
    """

    code, status = "task_failed", 424

    def __init__(
        self,
        message: str = "",
        *,
        error: dict[str, Any] | None = None,
        task_id: str = "",
        state: str = "failed",
    ) -> None:
        super().__init__(message)
        self.error = error
        self.task_id = task_id
        self.state = state


def _subclasses(cls: type[MeshqError]) -> list[type[MeshqError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _subclasses(sub))]


def from_wire(body: object) -> MeshqError:
    """The error that an answer's body names; an unknown code becomes a plain MeshqError with that text."""
    if not isinstance(body, dict):
        return MeshqError(f"an error answer of another form: {body!r:.200}")
    code, message = str(body.get("code", "")), str(body.get("message", ""))
    for cls in _subclasses(MeshqError):
        if cls.code == code:
            return cls(message)
    return MeshqError(f"{code}: {message}")
