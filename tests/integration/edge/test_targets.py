"""Request targets in every form: what is forwarded is what came, what cannot be forwarded is said so."""

from __future__ import annotations

import pytest

from tests.integration.edge.scene import Edge, answers_in
from tests.support.sides import client, get


@pytest.mark.parametrize(
    ("line", "forwarded", "host"),
    [
        (b"OPTIONS * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"a"),
        (b"OPTIONS http://b:81 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"b:81"),
        (b"OPTIONS http://b/ HTTP/1.1", b"OPTIONS / HTTP/1.1", b"b"),
        (b"GET http://b HTTP/1.1", b"GET / HTTP/1.1", b"b"),
        (b"GET http://b?x=1 HTTP/1.1", b"GET /?x=1 HTTP/1.1", b"b"),
        (b"GET HTTPS://B:443/items/1? HTTP/1.1", b"GET /items/1? HTTP/1.1", b"B:443"),
        (b"GET http://[::1]:80/x HTTP/1.1", b"GET /x HTTP/1.1", b"[::1]:80"),
        (b"GET //evil/x HTTP/1.1", b"GET //evil/x HTTP/1.1", b"a"),
        (b"GET /a/../b HTTP/1.1", b"GET /a/../b HTTP/1.1", b"a"),
        (b"GET /x?a=1&a=2;b=3&%zz=%&c=//../%2F HTTP/1.1", b"GET /x?a=1&a=2;b=3&%zz=%&c=//../%2F HTTP/1.1", b"a"),
        (b"GET /x%2Fy%zz|\\^`{} HTTP/1.1", b"GET /x%2Fy%zz|\\^`{} HTTP/1.1", b"a"),
        (b"PROPFIND /x HTTP/1.1", b"PROPFIND /x HTTP/1.1", b"a"),
    ],
)
async def test_a_target_passes_in_origin_form_and_its_authority_as_the_host(
    plane: Edge, line: bytes, forwarded: bytes, host: bytes
) -> None:
    said = await plane.talk(line + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answers_in(said) == [200]
    assert plane.forwarded == [forwarded]
    request = next(request for side in plane.sides.values() for request in side.requests)
    assert request.field(b"host") == [host]
    assert request.field(b"x-forwarded-host") == [host]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET http://:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[::1/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a\\@b/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a/x#f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x#f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: :80\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: http://a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a:b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: [a\r\n\r\n",
        b"GET http://b/x HTTP/1.1\r\n\r\n",
        b"GET http://b/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS */x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET admin HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"0" * 5000 + b"5\r\n\r\nhello",
    ],
)
async def test_a_target_or_host_that_is_none_is_400(plane: Edge, request_bytes: bytes) -> None:
    assert answers_in(await plane.talk(request_bytes)) == [400]
    assert plane.forwarded == []


@pytest.mark.parametrize("line", ["CONNECT a:443", "CONNECT /items/1", "CONNECT http://a/", "TRACE /items/1"])
async def test_tunnels_and_traces_are_405(plane: Edge, line: str) -> None:
    async with client(plane.port) as c:
        got = await c.ask(f"{line} HTTP/1.1\r\nhost: a:443\r\n\r\n".encode())
        assert (got.status, got.json()["code"]) == (405, "method_not_allowed")
        assert got.headers[b"allow"]
        assert await c.rest() == b""
    assert plane.forwarded == []


@pytest.mark.parametrize(
    ("sent", "status", "forwarded"),
    [
        ("0", 405, None),
        ("1", 200, b"0"),
        ("007", 200, b"6"),
        ("9" * 5000, 200, b"999999999"),
        ("00000000000000", 405, None),
        ("-1", 200, b"-1"),
        ("x", 200, b"x"),
    ],
)
async def test_max_forwards_counts_down_for_options(
    plane: Edge, sent: str, status: int, forwarded: bytes | None
) -> None:
    async with client(plane.port) as c:
        got = await c.ask(f"OPTIONS /items/1 HTTP/1.1\r\nhost: a\r\nmax-forwards: {sent}\r\n\r\n".encode())
    assert got.status == status
    requests = [request for side in plane.sides.values() for request in side.requests]
    assert [request.field(b"max-forwards") for request in requests] == ([[forwarded]] if forwarded else [])


async def test_max_forwards_of_other_methods_passes(plane: Edge) -> None:
    async with client(plane.port) as c:
        assert (await c.ask(get("/items/1", "max-forwards: 0"))).status == 200
    assert [r.field(b"max-forwards") for side in plane.sides.values() for r in side.requests] == [[b"0"]]


DENIED = [
    "/v1/workspaces",
    "/v1/workspaces/",
    "/v1/workspaces/x?y",
    "//v1/workspaces",
    "/v1//workspaces",
    "/v1/./workspaces",
    "/x/../v1/workspaces",
    "/v1/%77orkspaces",
    "/v1%2Fworkspaces",
    "/v1%2fworkspaces",
    "/v1%5Cworkspaces",
    "/v1\\workspaces",
    "/v1/workspaces;x",
    "/v1;x/workspaces",
    "/v1/workspaces%00",
    "/v1/workspaces%3Bx",
    "/v1/x/..%2Fworkspaces",
    "/v1/x/%2e%2e/workspaces",
    "http://b/v1/workspaces",
    "/%76%31/workspaces",
]


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE"])
async def test_a_denied_path_is_404_in_every_spelling(plane: Edge, method: str) -> None:
    async with client(plane.port) as c:
        for target in DENIED:
            request = f"{method} {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".encode()
            assert (await c.ask(request, head=method == "HEAD")).status == 404, target
    assert plane.forwarded == []


@pytest.mark.parametrize("path", ["/v1/workspace", "/v1/workspacesx", "/v1", "/v2/v1/workspaces", "/v1/x/workspaces"])
async def test_paths_beside_a_denied_one_pass(plane: Edge, path: str) -> None:
    async with client(plane.port) as c:
        assert (await c.ask(get(path))).status == 200
