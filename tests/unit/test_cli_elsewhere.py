"""Commands that ask a daemon elsewhere: real processes and a real daemon, and nothing on this machine but a key."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from meshq.cli.main import run
from meshq.store import keyfile
from meshq.store.keyfile import Held
from tests.unit.cli_process import meshq, one_line
from tests.unit.elsewhere import KEY, OTHER_KEY, Stranger, credential, daemon

Capture = pytest.CaptureFixture[str]
CLIENTS = ("submit x", "run x", "result abcd", "tasks", "status", "explain", "forget x")
LOCAL = ("up", "down", "leave", "recover", "backup x", "restore x")


async def ask(here: Path, *args: str, **more: str) -> tuple[int, str, str]:
    """What a command prints, while the daemon answers in this thread."""
    return await asyncio.to_thread(meshq, here, *args, **more)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


async def test_each_command_works_with_the_key(tmp_path: Path) -> None:
    here = tmp_path / "here"
    async with daemon(tmp_path / "there", slots=1) as to:
        more = {"MESHQ_TO": to, "MESHQ_KEY": KEY.text}
        code, out, err = await ask(here, "run", "primes", "100", **more)
        assert (code, json.loads(out)["count"], err) == (0, 25, "")
        code, out, err = await ask(here, "submit", "primes", "10", "--wait", "--json", "--to", to, MESHQ_KEY=KEY.text)
        assert (code, err) == (0, "")
        task = json.loads(out.splitlines()[0])["ids"][0]
        code, out, _ = await ask(here, "result", task, "--json", **more)
        assert (code, json.loads(out)["state"]) == (0, "done")
        code, out, _ = await ask(here, "tasks", "--json", **more)
        assert (code, out.count("\n")) == (0, 2)
        code, out, _ = await ask(here, "status", "--wait", "--json", **more)
        assert (code, json.loads(out)["tasks"]["done"]) == (0, 2)
        code, out, _ = await ask(here, "explain", task, **more)
        assert (code, "submit" in out) == (0, True)
        code, _, err = await ask(here, "forget", "nobody", **more)
        assert (code, one_line(err), "nobody" in err) == (2, True, True)
    assert not here.exists()


async def test_the_key_of_the_data_directory_will_do(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    keyfile.write(here, Held((KEY,)))
    async with daemon(tmp_path / "there") as to:
        code, out, err = await ask(here, "status", "--json", "--to", to)
    assert (code, json.loads(out)["majority"], err) == (0, True, "")


async def test_what_does_not_open_is_one_line(tmp_path: Path) -> None:
    here = tmp_path / "here"
    async with daemon(tmp_path / "there") as to:
        code, out, err = await ask(here, "status", "--to", to, MESHQ_KEY=OTHER_KEY.text)
        assert (code, out) == (2, "")
        assert err == (
            f"meshq: that machine has another key: {to} does not know the key in MESHQ_KEY; meshq key show prints the "
            "right one there (give it as MESHQ_KEY)\n"
        )
        code, out, err = await ask(here, "submit", "primes", "1", "--to", to)
        assert (code, out) == (2, "")
        assert err == (
            f"meshq: there is no key in {here}: set MESHQ_KEY to what meshq key show prints on a machine of the "
            "cluster, or give a credential: --credential FILE\n"
        )
        file = tmp_path / "ci.credential"
        file.write_text(f"{credential(name='ci')}\n")
        code, out, err = await ask(here, "status", "--to", to, MESHQ_CREDENTIAL=str(file), MESHQ_KEY=KEY.text)
        assert (code, out, one_line(err)) == (2, "", True)
        assert "ci" in err
    async with daemon(tmp_path / "insecure", key="", insecure=True) as to:
        code, out, err = await ask(here, "status", "--to", to, MESHQ_KEY=KEY.text)
    assert (code, out) == (2, "")
    assert err.startswith(f"meshq: the meshq at {to} is insecure: it has no key")
    async with Stranger(b"SSH-2.0\r\n") as stranger:
        code, out, err = await ask(here, "status", "--to", stranger.to, MESHQ_KEY=KEY.text)
    assert (code, out) == (3, "")
    assert err.startswith(f"meshq: no meshq answers at {stranger.to}, but something else: is the port right?")


def test_run_elsewhere_starts_no_node_of_its_own(tmp_path: Path) -> None:
    here, to = tmp_path / "here", free_port()
    code, out, err = meshq(here, "run", "primes", "100", "--to", to, MESHQ_KEY=KEY.text)
    assert (code, out) == (3, "")
    assert err == f"meshq: no daemon listens at {to}; start it there with: meshq up (it tells its port)\n"
    assert not here.exists()


def test_down_is_for_the_daemon_here_whatever_the_environment_says(tmp_path: Path) -> None:
    code, out, err = meshq(tmp_path, "down", MESHQ_TO=free_port(), MESHQ_KEY=KEY.text)
    assert (code, out) == (3, "")
    assert err == f"meshq: no daemon listens at {tmp_path}/meshq.sock; start one with: meshq up\n"


@pytest.mark.parametrize("command", CLIENTS)
def test_all_that_only_ask_may_ask_elsewhere(command: str, capsys: Capture, tmp_path: Path) -> None:
    assert run([*command.split(), "--data-dir", str(tmp_path), "--to", "alpha"]) == 2
    assert capsys.readouterr().err == "meshq: --to 'alpha': the port is missing, as in alpha:7373\n"


@pytest.mark.parametrize("command", LOCAL)
def test_all_others_are_for_this_machine(command: str, capsys: Capture, tmp_path: Path) -> None:
    assert run([*command.split(), "--data-dir", str(tmp_path), "--to", "alpha:7373"]) == 2
    assert "no such option '--to'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--credential", "FILE"], "a credential is for a daemon elsewhere: say which, with --to HOST:PORT"),
        (["--credential", "none", "--to", "alpha:7373"], "none: the credential can't be read: No such file"),
        (["--credential", "FILE", "--to", "alpha:7373"], "FILE: a credential begins with mqc1-; this text does not"),
        (["--credential", "KEY", "--to", "alpha:7373"], "KEY: this is a key, and no credential"),
        (["--credential", "NOISE", "--to", "alpha:7373"], "NOISE: a credential begins with mqc1-"),
    ],
    ids=range(5),
)
def test_a_credential_that_is_of_no_use(
    args: list[str], says: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "FILE").write_text("hello\n")
    (tmp_path / "KEY").write_text(f"{KEY.text}\n")
    (tmp_path / "NOISE").write_bytes(bytes(range(256)) * 1000)
    monkeypatch.chdir(tmp_path)
    assert run(["status", "--data-dir", str(tmp_path), *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_options_before_the_command_are_told_where_they_go(capsys: Capture) -> None:
    assert run(["--to", "alpha:7373", "status"]) == 2
    assert "--to goes after the command: meshq status --to" in capsys.readouterr().err
