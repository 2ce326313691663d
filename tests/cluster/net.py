"""Machines on one switch: network namespaces joined by a bridge that has a namespace of its own.

Nothing of it is seen from outside, so no address can collide and no packet can leak.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Self

PREFIX = "meshqt"
# A hardware address that no machine has: locally administered, and never given out by the kernel's veth.
NOWHERE = "02:00:00:00:de:ad"
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

    Three kinds of cut, all of which `whole` heals: a cable taken out (`cut`), a switch that falls into parts (`part`),
    and a way that is lost in one direction only (`cut_one_way`). They need nothing but `ip`.

    Args:
        count: How many machines.
        multicast: False for a switch that drops all multicast, as some wireless networks do.
    """

    def __init__(self, count: int, *, multicast: bool = True) -> None:
        self.count = count
        self._name = f"{PREFIX}-{os.getpid()}-{next(_SEQUENCE)}"
        self._switch = f"{self._name}-switch"
        self._multicast = multicast
        self._islands = 0
        self._lost: set[tuple[int, int]] = set()

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

    def part(self, *islands: Collection[int]) -> None:
        """Lets the switch fall into parts: the machines of each part reach each other, and no others.

        Cables stay in, so no machine notices anything but silence. Machines that are not named stay together.
        """
        for island in islands:
            self._islands += 1
            name = f"island{self._islands}"
            self._add_switch(name)
            for index in island:
                self._plug(index, name)

    def cut_one_way(self, sender: int, receiver: int) -> None:
        """Loses in silence all that the sender sends to this receiver; the other direction carries on.

        The sender is told a hardware address for the receiver that nobody has, and the receiver the sender's own, so
        that it never has to ask. What is sent to all machines at once (multicast) still arrives.
        """
        self._lost.add((sender, receiver))
        self._introduce(sender, receiver)
        self._introduce(receiver, sender)

    def heal_one_way(self, sender: int, receiver: int) -> None:
        """Lets it arrive again."""
        self._lost.discard((sender, receiver))
        self._introduce(sender, receiver)
        self._introduce(receiver, sender)

    def whole(self) -> None:
        """Heals every cut."""
        for index in range(self.count):
            self._plug(index, "switch")
            self.heal(index)
        for sender, receiver in sorted(self._lost):
            self.heal_one_way(sender, receiver)

    def addresses(self, index: int) -> list[str]:
        """All addresses that the machine has on the net, IPv4 and IPv6."""
        return [info["local"] for info in self._eth0(index)["addr_info"]]

    def pids(self, index: int) -> list[int]:
        """The processes that run on the machine."""
        return [int(pid) for pid in _ip("netns", "pids", self.namespace(index)).split()]

    def switch_off(self, index: int) -> None:
        """Switches the machine's interface off, on the machine itself: nothing can be sent."""
        _ip("-n", self.namespace(index), "link", "set", "eth0", "down")

    def deafen(self, index: int) -> None:
        """Lets no more multicast reach this machine; what it sends by multicast still reaches others."""
        _ip("-n", self._switch, "link", "set", f"port{index}", "type", "bridge_slave", "mcast_flood", "off")

    def add_address(self, index: int, address: str) -> None:
        """Gives the machine one more address, as `IP/LENGTH`."""
        _ip("-n", self.namespace(index), "addr", "add", address, "dev", "eth0")

    def move(self, index: int, address: str) -> None:
        """Takes all addresses from the machine, IPv6 ones too, and gives it this one, as `IP/LENGTH`."""
        _ip("-n", self.namespace(index), "addr", "flush", "dev", "eth0")
        self.add_address(index, address)
        _ip("-n", self.namespace(index), "route", "replace", "224.0.0.0/4", "dev", "eth0")

    def add_interface(self, index: int, name: str, address: str) -> None:
        """Gives the machine one more interface, with this address as `IP/LENGTH`; nobody is at its other end."""
        space, end = self.namespace(index), f"end{next(_SEQUENCE)}"
        _ip("-n", self._switch, "link", "add", end, "type", "veth", "peer", "name", name, "netns", space)
        _ip("-n", self._switch, "link", "set", end, "up")
        _ip("-n", space, "addr", "add", address, "dev", name)
        _ip("-n", space, "link", "set", name, "up")

    def lead(self, index: int, addresses: str, interface: str) -> None:
        """Lets the machine's way to these addresses, as `IP/LENGTH`, go by this interface; `unreachable`: by none."""
        way = ["unreachable", addresses] if interface == "unreachable" else [addresses, "dev", interface]
        _ip("-n", self.namespace(index), "route", "add", *way)

    def block(self, index: int, direction: str, protocol: str, port: int, interface: str = "") -> None:
        """Puts a firewall on the machine that drops these packets in silence, by one interface or by all.

        Args:
            direction: `in`, or `out`.
            protocol: `tcp`, or `udp`.
            port: That they are sent to.
        """
        for anywhere in ("0.0.0.0/0", "::/0"):
            which = ["src", anywhere, "dst", anywhere, "proto", protocol, "dport", str(port)]
            where = ["dev", interface] if interface else []
            policy = ["xfrm", "policy", "add", *which, *where, "dir", direction, "action", "block"]
            _ip("-n", self.namespace(index), *policy)

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        self._add_switch("switch")
        for index in range(self.count):
            space, port = self.namespace(index), f"port{index}"
            _ip("netns", "add", space)
            _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            self._plug(index, "switch")
            self.heal(index)
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "addr", "add", f"{self.address(index)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "route", "add", "224.0.0.0/4", "dev", "eth0")

    def _add_switch(self, name: str) -> None:
        # Without snooping the switch sends multicast to all, or, told so, to none.
        _ip("-n", self._switch, "link", "add", name, "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self._switch, "link", "set", name, "up")

    def _plug(self, index: int, switch: str) -> None:
        _ip("-n", self._switch, "link", "set", f"port{index}", "master", switch)
        if not self._multicast:
            self.deafen(index)

    def _eth0(self, index: int) -> dict[str, Any]:
        link: dict[str, Any] = json.loads(_ip("-n", self.namespace(index), "-j", "addr", "show", "dev", "eth0"))[0]
        return link

    def _introduce(self, index: int, other: int) -> None:
        """Tells a machine the other's hardware address, true or not, or lets it find out."""
        lost, deaf = (index, other) in self._lost, (other, index) in self._lost
        hardware = NOWHERE if lost else self._eth0(other)["address"]
        for address in self.addresses(other):
            entry = [address, "dev", "eth0"]
            if lost or deaf:
                entry += ["lladdr", hardware, "nud", "permanent"]
                _ip("-n", self.namespace(index), "neigh", "replace", *entry)
            else:
                with contextlib.suppress(NetError):
                    _ip("-n", self.namespace(index), "neigh", "del", *entry)

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
