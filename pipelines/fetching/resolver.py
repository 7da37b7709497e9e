"""Looks up host names, and gives out only addresses from which images may be fetched.

Who controls a name decides where it leads: also to this machine, the network around it, or a cloud's metadata service.
So addresses are checked where a connection is opened, which is then opened to just those that were checked.
"""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from aiohttp.abc import AbstractResolver, ResolveResult

from pipelines.fetching.addresses import Address, is_inside, is_network, is_public, parse_address, parse_network
from pipelines.fetching.locations import WEB_PORTS, not_allowed, parse_prefixes

Server = tuple[Address, int]  # address and port


class CheckedResolver(AbstractResolver):
    """A resolver that leaves out addresses which are neither public nor allowed.

    Hosts that are written as an address are not looked up: they have been compared with the allowed prefixes.
    """

    def __init__(self, resolver: AbstractResolver, allowed: tuple[str, ...]) -> None:
        """`resolver` looks up names; `allowed` are the prefixes of the rules."""
        self.resolver = resolver
        self.networks = [parse_network(prefix) for prefix in allowed if is_network(prefix)]
        self.servers = allowed_servers(allowed)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises FetchError if there are some, but none that is allowed, and OSError."""
        found = await self.resolver.resolve(host, port, family)
        if (host, port) in proxies():
            return found
        allowed = [each for each in found if self.is_allowed(host, each["host"], port)]
        if found and not allowed:
            addresses = " and ".join(sorted({each["host"] for each in found}))
            raise not_allowed(f"{host} leads to {addresses}, which is not a public address", found[0]["host"])
        return allowed

    async def close(self) -> None:
        """Close the resolver that looks up names."""
        await self.resolver.close()

    def is_allowed(self, host: str, written: str, port: int) -> bool:
        """True if images may be fetched from an address that a host has."""
        address = parse_address(written)
        if address is None:
            return False
        if is_public(address) or (host == "localhost" and address.is_loopback):
            return True
        return (address, port) in self.servers or any(is_inside(address, network) for network in self.networks)


def allowed_servers(allowed: tuple[str, ...]) -> set[Server]:
    """The servers that are allowed as a whole by their address, as http://10.1.2.3:8080/, and so under any name."""
    servers = set()
    for prefix in parse_prefixes(allowed):
        if prefix.scheme in WEB_PORTS and prefix.path == "/":
            parts = urlsplit(prefix.host)
            if (address := parse_address(parts.hostname or "")) is not None:
                servers.add((address, parts.port or WEB_PORTS[prefix.scheme]))
    return servers


def proxies() -> set[tuple[str | None, int | None]]:
    """Host and port of the proxies of the environment, which the user chose, and which mostly are not public."""
    parts = [urlsplit(uri) for scheme, uri in getproxies().items() if scheme in WEB_PORTS]
    return {(each.hostname, each.port or WEB_PORTS.get(each.scheme)) for each in parts}
