"""Lengths of time and times of day, as people write them in options."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from meshq.cli.common import source

if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
    _Time = click.ParamType[datetime]
else:
    # Generic only in later versions of click.
    _Seconds = _Time = click.ParamType

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{0,9})?) ?([smhd]?)", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", re.ASCII)


class Duration(_Seconds):
    """A length of time: `90`, `90s`, `10m`, `2h` or `1d`; the command gets seconds.

    Args:
        low_s, high_s: The range, both included.
    """

    name = "duration"

    def __init__(self, low_s: float, high_s: float) -> None:
        self._low_s = low_s
        self._high_s = high_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = _DURATION.fullmatch(str(value).strip())
        seconds = float(found[1]) * _UNITS[found[2]] if found is not None else None
        if seconds is not None and self._low_s <= seconds <= self._high_s:
            return seconds
        allowed = f"a time from {_written(self._low_s)} to {_written(self._high_s)}, such as 90s, 10m, 2h or 1d"
        raise click.UsageError(f"{source(param, ctx)} must be {allowed}, not {str(value)[:40]!r}", ctx)


class Moment(_Time):
    """A time to come: `18:30` is the next one on this machine's clock; else a date and a time as in ISO 8601."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text, now = str(value).strip(), datetime.now()
        try:
            at = _next(text, now) or datetime.fromisoformat(text)
            over = at.timestamp() <= now.timestamp()
        except (ValueError, OverflowError, OSError) as error:
            allowed = "a time such as 18:30, or a date and a time such as 2030-12-31T18:30"
            raise click.UsageError(f"{source(param, ctx)} must be {allowed}, not {text[:40]!r}", ctx) from error
        if over:
            raise click.UsageError(f"{source(param, ctx)} {text[:40]} is in the past; it is {now:%Y-%m-%dT%H:%M}", ctx)
        return at


def _next(text: str, now: datetime) -> datetime | None:
    """The next time of day like this; None where it is none."""
    found = _CLOCK.fullmatch(text)
    if found is None:
        return None
    hour, minute, second = (int(part or 0) for part in found.groups())
    at = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    return at if at > now else at + timedelta(days=1)


def _written(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:g}{unit}"
    return f"{seconds:g}s"
