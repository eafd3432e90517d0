"""Addresses in a migration file: instances, the Host field, trusted networks."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest

from gateway.core.model import Instance
from gateway.settings.addresses import is_placeholder, parse_host_field, parse_instance, parse_network


@pytest.mark.parametrize(
    ("text", "instance"),
    [
        ("http://127.0.0.1:9001", Instance("http://127.0.0.1:9001", "127.0.0.1", 9001)),
        ("https://Old.Test:443", Instance("https://old.test:443", "old.test", 443, tls=True)),
        ("http://[::1]:80", Instance("http://[::1]:80", "::1", 80)),
        ("http://[0:0::1]:80", Instance("http://[::1]:80", "::1", 80)),
        ("http://service_1:80", Instance("http://service_1:80", "service_1", 80)),
        ("unix:/run/old.sock", Instance("unix:/run/old.sock", "", 0, unix_path="/run/old.sock")),
        ("bundled:approach1", Instance("bundled:approach1", "", 0)),
    ],
)
def test_every_form_can_be_written(text: str, instance: Instance) -> None:
    assert parse_instance(text) == instance
    assert is_placeholder(instance) == text.startswith("bundled:")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("127.0.0.1:9001", "is no address; write http://host:port"),
        ("ftp://a:21", "is no address"),
        ("http://", "is no address"),
        ("http://a:99999", "is no address"),
        ("http://a:x", "is no address"),
        ("http://[::g]:80", "is no address"),
        ("http://[v1.x]:80", "is no"),
        ("http://a b:80", "is no host name"),
        ("http://-a:80", "is no host name"),
        ("http://a", "needs a port; write http://a:80"),
        ("https://a", "needs a port; write https://a:443"),
        ("http://[::1]", "needs a port; write http://[::1]:80"),
        ("http://a:0", "needs a port"),
        ("http://a:1/", "holds a path, and requests keep their own; write http://a:1"),
        ("http://a:1/v1", "holds a path"),
        ("http://a:1?x=1", "holds a query"),
        ("http://a:1#x", "holds a fragment"),
        ("http://me:hunter2@a:1", "holds user info"),
        ("unix:run/a.sock", "must be unix: and an absolute path; write unix:/run/a.sock"),
        ("unix:///run/a.sock", "write unix:/run/a.sock"),
        ("unix:/a\tb", "must be unix:"),
        (f"unix:/{'x' * 107}", "is longer than 107 bytes"),
        (f"unix:/{'é' * 54}", "is longer than 107 bytes"),
        ("bundled:approach3", 'there is no bundled service "approach3"'),
    ],
)
def test_anything_else_is_refused_and_says_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        parse_instance(text)
    assert "hunter2" not in str(caught.value)


def test_the_longest_path_that_a_socket_can_have_is_taken() -> None:
    assert parse_instance(f"unix:/{'x' * 106}").unix_path == f"/{'x' * 106}"


@pytest.mark.parametrize("text", ["a.test", "a.test:8080", "127.0.0.1:1", "[::1]", "[::1]:80"])
def test_a_host_with_or_without_a_port_is_a_host_field(text: str) -> None:
    assert parse_host_field(text) == text


@pytest.mark.parametrize("text", ["", "http://a", "a/b", "a b", "a\r\nx: y", "::1", "a:123456", "me@a"])
def test_a_host_field_is_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match="write host or host:port"):
        parse_host_field(text)


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"])
def test_an_address_or_a_network_can_be_trusted(text: str) -> None:
    assert parse_network(text) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("everybody", "is no address or network; write 10.0.0.1 or 10.0.0.0/8"),
        ("10.0.0.0/33", "is no address or network"),
        ("10.0.0.1/8", "has bits set behind its prefix; write 10.0.0.0/8 or the single address"),
        ("", "is no address or network"),
    ],
)
def test_nobody_else_can_be_trusted(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_network(text)
