"""What other users of the same machine learn of a node, and what they could make it do."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from meshq.client.aio import AsyncClient
from meshq.config import load
from meshq.core.keys import Key
from meshq.errors import ConfigError
from meshq.node import journal
from meshq.node.journal import Recent
from meshq.wire.unix import socket_path
from tests.unit.cli_process import meshq, one_line, start
from tests.unit.elsewhere import daemon

KEY = Key(bytes(range(20))).text
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users")
QUIET = {"MESHQ_MDNS": "0", "MESHQ_HOST": "127.0.0.1", "MESHQ_SLOTS": "0", "MESHQ_PORT": "0"}
NOBODY = 65534


# -- the key -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="arguments are read in /proc")
@pytest.mark.parametrize("given", [["--key", KEY], [f"--key={KEY}"]])
def test_the_key_stands_in_no_list_of_processes(tmp_path: Path, given: list[str]) -> None:
    with start(tmp_path, "up", *given, **QUIET) as process:
        assert process.stderr is not None
        assert " is up: " in process.stderr.readline()
        shown = Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " ")
        process.terminate()
    assert "meshq up --key" in shown
    assert KEY not in shown


@pytest.mark.parametrize("text", [f'key = ["{KEY}"]', f'key = "{KEY}{"x" * 200}"'])
def test_an_error_over_the_key_does_not_tell_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "meshq.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"meshq\.toml: key = …: expected ") as refused:
        load(path)
    assert KEY not in refused.value.message


def test_what_is_shown_once_is_not_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    recent = Recent(5)
    journal.events.addHandler(recent)
    try:
        journal.tell("key_made", f"the key is {KEY}", kept="a key was made")
        journal.tell("found", "found beta")
    finally:
        journal.events.removeHandler(recent)
    assert [event.text for event in recent.all()] == ["a key was made", "found beta"]


# -- files and folders -------------------------------------------------------------------------------------


@pytest.fixture
def open_to_all(tmp_path: Path) -> Path:
    """A folder that everybody may look into, with a file of an earlier version."""
    tmp_path.chmod(0o755)
    (tmp_path / "promise.db").touch(0o644)
    return tmp_path


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.db*")}


async def test_nobody_else_may_read_a_database_whatever_the_folder_allows(open_to_all: Path) -> None:
    async with daemon(open_to_all):
        found = modes(open_to_all)
    assert {"queue.db", "queue.db-wal", "promise.db", "outbox.db"} <= set(found)
    assert set(found.values()) == {0o600}


@ROOT
def test_a_data_directory_of_another_user_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "meshq.toml").write_text('tasks = ["evil"]\n')
    os.chown(tmp_path, NOBODY, NOBODY)
    code, out, err = meshq(tmp_path, "up", **QUIET)
    assert (code, out, one_line(err)) == (2, "", True)
    assert f"{tmp_path} belongs to another user (uid {NOBODY})" in err


def test_nor_one_to_which_every_user_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    code, out, err = meshq(tmp_path, "up", **QUIET)
    assert (code, out) == (2, "")
    assert err == f"meshq: every user of this machine may write to {tmp_path}; type: chmod o-w {tmp_path}\n"


@ROOT
async def test_a_client_talks_to_no_socket_in_a_folder_that_another_user_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("meshq.wire.unix._SHARED", tmp_path)
    monkeypatch.setattr("meshq.wire.unix.os.access", lambda path, mode: False)
    data_dir = tmp_path / ("x" * 100)
    folder = socket_path(data_dir).parent
    assert folder.parent == tmp_path
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match=rf"belongs to another user \(uid {NOBODY}\), so that a daemon there is not"):
        AsyncClient(data_dir)
