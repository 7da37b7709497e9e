"""Names of web servers that lead to addresses which a catalog must not reach."""

import socket
from ipaddress import ip_address

import pytest
from aiohttp.abc import AbstractResolver
from hypothesis import given as for_all
from hypothesis import strategies as st

from pipelines.fetching.addresses import is_public
from pipelines.fetching.fetcher import Fetcher
from pipelines.fetching.web import open_web
from pipelines.reasons import Reject
from tests.pipelines.fetching.asking import fetched, located, reasons, rules
from vista_core import UsageError

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "172.32.0.1",
    "2606:4700::1111",
    "64:ff9b::808:808",
    "2002:808:808::1",
    "::ffff:8.8.8.8",
]
NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
    *("169.254.169.254", "100.64.0.1", "100.127.255.255", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1"),
    *("192.0.0.1", "192.0.2.1", "203.0.113.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254"),
    *("fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "100::1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::1", "2001:0:7f00:1::1", "5f00::1"),
]


class Names(AbstractResolver):
    """Names and their addresses; of a list of lists each look-up gets the next one."""

    def __init__(self, **addresses: list) -> None:
        self.addresses = {name.replace("_", "."): found for name, found in addresses.items()}
        self.asked: list[str] = []

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        self.asked.append(host)
        found = self.addresses[host]
        if isinstance(found[0], list):
            found = found[min(self.asked.count(host), len(found)) - 1]
        return [
            {
                "hostname": host,
                "host": each,
                "port": port,
                "family": socket.AF_INET6 if ":" in each else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for each in found
        ]

    async def close(self) -> None:
        pass


def ask(names: Names, uri: str, *allowed: str) -> bytes | Reject:
    """The image at `uri`, if its host has these addresses."""
    given = rules(*allowed, attempts=1)
    fetcher, location = Fetcher(given, {"http": open_web(given, names)}), located(uri, given)
    return location if isinstance(location, Reject) else fetcher.contents([location])[location]


@pytest.fixture
def port(server) -> int:
    return server.server_address[1]


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_all_others_are_not(address):
    assert not is_public(ip_address(address))


@for_all(st.ip_addresses(v=4))
def test_an_ipv6_address_is_as_public_as_the_ipv4_address_that_it_leads_to(address):
    number = int(address)
    for way in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80 | 1):
        assert is_public(ip_address(way.to_bytes(16, "big"))) == is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_that_leads_to_such_an_address_is_refused_and_the_message_names_the_cure(address):
    uri = "http://img.example.com/good/1.png"
    result = ask(Names(img_example_com=[address]), uri, "http://img.example.com/")
    assert (result.stage, result.reason) == ("fetch", "uri_not_allowed")
    assert f"img.example.com leads to {address}, which is not a public address" in result.message
    assert result.message.endswith(f"give --allow-prefix {address}")


def test_nothing_is_sent_to_an_address_that_is_refused(server, port):
    host = f"http://img.example.com:{port}/"
    assert ask(Names(img_example_com=["127.0.0.1"]), f"{host}good/1.png", host).reason == "uri_not_allowed"
    assert not server.asked


@pytest.mark.parametrize(
    "prefix", ["127.0.0.1", "127.0.0.0/8", "0.0.0.0/0", "http://127.0.0.1:PORT/", "HTTP://127.0.0.1:PORT"]
)
def test_an_allowed_address_network_or_server_may_have_any_allowed_name(server, port, prefix):
    host = f"http://images.internal:{port}/"
    names = Names(images_internal=["127.0.0.1"])
    assert ask(names, f"{host}good/1.png", host, prefix.replace("PORT", str(port))) == server.image("/good/1.png")


@pytest.mark.parametrize(
    "prefix",
    ["127.0.0.2", "10.0.0.0/8", "::1", "http://127.0.0.1:PORT/good/", "http://127.0.0.1:1/", "http://127.0.0.2:PORT/"],
)
def test_other_prefixes_allow_no_address(server, port, prefix):
    host = f"http://images.internal:{port}/"
    names = Names(images_internal=["127.0.0.1"])
    assert ask(names, f"{host}good/1.png", host, prefix.replace("PORT", str(port))).reason == "uri_not_allowed"
    assert not server.asked


def test_a_network_allows_no_uri(server):
    result = ask(Names(), f"{server.url}/good/1.png", "127.0.0.0/8")
    assert result.reason == "uri_not_allowed"
    assert result.message.endswith(f"give --allow-prefix {server.url}/")


def test_a_network_allows_an_ipv4_address_however_it_is_reached(port):
    host = f"http://images.internal:{port}/"
    result = ask(Names(images_internal=["::ffff:127.0.0.1"]), f"{host}good/1.png", host, "127.0.0.0/8")
    assert isinstance(result, bytes) or result.reason == "fetch_failed", "where this machine has no IPv6"


def test_localhost_needs_no_second_prefix(server, port):
    host = f"http://localhost:{port}/"
    assert fetched([f"{host}good/1.png"], rules(host)) == [server.image("/good/1.png")]
    assert ask(Names(localhost=["10.1.2.3"]), f"{host}good/1.png", host).reason == "uri_not_allowed"


@pytest.mark.parametrize("name", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1."])
def test_an_address_in_an_odd_spelling_is_reached_by_no_way(server, port, name):
    host = f"http://{name}:{port}/"
    assert reasons(fetched([f"{host}good/1.png"], rules(server.url))) == ["uri_not_allowed"]
    assert reasons(fetched([f"{host}good/1.png"], rules(host, attempts=1)))[0] in ("uri_not_allowed", "fetch_failed")
    assert not server.asked


def test_of_several_addresses_only_the_allowed_are_contacted(server, port):
    host = f"http://images.internal:{port}/"
    names = Names(images_internal=["169.254.169.254", "::1", "127.0.0.1"])
    assert ask(names, f"{host}good/1.png", host, "127.0.0.1") == server.image("/good/1.png")


def test_a_name_that_changes_its_address_is_checked_at_each_connection(server, port):
    """DNS rebinding: the address that is checked is the one that is contacted, since the name is looked up once."""
    host = f"http://img.example.com:{port}/"
    names = Names(img_example_com=[["127.0.0.1"], ["127.0.0.2"]])
    assert ask(names, f"{host}good/1.png", host, "127.0.0.1") == server.image("/good/1.png")
    assert names.asked == ["img.example.com"]
    assert ask(names, f"{host}good/1.png", host, "127.0.0.1").reason == "uri_not_allowed"
    assert server.total("GET") == 1


def test_the_target_of_a_redirect_is_checked(server, port):
    target = f"http://inside.example.com:{port}/"
    server.target = f"{target}good/1.png"
    names = Names(inside_example_com=["127.0.0.1"])
    assert ask(names, f"{server.url}/to-target/1.png", server.url, target) == server.image("/good/1.png")
    narrow = (f"{server.url}/to-target/", target)
    result = ask(names, f"{server.url}/to-target/1.png", *narrow)
    assert result.reason == "uri_not_allowed"
    assert "inside.example.com leads to 127.0.0.1" in result.message


def test_the_proxy_of_the_environment_may_have_any_address(server, port, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://proxy.internal:{port}")
    names = Names(proxy_internal=["127.0.0.1"])
    result = ask(names, "http://img.example.com/missing.png", "http://img.example.com/")
    assert result.reason == "fetch_not_found", "the answer of the proxy"
    assert names.asked == ["proxy.internal"]


@pytest.mark.parametrize("prefix", ["10.1.2.3/16", "fd00::1/8"])
def test_an_address_with_the_length_of_a_network_is_ambiguous(prefix):
    with pytest.raises(UsageError, match=f"--allow-prefix {prefix}: write the network as "):
        rules("/data", prefix)
