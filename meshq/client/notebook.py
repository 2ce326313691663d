"""How a task or a batch looks in a notebook. Whatever a task says of itself is text there, and never markup."""

from __future__ import annotations

from html import escape
from typing import Final

from meshq.client.counts import Counts
from meshq.client.record import Record
from meshq.core.ids import short
from meshq.core.task import State

# A sign beside the word: colour alone tells some people nothing.
SIGNS: Final = {
    State.PENDING: "○", State.RUNNING: "▶", State.DONE: "✔", State.FAILED: "✘", State.CANCELLED: "⊘", State.PURGED: "–",
}  # fmt: skip
_COLOURS: Final = {
    State.PENDING: "#767676", State.RUNNING: "#0550ae", State.DONE: "#1a7f37", State.FAILED: "#cf222e",
    State.CANCELLED: "#9a6700", State.PURGED: "#767676",
}  # fmt: skip
RESULT_CHARS_MAX: Final = 400
TRACEBACK_CHARS_MAX: Final = 10_000


def task_html(task_id: str, record: Record | None, trouble: str = "") -> str:
    """A task.

    Args:
        task_id: Its id.
        record: As it was seen last; None where nobody looked.
        trouble: Why it can't be seen now.
    """
    rows = [("task", _code(task_id))]
    if record is not None:
        rows[0] = (escape(record.name), _code(task_id))
        rows.append(("state", _state(record.state) + (" (its run has not ended yet)" if record.ending else "")))
        if record.progress is not None and not record.finished:
            done, total, note = record.progress
            rows.append(("progress", _bar(done, total) + (f" {escape(note)}" if note else "")))
        if record.attempt > 1:
            rows.append(("attempt", str(record.attempt)))
        if record.state == State.DONE and record.result is not None:
            rows.append(("result", _code(_cut(repr(record.result), RESULT_CHARS_MAX))))
        if record.finished and record.state != State.DONE:
            rows.append(("reason", escape(record.reason)))
            if found := (record.error or {}).get("traceback"):
                rows.append(("traceback", f"<pre>{escape(_cut(str(found), TRACEBACK_CHARS_MAX))}</pre>"))
    return _table(rows, trouble)


def batch_html(name: str, counts: Counts | None, trouble: str = "") -> str:
    """A batch.

    Args:
        name: What it is called.
        counts: As it was seen last; None where nobody looked.
        trouble: Why it can't be seen now.
    """
    rows = [("batch", _code(name))]
    if counts is not None:
        rows.append(("state", _state(counts.state)))
        rows.append(("finished", _bar(counts.finished, counts.total)))
        each = [(state, getattr(counts, state.value)) for state in State]
        rows.append(("tasks", ", ".join(f"{number:,} {_state(state)}" for state, number in each if number)))
    return _table(rows, trouble)


def brief(task_id: str, record: Record | None) -> str:
    """A task in a few words, for `repr`."""
    if record is None:
        return short(task_id)
    text = f"{short(task_id)} {record.name}: {record.state}"
    if record.progress is None or record.finished:
        return text
    done, total, note = record.progress
    return f"{text}, {_amount(done, total)}" + (f", {note}" if note else "")


def _table(rows: list[tuple[str, str]], trouble: str) -> str:
    if trouble:
        rows = [*rows, ("not seen now", escape(trouble))]
    cells = "".join(
        f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{cell}</td></tr>'
        for name, cell in rows
    )
    return f"<table>{cells}</table>"


def _state(state: str) -> str:
    known = State(state) if state in SIGNS else State.PENDING
    sign = SIGNS[known] if state in SIGNS else "?"
    return f'<span style="color:{_COLOURS[known]}">{sign} {escape(state)}</span>'


def _bar(done: float, total: float) -> str:
    if total <= 0:
        return _amount(done, total)
    return f'<progress value="{min(done, total):g}" max="{total:g}"></progress> {_amount(done, total)}'


def _amount(done: float, total: float) -> str:
    return f"{done:,.10g} of {total:,.10g} ({100 * min(done / total, 1):.0f} %)" if total > 0 else f"{done:,.10g}"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[:chars_max]} … ({len(text) - chars_max} more characters)"
