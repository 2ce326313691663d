"""Machines on one switch: network namespaces joined by a bridge that has a namespace of its own.

Nothing of it is seen from outside, so no address can collide and no packet can leak.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

PREFIX = "meshqt"
_SEQUENCE = itertools.count()


class NetError(Exception):
    """A command that makes or changes the network failed."""


def why_not() -> str:
    """Why networks can't be made here; empty where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the ip command (iproute2) is not installed"
    try:
        with Net(1):
            return ""
    except NetError as error:
        return f"network namespaces can't be used here: {error}"


class Net:
    """A switch and its machines, each with `eth0` in 10.77.0.0/24 and a link-local IPv6 address.

    Args:
        count: How many machines.
        multicast: False for a switch that drops all multicast, as some wireless networks do.
    """

    def __init__(self, count: int, *, multicast: bool = True) -> None:
        self.count = count
        self._name = f"{PREFIX}-{os.getpid()}-{next(_SEQUENCE)}"
        self._switch = f"{self._name}-switch"
        self._multicast = multicast

    def __enter__(self) -> Self:
        remove_stale()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def namespace(self, index: int) -> str:
        """The namespace's name."""
        return f"{self._name}-{index}"

    def address(self, index: int) -> str:
        """The machine's IPv4 address."""
        return f"10.77.0.{index + 1}"

    def command(self, index: int, *argv: str) -> list[str]:
        """The command line that runs this on that machine; the process started is the command itself."""
        return ["ip", "netns", "exec", self.namespace(index), *argv]

    def cut(self, index: int) -> None:
        """Takes the machine's cable out."""
        _ip("-n", self._switch, "link", "set", f"port{index}", "down")

    def heal(self, index: int) -> None:
        """Puts the cable back."""
        _ip("-n", self._switch, "link", "set", f"port{index}", "up")

    def switch_off(self, index: int) -> None:
        """Switches the machine's interface off, on the machine itself: nothing can be sent."""
        _ip("-n", self.namespace(index), "link", "set", "eth0", "down")

    def deafen(self, index: int) -> None:
        """Lets no more multicast reach this machine; what it sends by multicast still reaches others."""
        _ip("-n", self._switch, "link", "set", f"port{index}", "type", "bridge_slave", "mcast_flood", "off")

    def add_address(self, index: int, address: str) -> None:
        """Gives the machine one more address, as `IP/LENGTH`."""
        _ip("-n", self.namespace(index), "addr", "add", address, "dev", "eth0")

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        # Without snooping the switch sends multicast to all, or, told so, to none.
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        for index in range(self.count):
            space, port = self.namespace(index), f"port{index}"
            _ip("netns", "add", space)
            _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
            if not self._multicast:
                self.deafen(index)
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "addr", "add", f"{self.address(index)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "route", "add", "224.0.0.0/4", "dev", "eth0")

    def _remove(self) -> None:
        for name in namespaces():
            if name.startswith(f"{self._name}-"):
                _remove_namespace(name)


def remove_stale() -> None:
    """Removes what earlier runs left that ended without a chance to clean up."""
    for name in namespaces():
        prefix, _, rest = name.partition("-")
        pid = rest.partition("-")[0]
        if prefix == PREFIX and pid.isdigit() and not _alive(int(pid)):
            _remove_namespace(name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def namespaces() -> list[str]:
    """All namespaces of this system, ours and others'."""
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.strip()]


def _remove_namespace(name: str) -> None:
    """Ends the processes inside, without which the namespace would live on, then removes it."""
    with contextlib.suppress(NetError):
        for pid in _ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(NetError):
        _ip("netns", "del", name)


def _ip(*args: str) -> str:
    return _run(["ip", *args])


def _run(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetError(f"{' '.join(argv)}: {error}") from error
    if done.returncode != 0:
        raise NetError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
