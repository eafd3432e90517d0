"""Malformed and ambiguous HTTP: one answer, connection closed, nothing forwarded, nothing smuggled.

The kinds follow the public collections of smuggling payloads (http-garden, smuggler) and RFC 9112; the bytes are ours.
"""

from __future__ import annotations

import pytest

from tests.integration.edge.scene import Edge, answers_in

P = b"POST /find HTTP/1.1\r\nHost: a\r\n"
G = b"GET /items/1 HTTP/1.1\r\nHost: a\r\n"
S = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

REFUSED = {
    "length and coding": P + b"Content-Length: 40\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + S,
    "coding and length": P + CHUNKED + b"Content-Length: 4\r\n\r\n23\r\n" + S + b"\r\n0\r\n\r\n",
    "two lengths": P + b"Content-Length: 0\r\nContent-Length: 35\r\n\r\n" + S,
    "two equal lengths": P + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "list of lengths": P + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": P + b"Content-Length: +5\r\n\r\nhello",
    "negative length": P + b"Content-Length: -5\r\n\r\nhello",
    "hexadecimal length": P + b"Content-Length: 0x5\r\n\r\nhello",
    "length with underscore": P + b"Content-Length: 1_0\r\n\r\nhellohello",
    "empty length": P + b"Content-Length: \r\n\r\n" + S,
    "length beyond 64 bits": P + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "length in arabic digits": P + "Content-Length: ٥\r\n\r\nhello".encode(),
    "space before colon of length": P + b"Content-Length : 5\r\n\r\nhello",
    "space before colon of coding": P + b"Content-Length: 40\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + S,
    "two codings": P + CHUNKED + CHUNKED + b"\r\n1\r\nZ\r\n0\r\n\r\n",
    "two different codings": P + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n1\r\nZ\r\n0\r\n\r\n",
    "unknown coding": P + b"Transfer-Encoding: blegh\r\n\r\n1\r\nZ\r\n0\r\n\r\n",
    "coding under gzip": P + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\nZ\r\n0\r\n\r\n",
    "coding after comma": P + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": P + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "quoted coding": P + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n' + S,
    "folded coding": P + b"Content-Length: 40\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + S,
    "coding ends with NUL": P + b"Content-Length: 40\r\nTransfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n" + S,
    "coding after vertical tab": P + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + S,
    "coding behind a bare CR": P + b"Content-Length: 40\r\nX: X\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + S,
    "coding in HTTP/1.0": b"POST /find HTTP/1.0\r\nHost: a\r\n"
    + CHUNKED
    + b"Connection: keep-alive\r\n\r\n0\r\n\r\n"
    + S,
    "NUL in a value": G + b"X: a\0b\r\n\r\n",
    "CR in a value": G + b"X: a\rb\r\n\r\n",
    "control character in a value": G + b"X: a\x01b\r\n\r\n",
    "DEL in a value": G + b"X: a\x7fb\r\n\r\n",
    "folded field": G + b"X: a\r\n b\r\n\r\n",
    "space before the first field": b"GET /items/1 HTTP/1.1\r\n Host: a\r\n\r\n",
    "field without a colon": G + b"nonsense\r\n\r\n",
    "empty field name": G + b": value\r\n\r\n",
    "space in a field name": G + b"X Y: value\r\n\r\n",
    "parenthesis in a field name": G + b"X(Y): value\r\n\r\n",
    "NUL in a field name": G + b"X\0Y: value\r\n\r\n",
    "no host": b"GET /items/1 HTTP/1.1\r\n\r\n",
    "two hosts": G + b"Host: b\r\n\r\n",
    "two equal hosts": G + b"Host: a\r\n\r\n",
    "host with a space": b"GET /items/1 HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with a path": b"GET /items/1 HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with user info": b"GET /items/1 HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "host with a comma": b"GET /items/1 HTTP/1.1\r\nHost: a,b\r\n\r\n",
    "asterisk for GET": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "relative target": b"GET items HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute target with user info": b"GET http://u:p@a/items/1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "CR in the target": b"GET /items/1\rX HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in the target": b"GET /items/\x001 HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the target": b"GET /items/1 /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /smuggled\r\n\r\n",
    "HTTP/2.0 in text": b"GET /items/1 HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/3.7": b"GET /items/1 HTTP/3.7\r\nHost: a\r\n\r\n",
    "HTTP/1.10": b"GET /items/1 HTTP/1.10\r\nHost: a\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower-case version": b"GET /items/1 http/1.1\r\nHost: a\r\n\r\n",
    "method that is none": b"GE(T /items/1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS hello": bytes.fromhex("16030100c8010000c40303"),
    "bare LF ends the head": b"GET /items/1 HTTP/1.1\nHost: a\n\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "TRACE": b"TRACE /items/1 HTTP/1.1\r\nHost: a\r\n\r\n",
}

