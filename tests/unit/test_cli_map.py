"""`meshq map`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshq.cli import map as map_command
from meshq.cli.main import run
from meshq.core import requests as ask
from meshq.core.infos import Name, Names, Param, TaskInfo
from meshq.wire import values
from tests.unit.cli_process import start
from tests.unit.client_twin import NODE, Twin

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twin]:
    monkeypatch.setenv("MESHQ_DATA_DIR", str(tmp_path))
    with Twin().serving(tmp_path) as twin:
        limit = Param(name="limit", kind="POSITIONAL_OR_KEYWORD", required=True, type="int")
        twin.names = Names(names=(Name(info=TaskInfo(name="primes", params=(limit,)), nodes=(NODE.id,)),))
        yield twin


def mapped(capsys: Capture, *args: str) -> tuple[int, list[Any], str]:
    code = run(["map", *args])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def submits(twin: Twin) -> list[ask.Submit]:
    return [request for request in twin.requests if isinstance(request, ask.Submit)]


def test_a_range_in_order(twin: Twin, capsys: Capture) -> None:
    code, results, err = mapped(capsys, "echo", "--over", "1..3", "--in-order", "7", "x=true")
    assert (code, err) == (0, "")
    assert results == [[[each, 7], {"x": True}] for each in (1, 2, 3)]
    [submit] = submits(twin)
    [batch] = {spec.batch for spec in submit.tasks}
    assert batch


@pytest.mark.parametrize(("text", "items"), [("-2..1", [-2, -1, 0, 1]), ("5..5", [5])])
def test_ranges(twin: Twin, capsys: Capture, text: str, items: list[int]) -> None:
    _, results, _ = mapped(capsys, "echo", "--over", text)
    assert sorted(args[0] for args, _ in results) == items


def test_a_hundred_thousand_are_one_submit(twin: Twin, capsys: Capture) -> None:
    code, results, _ = mapped(capsys, "echo", "--over", "1..100001", "--json")
    assert code == 0
    assert [len(submit.tasks) for submit in submits(twin)] == [100_000, 1]
    assert {each["over"] for each in results} == set(range(1, 100_002))
    assert all(each["result"] == [[each["over"]], {}] for each in results)


def test_the_lines_of_a_file(twin: Twin, capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "items.txt"
    file.write_text('5\n\nabc def\n[1, 2]\r\n"5"\n{"$bytes": "AAE="}\n007\né')
    code, results, _ = mapped(capsys, "echo", "--over", str(file), "--in-order")
    assert code == 0
    found = [args[0] for args, _ in results]
    assert found == [5, "abc def", [1, 2], "5", values.to_json(b"\x00\x01"), "007", "é"]


def test_stdin(twin: Twin, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a.jpg\nb.jpg\n")))
    assert mapped(capsys, "echo", "--over", "-", "--in-order")[1] == [[["a.jpg"], {}], [["b.jpg"], {}]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"1\n2\n[3\n", "line 3: this is no JSON: Expecting ',' delimiter; nothing was queued"),
        (b"1\n\xff\n", "line 2: is no UTF-8; nothing was queued"),
        (b'1\n{"$bytes": "?"}', "line 2: $bytes can't hold"),
        (b"1\n\n2\nseven\n", "line 4: primes: limit must be int, not str 'seven'; nothing was queued"),
        (b"\n \n", "there are no items in it"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_queued(
    twin: Twin, capsys: Capture, tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "items"
    file.write_bytes(content)
    code, results, err = mapped(capsys, "primes", "--over", str(file))
    assert (code, results) == (2, [])
    assert says in err
    assert err.count("\n") == 1
    assert not submits(twin)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("echo", "missing option '--over'"),
        ("echo --over 3..1", "a range goes up, so its end must be at least 3"),
        ("echo --over nowhere.txt", "No such file or directory; a range is written 1..1000"),
        ("echo --over .", "Is a directory"),
        ("bogus --over 1..3", "no live node knows a task bogus"),
    ],
)
def test_what_it_goes_not_over(twin: Twin, capsys: Capture, args: str, says: str) -> None:
    code, results, err = mapped(capsys, *args.split())
    assert (code, results) == (2, [])
    assert says.lower() in err.lower()
    assert err.count("\n") == 1
    assert not twin.tasks


def test_failures_are_counted_and_the_first_ones_told(twin: Twin, capsys: Capture) -> None:
    code, results, err = mapped(capsys, "fail", "--over", "1..12", "--in-order", "--batch", "tonight")
    assert (code, results) == (1, [None] * 12)
    lines = err.splitlines()
    assert len(lines) == map_command.TOLD_MAX + 1
    assert all(line.endswith("ValueError: boom") for line in lines[:-1])
    assert lines[-1] == "meshq map: 12 of 12 tasks failed; see: meshq tasks --failed --batch tonight"
    code, results, err = mapped(capsys, "fail", "--over", "1..2", "--json")
    assert (code, len(err.splitlines())) == (1, 1)
    assert {(each["over"], each["state"], each["error"]["message"]) for each in results} == {
        (1, "failed", "boom"),
        (2, "failed", "boom"),
    }


def test_results_come_as_they_come(tmp_path: Path, twin: Twin) -> None:
    with start(tmp_path, "map", "hold", "--over", "1..3") as process:
        while len(twin.tasks) < 3:
            assert process.poll() is None
        first, second, third = sorted(twin.tasks)
        assert process.stdout is not None
        for task, value in ((second, 20), (third, 30), (first, 10)):
            twin.finish(task, value)
            assert process.stdout.readline() == f"{value}\n"
        process.communicate(timeout=30)
    assert process.returncode == 0
