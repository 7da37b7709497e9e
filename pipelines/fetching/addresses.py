"""Internet addresses: which are public, and which networks the user allows."""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address that is reached


def parse_address(host: str) -> Address | None:
    """The address that a host is written as, IPv6 with or without brackets; None for a name."""
    try:
        return ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def is_network(prefix: str) -> bool:
    """True for what is written as a network, 10.1.0.0/16, or as one address."""
    try:
        ip_interface(prefix)
    except ValueError:
        return False
    return True


def parse_network(prefix: str) -> Network:
    """The network that `is_network` recognises. Raises ValueError if it has more bits than its length says."""
    interface = ip_interface(prefix)
    if interface.ip != interface.network.network_address:
        raise ValueError(f"write the network as {interface.network}, or the address as {interface.ip}")
    return interface.network


def is_public(address: Address) -> bool:
    """True for an address of the Internet: not private, loopback, link-local, shared, multicast or reserved."""
    if isinstance(address, IPv4Address):
        return address.is_global and not (address.is_multicast or address.is_reserved)
    if (inner := reached_ipv4(address)) is not None:
        return is_public(inner)
    return address in GLOBAL_UNICAST and address.is_global


def is_inside(address: Address, network: Network) -> bool:
    """True if a network has an address, or the IPv4 address that it leads to."""
    inner = reached_ipv4(address)
    return address in network or (inner is not None and inner in network)


def reached_ipv4(address: Address) -> IPv4Address | None:
    """The IPv4 address that is reached by an IPv6 address: mapped, or through NAT64 or 6to4."""
    if isinstance(address, IPv4Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
