"""`meshq doctor` as a command: what may be typed, its JSON, and what it says of those that no real daemon is."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from meshq import __version__
from meshq.cli.main import run
from meshq.core.ids import short
from meshq.core.reports import Health
from meshq.store import keyfile
from meshq.store.keyfile import Held
from meshq.wire import security, values
from meshq.wire.security import Role, Subject
from tests.unit.cli_process import meshq
from tests.unit.elsewhere import KEY, OTHER_KEY, Stranger, daemon

NODE = "a" * 32
HEALTH = Health(
    ok=True, node=NODE, role="leader", leader=NODE, version="9.9", pid=1, cluster="meshq", protocol=(3, 4), clock_s=1.0
)
HERE = {"MESHQ_KEY": KEY.text, "MESHQ_MDNS": "0"}


def later_meshq(health: Health, **more: Any) -> Stranger:
    """A daemon of another version, which holds the key and answers how it is."""
    body = values.pack({**asdict(health), **more})
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/msgpack\r\nContent-Length: {len(body)}\r\n\r\n"
    return Stranger(head.encode() + body, security.server_context(security.passport([KEY], Subject(Role.NODE, NODE))))


async def wrong(data_dir: Path, host: str, **more: str) -> tuple[str, str]:
    """The one cause that is named for a machine, and the text."""
    code, out, err = await asyncio.to_thread(meshq, data_dir, "doctor", host, "--json", **{**HERE, **more})
    assert (code, err) == (1, "")
    found = {each["what"]: each for each in json.loads(out)["findings"]}
    assert found["daemon"] == {
        "what": "daemon", "well": False, "cause": "no_daemon",
        "text": f"no daemon listens at {data_dir}/meshq.sock; start one with: meshq up",
    }  # fmt: skip
    return found[host]["cause"], found[host]["text"]


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        ((3, 4), "speaks protocol version 3 to 4, and this machine 1 to 2: upgrade meshq on this one"),
        ((3, 3), "speaks protocol version 3, and this machine 1 to 2: upgrade meshq on this one"),
        ((0, 0), "speaks protocol version 0, and this machine 1 to 2: upgrade meshq on that machine"),
    ],
)
async def test_another_version(tmp_path: Path, protocol: tuple[int, int], says: str) -> None:
    async with later_meshq(replace(HEALTH, protocol=protocol), new_field=[1, 2]) as other:
        assert await wrong(tmp_path, other.to) == ("version", f"meshq 9.9 ({short(NODE)}) {says}")


async def test_what_others_call_themselves_is_no_command_to_the_terminal(tmp_path: Path) -> None:
    async with later_meshq(replace(HEALTH, version="\x07\x1b[31m\r\n" * 20, cluster="\x1b]0;x\x07")) as other:
        code, out, _ = await asyncio.to_thread(meshq, tmp_path, "doctor", other.to, **HERE)
    assert code == 1
    assert "cluster '\\x1b]0;x\\x07'" in " ".join(out.split())
    assert all(char.isprintable() or char == "\n" for char in out)
    assert max(map(len, out.splitlines())) <= 80


async def test_a_daemon_that_would_be_met(tmp_path: Path) -> None:
    async with daemon(tmp_path / "there") as to:
        code, out, _ = await asyncio.to_thread(meshq, tmp_path, "doctor", to, **HERE, MESHQ_CLUSTER="attic")
        assert (code, "of cluster 'meshq', and this machine of 'attic'" in " ".join(out.split())) == (1, True)
        assert "all is well" not in out
        assert await wrong(tmp_path, to, MESHQ_KEY=OTHER_KEY.text) == (
            "other_key", "it has another key: type `meshq key show` there, and `meshq up --key KEY` here"
        )  # fmt: skip
        assert (await wrong(tmp_path, to, MESHQ_KEY=""))[0] == "no_key"
        assert not (tmp_path / "key").exists()
        keyfile.write(tmp_path, Held((OTHER_KEY, KEY)))
        cause, text = await wrong(tmp_path, to)
        assert cause == "no_multicast"
        assert text.startswith(f"meshq {__version__} (")
        assert (
            "has the same key, cluster and version as this machine, and a clock as fast, but this machine does" in text
        )


async def test_its_own_daemon(tmp_path: Path) -> None:
    async with daemon(tmp_path) as to:
        # The daemon knows better than the settings of this command.
        other = {"MESHQ_KEY": OTHER_KEY.text, "MESHQ_CLUSTER": "attic", "MESHQ_MDNS": "0"}
        code, out, _ = await asyncio.to_thread(meshq, tmp_path, "doctor", to, "--json", **other)
    found = json.loads(out)["findings"]
    assert (code, [each["what"] for each in found if each["well"]]) == (0, ["daemon", "interfaces", to])
    assert found[-1]["text"].endswith("is this machine itself")
    assert found[-1]["cause"] == ""


@pytest.mark.parametrize("greets", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"])
async def test_somebody_else(tmp_path: Path, greets: bytes) -> None:
    async with Stranger(greets) as stranger:
        port = stranger.to.rpartition(":")[2]
        text = f"what answers at port {port} is no meshq: `meshq status` shows the right one there"
        assert await wrong(tmp_path, stranger.to) == ("no_meshq", text)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("", "'': the host is missing"),
        ("alpha:0", "'alpha:0': the port '0' is no number from 1 to 65535"),
        ("a b", "'a b' is neither an IP address nor a host name"),
        ("[::1", "'[::1': the closing bracket is missing"),
        ("::1:x", "an IPv6 address needs brackets"),
    ],
)
def test_what_is_no_machine(host: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["doctor", host, "--data-dir", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("meshq doctor: invalid value for HOST: ")
    assert says in err


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1:1"),
        ("127.0.0.1:2", "127.0.0.1:2"),
        ("::1", "[::1]:1"),
        ("[::1]", "[::1]:1"),
        ("[::1]:2", "[::1]:2"),
        ("localhost", "localhost:1"),
    ],
)
def test_a_machine_needs_no_port(
    host: str, shown: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**HERE, "MESHQ_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert run(["doctor", host, "--json", "--data-dir", str(tmp_path)]) == 1
    found = json.loads(capsys.readouterr().out)["findings"][-1]
    assert (found["what"], found["cause"]) == (shown, "port_closed")
