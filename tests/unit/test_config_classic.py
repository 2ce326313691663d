"""The classic names of settings, where values come from, and `meshq config show`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from meshq import classic, config
from meshq.config import FIELDS
from meshq.errors import ConfigError
from tests.unit.cli_process import meshq

UNIT = Path(__file__).parents[2] / "configs" / "meshq.service"


def test_every_classic_name_is_a_setting() -> None:
    assert set(classic.SETTINGS.values()) <= set(FIELDS)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("DISPATCHER_PORT=7000", "7000"), ("export DISPATCHER_PORT=7000", "7000"), ("DISPATCHER_PORT = 7000 ", "7000"),
        ("DISPATCHER_PORT='7000'", "7000"), ('DISPATCHER_PORT="70 # 00" # no', "70 # 00"),
        ("DISPATCHER_PORT=7000 # ours", "7000"), ("DISPATCHER_PORT=", ""),
    ],
)  # fmt: skip
def test_a_line_of_a_file_is_read_as_a_shell_reads_it(tmp_path: Path, line: str, value: str) -> None:
    path = tmp_path / ".env"
    path.write_text(f"# DISPATCHER_PORT=1\nOTHER=2\n\nnonsense\n{line}\n")
    (found,) = classic.find({}, path)
    assert (found.value, found.setting, found.source) == (value, "port", f"DISPATCHER_PORT in {path}")


def test_what_has_no_classic_name_is_nobodys_business(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=1\nMESHQ_PORT=2\n")
    assert classic.find({"PORT": "1", "HOME": "/"}, tmp_path / ".env") == ()
    assert classic.find({}, tmp_path / "none") == ()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        classic.find({}, tmp_path)


def test_they_win_over_a_file_and_yield_to_all_that_is_meshqs_own(tmp_path: Path) -> None:
    file = tmp_path / "meshq.toml"
    file.write_text("port = 1\ncache_ttl_s = 1.0\nget_wait_s = 1.0\n")
    (tmp_path / ".env").write_text("CACHE_TTL_SECONDS=2\nWORKER_HEARTBEAT_INTERVAL=2\nWORKER_POLL_INTERVAL=2\n")
    environ = {"WORKER_HEARTBEAT_INTERVAL": "3", "MESHQ_GET_WAIT_S": "4", "DISPATCHER_PORT": "5"}
    found = classic.find(environ, tmp_path / ".env")
    origin = config.trace(file, environ, {"port": 6}, found)
    got = origin.config
    assert (got.port, got.cache_ttl_s, got.worker_heartbeat_s, got.get_wait_s) == (6, 2.0, 3.0, 4.0)
    assert origin.sources["port"] == "--port"
    assert origin.sources["get_wait_s"] == "MESHQ_GET_WAIT_S"
    assert {one.variable for one in origin.classic} == {"CACHE_TTL_SECONDS", "WORKER_HEARTBEAT_INTERVAL"}


def test_a_wrong_value_is_refused_under_the_name_that_was_used(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PRIMES_MAX_LIMIT=many\n")
    with pytest.raises(ConfigError, match=r"PRIMES_MAX_LIMIT in .*\.env: primes_max_limit = 'many'"):
        config.trace(classic=classic.find({}, tmp_path / ".env"))


def test_config_show_names_value_and_source_of_every_setting_and_hides_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meshq.toml").write_text("slots = 3\n")
    (tmp_path / ".env").write_text("DISPATCHER_PORT=7000\n")
    code, out, err = meshq(tmp_path, "config", "show", "--json", MESHQ_KEY="mq1-secret", MESHQ_NAME="box")
    shown = json.loads(out)
    assert (code, err, tuple(shown)) == (0, "", FIELDS)
    assert shown["slots"] == {"value": 3, "source": str(tmp_path / "meshq.toml")}
    assert shown["port"] == {"value": 7000, "source": "DISPATCHER_PORT in .env"}
    assert shown["name"] == {"value": "box", "source": "MESHQ_NAME"}
    assert shown["lease_s"] == {"value": 2.5, "source": "default"}
    assert "secret" not in out
    code, out, _ = meshq(tmp_path, "config", "show", "--changed", MESHQ_NAME="box")
    assert [line.split()[0] for line in out.splitlines()] == ["name", "port", "slots"]
    assert max(map(len, out.splitlines())) <= 80 + len(str(tmp_path))


def test_a_command_that_runs_a_node_answers_a_classic_name_with_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("PRIMES_MAX_LIMIT=1000\n")
    code, out, err = meshq(tmp_path, "run", "primes", "2000")
    assert (code, out) == (1, "")
    assert "PRIMES_MAX_LIMIT in .env is taken as primes_max_limit = 1000" in err
    assert "MESHQ_PRIMES_MAX_LIMIT" in err
    assert "1000" in err.splitlines()[-1]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here that could verify it")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = tmp_path / "meshq.service"
    unit.write_text(UNIT.read_text().replace("/opt/meshq/bin/meshq", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
