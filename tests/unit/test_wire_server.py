"""Where the daemon listens: ports, the Unix socket, and what is in the way."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import aiohttp
import pytest

from meshq.core.requests import Answer, Request
from meshq.errors import ConfigError, Conflict
from meshq.wire.http import build_app
from meshq.wire.server import Server
from meshq.wire.unix import socket_path
from tests.unit.serving import serving
from tests.unit.wire_service import DictService


def server(*, port: int | None = None, host: str = "", unix_path: Path | None = None) -> Server:
    app = build_app(DictService(), None, new_id=lambda: "0" * 32, wall_ms=lambda: 0, body_bytes_max=1000)
    return Server(app, host=host, port=port, unix_path=unix_path, grace_s=0.5)


async def healthy(url: str, connector: aiohttp.BaseConnector | None = None) -> bool:
    async with aiohttp.ClientSession(connector=connector) as session, session.get(f"{url}/health") as answer:
        return answer.status == 200


async def test_no_host_means_all_addresses() -> None:
    async with serving(server(port=0)) as listening:
        assert await healthy(f"http://127.0.0.1:{listening.port}")
        if socket.has_dualstack_ipv6():
            assert await healthy(f"http://[::1]:{listening.port}")
    with pytest.raises(aiohttp.ClientConnectionError):
        await healthy(f"http://127.0.0.1:{listening.port}")


async def test_a_port_in_use_is_named_with_what_to_type() -> None:
    first = server(port=0)
    await first.start()
    try:
        for host in ("", "127.0.0.1"):
            with pytest.raises(Conflict) as caught:
                await server(port=first.port, host=host).start()
            assert str(first.port) in caught.value.message
            assert "--port" in caught.value.message
    finally:
        await first.close()


async def test_a_host_that_is_not_here_is_named() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        await server(port=0, host="192.0.2.1").start()


async def test_the_unix_socket_is_its_owners_alone_and_goes_with_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "meshq.sock"
    mask = os.umask(0)
    try:
        async with serving(server(unix_path=path)):
            mode = path.stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
            assert await healthy("http://meshq", aiohttp.UnixConnector(str(path)))
    finally:
        os.umask(mask)
    assert not path.exists()


async def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "meshq.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    async with serving(server(unix_path=path)):
        assert await healthy("http://meshq", aiohttp.UnixConnector(str(path)))


async def test_a_living_daemons_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "meshq.sock"
    async with serving(server(unix_path=path)):
        with pytest.raises(Conflict, match="another daemon"):
            await server(unix_path=path).start()
        assert await healthy("http://meshq", aiohttp.UnixConnector(str(path)))


async def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "meshq.sock"
    path.write_text("precious")
    with pytest.raises(Conflict, match="in the way"):
        await server(unix_path=path).start()
    assert path.read_text() == "precious"


async def test_a_start_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    blocked = tmp_path / "meshq.sock"
    blocked.write_text("")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Conflict):
        await server(port=port, unix_path=blocked).start()
    again = server(port=port)
    await again.start()
    await again.close()


async def test_a_request_that_runs_at_the_end_gets_its_answer() -> None:
    started, go = asyncio.Event(), asyncio.Event()

    class Slow(DictService):
        async def call(self, request: Request, *, local: bool) -> Answer:
            started.set()
            await go.wait()
            return await super().call(request, local=local)

    app = build_app(Slow(), None, new_id=lambda: "0" * 32, wall_ms=lambda: 0, body_bytes_max=1000)
    listening = Server(app, host="127.0.0.1", port=0, unix_path=None, grace_s=5)
    async with serving(listening), asyncio.TaskGroup() as group:
        answer = group.create_task(healthy(f"http://127.0.0.1:{listening.port}"))
        await started.wait()
        closing = group.create_task(listening.close())
        await asyncio.sleep(0)
        assert not closing.done()
        go.set()
    assert answer.result()


def test_the_sockets_path_is_in_the_data_directory(tmp_path: Path) -> None:
    assert socket_path(tmp_path) == tmp_path / "meshq.sock"


def test_a_long_path_moves_to_the_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    long = tmp_path / ("x" * 120)
    path = socket_path(long)
    assert path.parent == tmp_path / "meshq"
    assert path == socket_path(long / "." / "y" / "..")
    assert path != socket_path(tmp_path / ("y" * 120))
    for unusable in (str(long), "", "relative"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unusable)
        assert len(os.fsencode(socket_path(long))) <= 100


async def test_a_moved_socket_is_found_from_another_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    path = socket_path(long)
    listening = server(unix_path=path)
    await listening.start()
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        assert socket_path(long) == path
    finally:
        await listening.close()
    assert socket_path(long).parent == tmp_path / "meshq"


def test_the_edge_of_the_length(tmp_path: Path) -> None:
    room = 100 - len(os.fsencode(tmp_path / "x" / "meshq.sock")) + 1
    assert socket_path(tmp_path / ("x" * room)).is_relative_to(tmp_path)
    assert not socket_path(tmp_path / ("x" * (room + 1))).is_relative_to(tmp_path)


async def test_a_socket_outside_of_the_data_directory_works(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    listening = server(unix_path=runtime / "0123.sock")
    await listening.start()
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    await listening.close()
