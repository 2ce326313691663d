"""The options with which tasks are submitted, as they stand on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import click
import pytest

from meshq.cli.amounts import Duration, Moment
from meshq.cli.main import run
from meshq.core import requests as ask
from tests.unit.client_twin import Twin

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twin]:
    monkeypatch.setenv("MESHQ_DATA_DIR", str(tmp_path))
    with Twin().serving(tmp_path) as twin:
        yield twin


def one(twin: Twin) -> ask.TaskSpec:
    [spec] = twin.specs.values()
    return spec


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("0.5s", 0.5), ("10m", 600), ("1.5h", 5400), ("7d", 604800), (" 2 h ", 7200), ("0", 0)],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert Duration(0, 30 * 86400).convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1e3", "nan", "inf", "10x", "m", "1h30m", "31d", "9" * 400, "１0"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(click.UsageError, match="must be a time from 0s to 30d, such as 90s, 10m, 2h or 1d, not"):
        Duration(0, 30 * 86400).convert(text, None, None)


def test_a_time_of_day_is_the_next_one() -> None:
    now = datetime.now()
    for hours in (-2, 2):
        wanted = now + timedelta(hours=hours)
        at = Moment().convert(f"{wanted:%H:%M}", None, None)
        assert now < at <= now + timedelta(days=1)
        assert (at.hour, at.minute, at.second) == (wanted.hour, wanted.minute, 0)


@pytest.mark.parametrize("text", ["2999-12-31T18:30", "2999-12-31 18:30:05", "2999-12-31T18:30+02:00", "2999-12-31"])
def test_a_date_and_a_time(text: str) -> None:
    assert Moment().convert(text, None, None) == datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [("soon", "must be a time such as 18:30"), ("25:00", "must be"), ("18:60", "must be"), ("", "must be"),
     ("2020-01-01", "is in the past"), ("0001-01-01T00:00", "must be|is in the past")],
)  # fmt: skip
def test_what_is_no_time(text: str, says: str) -> None:
    with pytest.raises(click.UsageError, match=says):
        Moment().convert(text, None, None)


def test_all_options_reach_the_daemon(twin: Twin) -> None:
    options = (
        "--priority 5 --delay 10m --timeout 30s --retries 3 --backoff linear --key k --max-running 4 --keep 2d "
        "--batch b"
    )
    assert run(["submit", "echo", "1", *options.split()]) == 0
    spec = one(twin)
    assert (spec.priority, spec.not_before_ms, spec.timeout_s, spec.retries) == (5, 600_000, 30.0, 3)
    assert (spec.backoff, spec.key, spec.max_running, spec.keep_s, spec.batch) == ("linear", "k", 4, 172_800.0, "b")
    assert spec.unset == ()


def test_what_is_not_said_is_left_to_the_task(twin: Twin) -> None:
    assert run(["submit", "echo", "1"]) == 0
    spec = one(twin)
    assert set(spec.unset) == {"priority", "timeout_s", "retries", "max_running"}
    assert (spec.keep_s, spec.backoff) == (None, "exponential")


def test_at_a_time_and_forgotten(twin: Twin) -> None:
    assert run(["submit", "echo", "--at", "2999-12-31T18:30+00:00", "--forget"]) == 0
    at = datetime.fromisoformat("2999-12-31T18:30+00:00")
    assert (one(twin).not_before_ms, one(twin).keep_s) == (round(at.timestamp() * 1000), 0.0)


def test_a_bound_is_lifted_and_what_the_task_retries_by_itself_may_wait_in_another_way(twin: Twin) -> None:
    assert run(["submit", "echo", "--max-running", "0", "--backoff", "linear", "--keep", "90d"]) == 0
    spec = one(twin)
    assert (spec.max_running, spec.backoff, spec.keep_s) == (0, "linear", 90 * 86400.0)
    assert set(spec.unset) == {"priority", "timeout_s", "retries"}


def test_a_priority_of_zero_is_said(twin: Twin) -> None:
    assert run(["submit", "echo", "--priority", "0", "--retries", "0"]) == 0
    assert set(one(twin).unset) == {"timeout_s", "max_running"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("submit echo --delay 1m --at 18:30", "--delay and --at exclude each other"),
        ("submit echo --keep 1d --forget", "--keep and --forget exclude each other"),
        ("submit echo --backoff linear --retries 0", "--backoff needs --retries"),
        ("submit echo --backoff quadratic --retries 1", "'quadratic' is not one of 'constant', 'linear'"),
        ("submit echo --wait --forget", "--wait and --forget exclude each other"),
        ("submit echo --count 2 --key k", "--count and --key exclude each other"),
        ("submit echo --max-running -1", "--max-running must be a whole number from 0 to 1000000, not '-1'"),
        ("submit echo --retries 1001", "--retries must be a whole number from 0 to 1000"),
        ("submit echo --keep 3651d", "--keep must be a time from 0s to 3650d"),
        ("submit echo --delay -1", "--delay must be a time from 0s to 30d"),
        ("run echo --forget", "--forget is for meshq submit"),
        ("map echo --over 1..2 --forget", "--forget is for submit"),
        ("map echo --over 1..2 --key k", "--key would make one task of all items"),
    ],
)
def test_contradictions_are_refused_by_name(args: str, says: str, twin: Twin, capsys: Capture) -> None:
    assert run(args.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert twin.requests == []


def test_waiting_for_what_has_options(twin: Twin, capsys: Capture) -> None:
    assert run(["submit", "echo", "1", "--retries", "2", "--backoff", "constant", "--wait", "--json"]) == 0
    assert [json.loads(line).get("state") for line in capsys.readouterr().out.splitlines()] == [None, "done"]


@pytest.mark.parametrize("command", ["result 3f2a9c1d", "status --wait", "down", "leave --yes", "cancel 3f2a9c1d"])
def test_a_wait_is_written_as_any_time(command: str, capsys: Capture) -> None:
    assert run([*command.split(), "--timeout", "1h30m"]) == 2
    assert "--timeout must be a time from 0s to 30d, such as 90s, 10m, 2h or 1d, not '1h30m'" in capsys.readouterr().err
