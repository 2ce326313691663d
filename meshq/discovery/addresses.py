"""The addresses that this machine has, and which of them others may reach."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

import ifaddr

# Bridges of containers and virtual machines carry the same address on every machine: nobody else gets here by it.
_TUNNEL = re.compile(r"(tun|tap|wg|utun|ppp|tailscale|zt|nordlynx)[0-9a-z]*$")
_PRIVATE_BRIDGE = re.compile(r"(docker|podman|virbr|vmnet|vboxnet|lxcbr|lxdbr|cni|flannel)\d*$|br-[0-9a-f]{12}$|veth")


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of this machine.

    Args:
        ip: Without a scope.
        interface: The interface's name.
        index: The interface's number, which is the scope of a link-local IPv6 address.
    """

    ip: str
    interface: str
    index: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.ip).is_loopback


def is_link_local(ip: str) -> bool:
    """Whether it is an IPv6 address whose scope means something on this machine only."""
    address = ipaddress.ip_address(ip)
    return address.version == 6 and address.is_link_local


def usable(host: str = "") -> tuple[LocalAddress, ...]:
    """The addresses by which others may reach this machine, the likeliest first; loopback where nothing else is.

    Args:
        host: The address that the daemon listens on; empty, `0.0.0.0` or `::` for all.
    """
    everything = [_local(adapter, ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    return choose([local for local in everything if is_ready(local)], host)


def is_ready(local: LocalAddress) -> bool:
    """Whether the system lets a program use the address: one that it still checks for duplicates, for instance, not."""
    family = socket.AF_INET6 if ":" in local.ip else socket.AF_INET
    scope = (0, local.index) if is_link_local(local.ip) else ()
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((local.ip, 0, *scope))
    except OSError:
        return False
    return True


def left_out(host: str = "") -> tuple[LocalAddress, ...]:
    """The addresses of containers and virtual machines, by which nobody else gets here: `usable` leaves them out."""
    chosen = {local.ip for local in usable(host)}
    everything = [_local(adapter, ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    return tuple(local for local in everything if local.ip not in chosen and is_container(local.interface))


def is_tunnel(interface: str) -> bool:
    """Whether an interface is one of a virtual private network, by which neighbours are seldom reached."""
    return _TUNNEL.match(interface) is not None


def is_container(interface: str) -> bool:
    """Whether an interface is one of containers or virtual machines, by which nobody else gets here."""
    return _PRIVATE_BRIDGE.match(interface) is not None


def choose(everything: list[LocalAddress], host: str = "") -> tuple[LocalAddress, ...]:
    """What `usable` answers on a machine that has these addresses."""
    if host == "0.0.0.0":
        everything = [local for local in everything if ":" not in local.ip]
    elif host not in ("", "::"):
        return tuple(local for local in everything if local.ip == host.partition("%")[0])
    outside = [local for local in everything if not local.is_loopback and not _unusable(local.ip)]
    shared = [local for local in outside if not is_container(local.interface)]
    loopback = [local for local in everything if local.ip == "127.0.0.1"]
    return tuple(sorted(shared or outside or loopback, key=_rank))


def _local(adapter: ifaddr.Adapter, ip: ifaddr.IP) -> LocalAddress:
    text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
    return LocalAddress(text.partition("%")[0], adapter.name, adapter.index or 0)


def _unusable(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    return address.is_unspecified or address.is_multicast


def _rank(local: LocalAddress) -> tuple[bool, int, int, str]:
    address = ipaddress.ip_address(local.ip)
    return (address.is_link_local, address.version, local.index, local.ip)
