"""Where the daemon listens: a TCP port for other machines, a Unix socket for this one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from meshq.core import limits
from meshq.errors import ConfigError, Conflict
from meshq.wire.doorman import Doorman, Inside
from meshq.wire.http import GATE
from meshq.wire.lines import FewLines
from meshq.wire.shares import Share
from meshq.wire.unix import SOCKET_NAME

log = logging.getLogger(__name__)
# What aiohttp says, which is mostly that a caller speaks no HTTP.
_http_log = logging.getLogger("meshq.http")
_http_log.addFilter(FewLines())

# A connection whose request was answered before its body came is read on so long, so that the answer arrives.
LINGER_S: Final = 2.0
# What a node needs beside connections: databases, children, links of its own.
_OTHER_FILES: Final = 1024
_BACKLOG: Final = 1024
_MODE_MASK: Final = 0o177


class Server:
    """The application, listening: `start` takes the sockets, and callers are let in while `run` runs.

    Args:
        app: What `http.build_app` made.
        host: The address to listen at; empty for all, IPv4 and IPv6.
        port: 0 for any that is free, None for no TCP at all.
        unix_path: The Unix socket; None for none.
        context: How callers at the port prove themselves, asked anew for each; None lets everybody in.
        count: Counts by name those who are not let in.
        grace_s: How long running requests may take at the end.
        header_s: How long a connection may be idle, and the header of a request under way.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        host: str = "",
        port: int | None,
        unix_path: Path | None,
        context: Callable[[], ssl.SSLContext] | None = None,
        count: Callable[[str], None] = lambda name: None,
        grace_s: float = 2.0,
        header_s: float = limits.HEADER_S,
    ) -> None:
        self.port = 0
        self._app = app
        self._host = host
        self._wanted_port = port
        self._unix_path = unix_path
        self._unix_inode: int | None = None
        self._context = context
        self._count = count
        self._doors: list[Doorman] = []
        # Nothing is unpacked on the way in: a few bytes could become any number.
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=grace_s, keepalive_timeout=header_s,
            max_line_size=limits.HEADER_BYTES_MAX, max_field_size=limits.HEADER_BYTES_MAX,
            max_headers=limits.HEADER_LINES_MAX, lingering_time=LINGER_S, auto_decompress=False,
            logger=_http_log,
        )  # fmt: skip

    async def start(self) -> None:
        """Listens; who calls is answered once `run` runs.

        Raises:
            Conflict: The port is in use, or another daemon listens on the Unix socket.
            ConfigError: This machine can't listen at that address.
        """
        port = unix = None
        try:
            if self._wanted_port is not None:
                port = _tcp_socket(self._host, self._wanted_port)
                port.setblocking(False)
                self.port = port.getsockname()[1]
            if self._unix_path is not None:
                unix = _unix_socket(self._unix_path)
                unix.setblocking(False)
                self._unix_inode = self._unix_path.stat().st_ino
            _raise_file_limit()
            await self._runner.setup()
            if port is not None:
                share = Share(limits.CONNECTIONS_MAX, limits.CONNECTIONS_PER_CALLER)
                self._doors.append(Doorman(port, self._inside(share), self._context))
            if unix is not None:
                share = Share(limits.CONNECTIONS_LOCAL_MAX, limits.CONNECTIONS_LOCAL_MAX)
                self._doors.append(Doorman(unix, self._inside(share)))
        except BaseException:
            for left in (port, unix):
                if left is not None:
                    left.close()
            await self.close()
            raise

    def _inside(self, share: Share) -> Inside:
        assert self._runner.server is not None
        return Inside(self._runner.server, share, self._count)

    @property
    def connections(self) -> int:
        """How many callers are in."""
        return len(self._runner.server.connections) if self._runner.server is not None else 0

    async def run(self) -> None:
        """Lets callers in until it is cancelled, after `start`."""
        async with asyncio.TaskGroup() as group:
            for door in self._doors:
                group.create_task(door.run())

    def refuse(self) -> None:
        """First stage of a stop: new work is refused with `Stopping`; results, queries and links go on."""
        self._app[GATE].shut = True

    async def close(self) -> None:
        """Second stage: listens no more, lets running requests end for `grace_s`, and closes all connections."""
        self.refuse()
        self._remove_unix_socket()
        for door in self._doors:
            door.close()
        await self._runner.cleanup()

    def _remove_unix_socket(self) -> None:
        """Takes the Unix socket's file away, unless another daemon has put its own there."""
        if self._unix_path is None or self._unix_inode is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if self._unix_path.stat().st_ino == self._unix_inode:
                self._unix_path.unlink()
        self._unix_inode = None


def _raise_file_limit() -> None:
    """Takes as many open files as all connections may need, where the system gives them for the asking."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.CONNECTIONS_MAX + limits.CONNECTIONS_LOCAL_MAX + limits.WAITING_MAX + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Without more of them, fewer callers get in at once.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        if host:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, port), family=family, backlog=_BACKLOG)
        return _socket_for_all(port)
    except OSError as error:
        where = f"port {port}" if not host else f"{host} port {port}"
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"{where} is in use, perhaps by another meshq; choose one with: meshq up --port N"
            ) from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"{where}: permission denied; choose another with: meshq up --port N") from error
        raise ConfigError(f"this machine can't listen at {where}: {error.strerror or error}") from error


def _socket_for_all(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            log.debug("no IPv6 here: %s", error)
    return socket.create_server(("", port), backlog=_BACKLOG)


def _unix_socket(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = path.parent.stat().st_uid
    if path.name != SOCKET_NAME and owner != os.getuid():
        # Not in the data directory: whoever owns the directory could put a socket of theirs in its place.
        raise Conflict(f"{path.parent} belongs to another user (uid {owner}); no socket is made there")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode must hold from the first moment, and `bind` makes the file.
    mask = os.umask(_MODE_MASK)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConfigError(f"the Unix socket {path} can't be made: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


def _remove_stale(path: Path) -> None:
    """Takes away the socket that a daemon left when it was killed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} is in the way: it is no socket; move it elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(1.0)
        try:
            caller.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise Conflict(f"{path} is another daemon's, which does not answer: {error.strerror or error}") from error
    raise Conflict(f"another daemon listens on {path}; stop it with: meshq down")
