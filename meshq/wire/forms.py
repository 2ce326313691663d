"""From what people and workers write in a body to the requests that the node knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec

from meshq.core import ids, limits
from meshq.core.requests import Outcome, Submit, SubmitResult, TaskSpec
from meshq.core.task import FINISHED, OPEN, Backoff
from meshq.errors import Malformed, TooLarge
from meshq.wire import codec, values
from meshq.wire.parts import Parts

S = TypeVar("S", bound=msgspec.Struct)

# What a task takes while it is read, next to nothing in it.
TASK_BYTES: Final = 200
# What a payload is at least: `[args, kwargs]` and these two.
_PARTS_LEAST: Final = 3
OUTCOME_KINDS: Final = ("done", "failed", "crashed", "released", "kept")
BACKOFFS: Final = tuple(backoff.value for backoff in Backoff)
STATES: Final = tuple(sorted(state.value for state in OPEN | FINISHED))


class TaskForm(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A task as it stands in the body of /submit-task: `args` and `kwargs`, or the packed `payload` of both.

    What is UNSET and not given is left to the task's own options. `at` is a date and a time as in ISO 8601, for
    `not_before_ms`; `forget` is `keep_s` of 0.
    """

    name: str
    args: Any = None
    kwargs: Any = None
    payload: bytes | None = None
    id: str | None = None
    count: int = 1
    priority: int | msgspec.UnsetType = msgspec.UNSET
    delay_s: float | None = None
    not_before_ms: int | None = None
    at: str | None = None
    timeout_s: float | msgspec.UnsetType | None = msgspec.UNSET
    retries: int | msgspec.UnsetType = msgspec.UNSET
    backoff_s: float = 1.0
    key: str | None = None
    batch: str | None = None
    backoff: str | None = None
    max_running: int | msgspec.UnsetType = msgspec.UNSET
    keep_s: float | None = None
    forget: bool = False


