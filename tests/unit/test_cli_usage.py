"""What the command line takes, and how it says no; without a daemon."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from meshq import __version__
from meshq.cli import settings
from meshq.cli.arguments import TaskCommand, task_arguments
from meshq.cli.main import COMMANDS, cli, exit_code, run
from meshq.cli.render import count, duration, line
from meshq.errors import (
    Ambiguous,
    BadArguments,
    ConfigError,
    DiskFull,
    Malformed,
    MeshqError,
    NoDaemon,
    NotLeader,
    QueueFull,
    TaskFailed,
    TooLarge,
    UnknownTask,
)

Capture = pytest.CaptureFixture[str]


@click.command(cls=TaskCommand)
@click.argument("name")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--wait", is_flag=True)
def taking(name: str, arguments: tuple[str, ...], wait: bool) -> object:
    args, kwargs = task_arguments(arguments)
    return name, args, kwargs, wait


def taken(*args: str) -> object:
    return taking.main(args=list(args), standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5), ("-5", -5), ("-1e3", -1000.0), ("1.5", 1.5), ("true", True), ("null", None), ("abc", "abc"),
        ('"5"', "5"), ("[1, 2]", [1, 2]), ('{"a": 1}', {"a": 1}), ("NaN", "NaN"), ("-inf", "-inf"), ("", ""),
        ("a b", "a b"),
        ("-", "-"), ("1==2", "1==2"), ('{"$bytes": "AAE="}', b"\x00\x01"), ("[1", "[1"),
    ],
)  # fmt: skip
def test_an_argument_is_read_as_json_else_as_text(text: str, value: object) -> None:
    assert taken("t", text) == ("t", [value], {}, False)


def test_keywords_options_and_the_end_of_both() -> None:
    assert taken("t", "x=5", "y=a=b", "z=", "--wait", "1") == ("t", [1], {"x": 5, "y": "a=b", "z": ""}, True)
    assert taken("--wait", "t", "--", "x=5", "5", "--wait", "--") == ("t", ["x=5", "5", "--wait", "--"], {}, True)
    assert taken("t", '"a=b"') == ("t", ["a=b"], {}, False)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["t", "--wiat"], "did you mean --wait"),
        (["--wiat", "t"], "did you mean --wait"),
        (["t", "--wiat=3"], "no such option: --wiat"),
        (["t", "-x"], "stands after --"),
        (["t", "x=1", "x=2"], "given twice"),
        ([], "NAME"),
    ],
)
def test_what_is_no_argument(args: list[str], says: str) -> None:
    with pytest.raises(click.UsageError) as error:
        taken(*args)
    assert says in error.value.format_message()


def test_a_wrong_tag_is_said() -> None:
    with pytest.raises(Malformed, match="bytes"):
        taken("t", '{"$bytes": "?"}')


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["sumbit", "x"], "did you mean submit?"),
        (["submit", "primes", "5", "--wiat"], "did you mean --wait?"),
        (["submit"], "missing argument 'NAME'"),
        (["submit", "x", "--count", "0"], "--count must be a whole number from 1 to 1000000, not '0'"),
        (["submit", "x", "--count", "x"], "--count must be a whole number from 1 to 1000000, not 'x'"),
        (
            ["submit", "x", "--timeout", "0"],
            "--timeout must be a time from 0.001s to 30d, such as 90s, 10m, 2h or 1d, not '0'",
        ),
        (
            ["submit", "x", "--timeout", "nan"],
            "--timeout must be a time from 0.001s to 30d, such as 90s, 10m, 2h or 1d, not 'nan'",
        ),
        (["submit", "x", "--priority", "9" * 400], "--priority must be a whole number from -1000000 to 1000000"),
        (["result", ""], "'' is no task id: give 4 to 32"),
        (["status", "--watsh"], "--watch"),
        (["status", "--nodes", "3"], "--nodes needs --wait"),
        (["forget"], "missing argument 'NODE'"),
        (["forget", " "], "' ' is no node: give its id"),
        (["explain", "xyz"], "'xyz' is no task id: give 4 to 32"),
        (["recover", "--ja"], "no such option '--ja'"),
        (["leave", "--timeout", "-1"], "--timeout must be a time from 0s to 30d, such as 90s, 10m, 2h or 1d, not '-1'"),
        (["tasks", "--state", "lost"], "'lost' is not one of"),
        (["up", "--port", "x"], "--port must be a whole number, not 'x'"),
        (["up", "--port", "9" * 400], "--port"),
        (["up", "--name", "a\x1b[2J"], "name = 'a\\x1b[2J': must be printable"),
        (["up", "--port", "99999"], "port = 99999"),
        (["up", "--replica", "often"], "replica = 'often'"),
        (["status", "--connect-timeout", "0"], "--connect-timeout must be a number above 0, not '0'"),
        (["status", "--connect-timeout", "inf"], "--connect-timeout must be a number above 0, not 'inf'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(args: list[str], says: str, capsys: Capture, tmp_path: Path) -> None:
    assert run([*args, "--data-dir", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--data-dir", "d1", "status"], "--data-dir goes after the command: meshq status --data-dir"),
        (["--json"], "--json goes after the command: meshq COMMAND --json"),
        (["--wait", "result", "x"], "--wait goes after the command: meshq result --wait"),
        (["--verison"], "--version"),
    ],
)
def test_an_option_before_the_command(args: list[str], says: str, capsys: Capture) -> None:
    assert run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["status", "tasks", "down", "run x", "submit x", "result abcd", "recover", "backup x"]
)
def test_a_misspelt_variable(command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHQ_DATADIR", "/tmp")
    assert run(command.split()) == 2
    message = "meshq: unknown setting MESHQ_DATADIR in the environment; did you mean MESHQ_DATA_DIR?\n"
    assert capsys.readouterr() == ("", message)


def test_a_wrong_value_of_a_variable_names_it(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHQ_CONNECT_TIMEOUT", "soon")
    assert run(["status"]) == 2
    assert "MESHQ_CONNECT_TIMEOUT must be a number above 0, not 'soon'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples(command: str, capsys: Capture) -> None:
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"  meshq {command}" in out
    assert COMMANDS[command] in out
    # One has them after a second word, one asks nobody at all, one only daemons of its own.
    shared = {"config": (), "completion": (), "demo": ("--json",)}.get(
        command, ("--data-dir", "--connect-timeout", "--json")
    )
    for option in shared:
        assert option in out
    assert max(map(len, out.splitlines())) <= 100
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    assert found.name == command


def test_help_and_version(capsys: Capture) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line[2:3].strip()] == list(
        COMMANDS
    )
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"meshq {__version__}\n"
    assert run([]) == 2


@pytest.mark.parametrize(
    ("code", "errors"),
    [
        (1, [TaskFailed]),
        (2, [BadArguments, UnknownTask, Malformed, Ambiguous, TooLarge, ConfigError]),
        (3, [NoDaemon, QueueFull, NotLeader, DiskFull, MeshqError]),
    ],
)
def test_exit_codes(code: int, errors: list[Callable[[], MeshqError]]) -> None:
    assert [exit_code(error()) for error in errors] == [code] * len(errors)


@pytest.mark.parametrize(
    ("args", "absent"),
    [
        (["--help"], ["asyncio", "aiohttp", "rich", "msgspec", "numpy", "meshq.cli.submit"]),
        (["status", "--json", "--data-dir", "/nonexistent"], ["rich.table", "numpy", "zeroconf", "aiosqlite"]),
        (["submit", "x", "--data-dir", "/nonexistent"], ["rich", "numpy", "zeroconf", "aiosqlite"]),
        (["explain", "--json", "--data-dir", "/nonexistent"], ["rich", "numpy", "zeroconf", "aiosqlite"]),
    ],
)
def test_a_command_loads_only_what_it_needs(args: list[str], absent: list[str]) -> None:
    code = (
        "import sys; from meshq.cli.main import run; run(sys.argv[1:]);"
        f"sys.exit(' '.join(name for name in {absent!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_data_directorys_file_is_read_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MESHQ_CONFIG", raising=False)
    assert settings.load(tmp_path).slots == -1
    (tmp_path / "meshq.toml").write_text("slots = 3\nname = 'here'\n")
    other = tmp_path / "other.toml"
    other.write_text("slots = 4\n")
    assert settings.load(tmp_path).slots == 3
    assert settings.load(tmp_path, None, {"slots": 0, "name": None}).slots == 0
    assert settings.load(tmp_path, None, {"slots": 0, "name": None}).name == "here"
    assert settings.load(tmp_path, other).slots == 4
    monkeypatch.setenv("MESHQ_CONFIG", str(other))
    assert settings.load(tmp_path).slots == 4
    monkeypatch.setenv("MESHQ_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"none\.toml"):
        settings.load(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (-1, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.6, "2 m"),
        (3600 * 50, "50 h"),
        (1e9, "11574 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_and_lines() -> None:
    assert [count(n) for n in (0, 999_999, 1_000_000, 999_949_999, 5 * 10**9)] == [
        "0",
        "999999",
        "1.0M",
        "999.9M",
        "5.0G",
    ]
    assert line(" a\x1b[31m\n b\t") == "a [31m b"