BROKEN_BODIES = {
    "hexadecimal prefix": b"0x1\r\nZ\r\n0\r\n\r\n",
    "no size": b"\r\nZ\r\n0\r\n\r\n",
    "negative size": b"-1\r\nZ\r\n0\r\n\r\n",
    "signed size": b"+1\r\nZ\r\n0\r\n\r\n",
    "size beyond 64 bits": b"1ffffffffffffffff\r\nZ\r\n0\r\n\r\n",
    "space before the size": b" 1\r\nZ\r\n0\r\n\r\n",
    "no CRLF after the data": b"1\r\nZXX0\r\n\r\n",
    "more data than the size": b"1\r\nZZ\r\n0\r\n\r\n",
    "bare LF after the size": b"1\nZ\r\n0\r\n\r\n",
    "underscore in the size": b"1_0\r\nZZZZZZZZZZZZZZZZ\r\n0\r\n\r\n",
}


def refuses(said: bytes) -> bool:
    statuses = answers_in(said)
    return len(statuses) == 1 and 400 <= statuses[0] < 600


@pytest.mark.parametrize("pieces", [None, 3], ids=["whole", "in pieces"])
async def test_a_malformed_request_gets_one_refusal_and_reaches_no_side(plane: Edge, pieces: int | None) -> None:
    failed = {}
    for name, request in REFUSED.items():
        said = await plane.talk(request, pieces=pieces)
        if not refuses(said) or plane.forwarded:
            failed[name] = (said[:100], plane.forwarded)
        for side in plane.sides.values():
            side.requests.clear()
    assert failed == {}


@pytest.mark.parametrize("pieces", [None, 3], ids=["whole", "in pieces"])
async def test_a_broken_body_ends_the_connection_and_smuggles_nothing(plane: Edge, pieces: int | None) -> None:
    failed = {}
    for name, body in BROKEN_BODIES.items():
        said = await plane.talk(P + b"x-key: a\r\n" + CHUNKED + b"\r\n" + body + S, pieces=pieces)
        statuses = answers_in(said)
        if len(statuses) != 1 or statuses[0] < 400 or any(b"smuggled" in line for line in plane.forwarded):
            failed[name] = (said[:100], plane.forwarded)
        for side in plane.sides.values():
            side.requests.clear()
    assert failed == {}


async def test_what_looks_like_a_request_inside_a_body_is_a_body(plane: Edge) -> None:
    request = P + b"x-key: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(S) + S
    assert answers_in(await plane.talk(request)) == [200]
    assert plane.forwarded == [b"POST /find HTTP/1.1"]


async def test_nothing_is_read_after_the_last_request(plane: Edge) -> None:
    assert answers_in(await plane.talk(G + b"Connection: close\r\n\r\n" + S)) == [200]
    assert plane.forwarded == [b"GET /items/1 HTTP/1.1"]


async def test_pipelined_requests_are_answered_in_order(plane: Edge) -> None:
    requests = [b"GET /items/%d HTTP/1.1\r\nHost: a\r\nx-key: k%d\r\n\r\n" % (n, n) for n in range(20)]
    last = b"GET /items/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    said = await plane.talk(b"".join(requests) + last)
    assert answers_in(said) == [200] * 21
    assert len(plane.forwarded) == 21


async def test_a_malformed_request_behind_a_good_one_is_refused_after_its_answer(plane: Edge) -> None:
    said = await plane.talk(G + b"\r\n" + REFUSED["two hosts"] + S)
    assert answers_in(said) == [200, 400]
    assert plane.forwarded == [b"GET /items/1 HTTP/1.1"]


async def test_upgrades_are_not_switched_to(plane: Edge) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n"
    assert answers_in(await plane.talk(G + upgrade)) == [200]
    request = plane.sides[next(s for s in plane.sides if plane.sides[s].requests)].requests[0]
    assert not request.field(b"upgrade")
    assert not request.field(b"http2-settings")


@pytest.mark.parametrize(
    "spelling",
    ["/items/%31?", "/ITEMS/1", "/items/1?a=1&a=2;b=3&%zz", "/items/a%20b", "/items/ä".encode().decode("latin-1")],
)
async def test_the_target_reaches_the_side_as_it_came(plane: Edge, spelling: str) -> None:
    raw = spelling.encode("latin-1")
    answers = answers_in(await plane.talk(b"GET " + raw + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    if answers == [200]:
        assert plane.forwarded == [b"GET " + raw + b" HTTP/1.1"]
    else:
        assert answers == [400]
        assert plane.forwarded == []


async def test_the_authority_of_an_absolute_target_replaces_the_host(plane: Edge) -> None:
    said = await plane.talk(b"GET http://b.example:81/items/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answers_in(said) == [200]
    request = next(request for side in plane.sides.values() for request in side.requests)
    assert request.line == b"GET /items/1 HTTP/1.1"
    assert request.field(b"host") == [b"b.example:81"]