class OutcomeForm(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a run ended, or what it kept, as it stands in the body of /submit-result: `result` and `error` as they are,
    `checkpoint` in bytes."""

    task: str
    epoch: int
    attempt: int
    kind: str
    result: Any = None
    error: dict[str, Any] | None = None
    final: bool = False
    run_s: float = 0.0
    checkpoint: bytes | None = None


class ResultForm(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of /submit-result."""

    node: str
    boot: str
    outcomes: list[OutcomeForm]


def submit(body: dict[str, Any], new_id: Callable[[], str], wall_ms: Callable[[], int], owner: str = "") -> Submit:
    """The request that the body of /submit-task means: one task, or `{"tasks": [...]}`.

    Args:
        body: The map in the body.
        new_id: Makes the id of a task that has none.
        wall_ms: Now, for `delay_s`.
        owner: The credential of who sent it; empty for who has the cluster's key.

    Raises:
        Malformed: It names the task and the option that is wrong, and what is allowed.
        TooLarge: Too many arguments, where `count` repeats them.
    """
    whole_batch = "tasks" in body
    forms = body["tasks"] if whole_batch else [body]
    if not isinstance(forms, (list, tuple)) or not forms:
        raise Malformed("tasks: must be a list of at least one task")
    if whole_batch and len(body) > 1:
        raise Malformed(f"beside tasks there must be no {', '.join(sorted(set(body) - {'tasks'}))[:100]}")
    specs: list[TaskSpec] = []
    size_bytes = 0
    parts = Parts(limits.PARTS_MAX + _PARTS_LEAST * len(forms), "the arguments of all tasks have")
    for index, form in enumerate(forms):
        where = f"tasks[{index}]." if whole_batch else ""
        for spec in _specs(form, where, parts, new_id, wall_ms(), owner):
            specs.append(spec)
            size_bytes += len(spec.payload)
            if size_bytes > limits.SUBMIT_BYTES_MAX:
                # With `count` a small body means a lot.
                most = f"{limits.SUBMIT_BYTES_MAX} bytes"
                raise TooLarge(f"the arguments of all tasks take more than {most} together; submit them in parts")
            if len(specs) > limits.BATCH_TASKS_MAX:
                raise Malformed(f"more than {limits.BATCH_TASKS_MAX} tasks at once; submit them in parts")
    return Submit(tasks=tuple(specs))


def submit_means_bytes(body: dict[str, Any]) -> int:
    """How large what the body of /submit-task means is, by its `count`s alone: a few bytes may mean many tasks."""
    tasks = body.get("tasks", [body])
    forms = tasks if isinstance(tasks, (list, tuple)) else []
    counts = (form.get("count") for form in forms if isinstance(form, dict))
    return TASK_BYTES * sum(count for count in counts if isinstance(count, int))


def submit_result(body: dict[str, Any]) -> SubmitResult:
    """The request that the body of /submit-result means.

    Raises:
        Malformed: A field is wrong; it names it.
        Unencodable: A result that can't be kept.
    """
    form = _converted(body, ResultForm, "")
    if len(form.outcomes) > limits.OUTCOMES_MAX:
        raise Malformed(f"outcomes: has {len(form.outcomes)} entries; at most {limits.OUTCOMES_MAX} are allowed")
    outcomes = tuple(_outcome(outcome, f"outcomes[{index}].") for index, outcome in enumerate(form.outcomes))
    result = SubmitResult(node=form.node, boot=form.boot, outcomes=outcomes)
    codec.check(result, "")
    return result


def task_id(text: str) -> str:
    """The id, or the beginning or end of one, that a person wrote.

    Raises:
        Malformed: It can't be one.
    """
    plain = text.strip().lower().replace("-", "")
    if not limits.ID_CHARS_MIN <= len(plain) <= ids.ID_LENGTH or not ids.is_id(plain.rjust(ids.ID_LENGTH, "0")):
        raise Malformed(
            f"{text[:60]!r} is no task id: give {limits.ID_CHARS_MIN} to {ids.ID_LENGTH} hexadecimal digits, "
            "the beginning or the end of one"
        )
    return plain


def node(text: str) -> str:
    """The id of a node, the end of one, or its name, as a person wrote it.

    Raises:
        Malformed: It can't be one.
    """
    plain = text.strip()
    if not plain or len(plain) > limits.NAME_CHARS_MAX or not plain.isprintable():
        raise Malformed(
            f"{text[:60]!r} is no node: give its id, the end of its id or its name, at most {limits.NAME_CHARS_MAX} "
            "characters (meshq status lists them)"
        )
    return plain


def batch(text: str) -> str:
    """The name of a batch, as a person wrote it.

    Raises:
        Malformed: It can't be one.
    """
    if 0 < len(text) <= limits.KEY_CHARS_MAX:
        return text
    raise Malformed(f"batch: must be the name of a batch, of 1 to {limits.KEY_CHARS_MAX} characters, not {text[:60]!r}")


def number(name: str, text: str, kind: type[int] | type[float]) -> Any:
    """A number out of a query.

    Raises:
        Malformed: It is no number, or out of the range that its name has.
    """
    try:
        value = kind(text)
    except ValueError as error:
        raise Malformed(f"{name}: must be a number, not {text[:40]!r}") from error
    reason = codec.out_of_range(name, value)
    if reason is not None:
        raise Malformed(f"{name}: {reason}")
    return value


def well_formed(request: Any) -> None:
    """Whether all texts of a request are Unicode; JSON's escapes and msgpack allow halves of surrogate pairs.

    Raises:
        Malformed: One is not.
    """
    try:
        codec.encode_body(request)
    except UnicodeError as error:
        raise Malformed(f"a text outside of arguments and results is no Unicode: {error}") from error


_LEFT_OPEN: Final = tuple(
    field.name for field in msgspec.structs.fields(TaskForm) if field.default is msgspec.UNSET
)  # fmt: skip


def _specs(
    form_body: Any, where: str, parts: Parts, new_id: Callable[[], str], now_ms: int, owner: str
) -> Iterator[TaskSpec]:
    form = _converted(form_body, TaskForm, where)
    for name in ("count", "delay_s"):
        value = getattr(form, name)
        reason = codec.out_of_range(name, value) if value is not None else None
        if reason is not None:
            raise Malformed(f"{where}{name}: {reason}")
    _check_contradictions(form, where)
    if form.id is not None and form.count > 1:
        raise Malformed(f"{where}id: {form.count} tasks can't share one")
    if form.id is not None and not ids.is_id(form.id):
        raise Malformed(f"{where}id: must be {ids.ID_LENGTH} lower-case hexadecimal digits, not {form.id[:60]!r}")
    if not form.name or not form.name.isprintable():
        raise Malformed(f"{where}name: must be a name without control characters, not {form.name[:60]!r}")
    if form.key == "" or form.batch == "":
        raise Malformed(f"{where}{'key' if form.key == '' else 'batch'}: must not be empty")
    if form.backoff is not None and form.backoff not in BACKOFFS:
        raise Malformed(f"{where}backoff: must be one of {', '.join(BACKOFFS)}, not {form.backoff[:40]!r}")
    not_before_ms = form.not_before_ms or 0
    if form.delay_s:
        not_before_ms = now_ms + round(form.delay_s * 1000)
    if form.at is not None:
        not_before_ms = _moment_ms(form.at, where)
    words = {word: getattr(form, word) for word in _LEFT_OPEN}
    given = {word: value for word, value in words.items() if value is not msgspec.UNSET}
    unset = tuple(word for word in _LEFT_OPEN if word not in given)
    spec = TaskSpec(
        id=form.id or new_id(), name=form.name, payload=_payload(form, where, parts), not_before_ms=not_before_ms,
        backoff_s=form.backoff_s, key=form.key, batch=form.batch, owner=owner, unset=unset,
        backoff=form.backoff or Backoff.EXPONENTIAL.value, keep_s=0.0 if form.forget else form.keep_s, **given,
    )  # fmt: skip
    # The others are the same but for ids that are made here: to check each takes a second for a small body.
    codec.check(spec, where)
    yield spec
    for _ in range(1, form.count):
        yield replace(spec, id=new_id())


def _check_contradictions(form: TaskForm, where: str) -> None:
    given = [name for name in ("at", "delay_s", "not_before_ms") if getattr(form, name) is not None]
    if len(given) > 1:
        raise Malformed(f"{where}{given[0]} and {given[1]} can't both be given: each says when")
    if form.forget and form.keep_s is not None:
        raise Malformed(f"{where}forget and keep_s can't both be given")
    if form.key is not None and form.count > 1:
        raise Malformed(f"{where}key: would make one task of all {form.count}")
    if form.backoff is not None and form.retries == 0:
        raise Malformed(f"{where}backoff: needs retries; without one there is nothing to wait for")


def _moment_ms(text: str, where: str) -> int:
    """Without a time zone it is this machine's time."""
    try:
        return max(0, round(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError, OSError) as error:
        allowed = "a date and a time such as 2030-12-31T18:30 or 2030-12-31T18:30+01:00"
        raise Malformed(f"{where}at: must be {allowed}, not {text[:40]!r}") from error


def _payload(form: TaskForm, where: str, parts: Parts) -> bytes:
    if form.payload is not None:
        if form.args is not None or form.kwargs is not None:
            raise Malformed(f"{where}payload: stands for args and kwargs, which can't be given beside it")
        try:
            values.unpack_arguments(form.payload, parts=parts)
        except Malformed as error:
            raise Malformed(f"{where}payload: {error}") from error
        return form.payload
    args = () if form.args is None else form.args
    kwargs = {} if form.kwargs is None else form.kwargs
    if not isinstance(args, (list, tuple)):
        raise Malformed(f"{where}args: must be a list, not {type(args).__name__}")
    if not isinstance(kwargs, dict) or not all(type(name) is str for name in kwargs):
        raise Malformed(f"{where}kwargs: must be a map from names to values")
    return values.pack_arguments(args, kwargs)


def _outcome(form: OutcomeForm, where: str) -> Outcome:
    if form.kind not in OUTCOME_KINDS:
        raise Malformed(f"{where}kind: must be one of {', '.join(OUTCOME_KINDS)}, not {form.kind[:40]!r}")
    if (form.kind == "failed" or form.kind == "crashed") and form.error is None:
        raise Malformed(f"{where}error: a run that {form.kind} has one: {{type, message, traceback}}")
    if (form.kind == "kept") is (form.checkpoint is None):
        raise Malformed(f"{where}checkpoint: a run that kept something has it, and no other: bytes")
    error = None if form.error is None else values.pack(form.error, name=f"{where}error")
    if error is not None and len(error) > limits.ERROR_BYTES_MAX:
        raise TooLarge(f"{where}error: has {len(error)} bytes; at most {limits.ERROR_BYTES_MAX} are kept")
    outcome = Outcome(
        task=form.task, epoch=form.epoch, attempt=form.attempt, kind=form.kind,
        result=values.pack(form.result, name=f"{where}result") if form.kind == "done" else None,
        error=error, final=form.final, run_s=form.run_s, checkpoint=form.checkpoint,
    )  # fmt: skip
    codec.check(outcome, where)
    return outcome


def _converted(body: Any, cls: type[S], where: str) -> S:
    try:
        return msgspec.convert(body, cls)
    except codec.UNREADABLE as error:
        text = codec.explained(error)
        known = f"; known are {', '.join(cls.__struct_fields__)}" if "unknown field" in text else ""
        raise Malformed(f"{where}{text}{known}") from error
