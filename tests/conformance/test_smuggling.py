"""Attacks on the borders between requests, by kind: every byte in every odd place.

Whatever comes, the client gets one refusal and an end, or the sides get exactly the requests that a strict reader sees.
`/smuggled` stands inside bodies and behind heads, and never reaches a side. Kinds follow the public collections
(http-garden, smuggler) and RFC 9112; the bytes are ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.integration.edge.scene import Edge, answers_in

P = b"POST /find HTTP/1.1\r\nHost: a\r\n"
G = b"GET /items/1 HTTP/1.1\r\nHost: a\r\n"
S = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_LINE = b"GET /items/last HTTP/1.1"
LAST = LAST_LINE + b"\r\nHost: a\r\nConnection: close\r\n\r\n"
LEGAL = {b"POST /find HTTP/1.1", b"GET /items/1 HTTP/1.1", LAST_LINE}
OWS = {0x20, 0x09}
ODD = [*range(0x21), *range(0x7F, 0x100)]

Payload = tuple[str, bytes]


def coding_mutations() -> Iterator[Payload]:
    """A coding that one reader may see and another may not, over a length that hides a request."""
    hiding = b"Content-Length: %d\r\n" % (5 + len(S))
    for byte in ODD:
        odd = bytes([byte])
        forms = {
            "before the name": odd + b"Transfer-Encoding: chunked",
            "after the name": b"Transfer-Encoding" + odd + b": chunked",
            "in the name": b"Transfer-" + odd + b"Encoding: chunked",
            "before the value": b"Transfer-Encoding:" + odd + b"chunked",
            "in the value": b"Transfer-Encoding: chu" + odd + b"nked",
            "after the value": b"Transfer-Encoding: chunked" + odd,
            "line end of its own": b"X: y" + odd + b"Transfer-Encoding: chunked",
        }
        for where, field in forms.items():
            yield f"{byte:#04x} {where}", P + hiding + field + b"\r\n\r\n0\r\n\r\n" + S
    for value in (
        b"CHUNKED",
        b"chunked, chunked",
        b"identity",
        b"gzip",
        b"chunked;q=1",
        b"",
        b'"chunked"',
        b"x,chunked",
    ):
        yield f"coding {value!r}", P + hiding + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n" + S


def length_forms() -> Iterator[Payload]:
    """Lengths that readers of numbers differ about."""
    texts = [
        "+5",
        "-5",
        "0x5",
        "5_0",
        "5 5",
        "5,5",
        "5;5",
        "5.0",
        "5e0",
        "٥",
        "½",
        "05x",
        "",
        "18446744073709551621",
        "1" * 40,
    ]
    for text in texts:
        yield f"length {text[:22]!r}", P + b"Content-Length: " + text.encode() + b"\r\n\r\n" + S
    for byte in ODD:
        if byte not in OWS:
            yield f"{byte:#04x} before", P + b"Content-Length: " + bytes([byte]) + b"5\r\n\r\nhello" + S
            yield f"{byte:#04x} behind", P + b"Content-Length: 5" + bytes([byte]) + b"\r\n\r\nhello" + S
    for first, second in ((0, 35), (35, 0), (5, 5), (5, 6)):
        lines = b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (first, second)
        yield f"lengths {first} and {second}", P + lines + b"hello" + S


def chunk_forms() -> Iterator[Payload]:
    """Chunks whose size or end is read differently."""
    head = P + b"Transfer-Encoding: chunked\r\n\r\n"
    for size in (
        b"0x1",
        b"+1",
        b"-1",
        b" 1",
        b"1 ",
        b"1_0",
        b"1ffffffffffffffff",
        b"g",
        b"",
        b"1\t",
        b"1;\n",
        b"1\x00",
        b"\xb9",
    ):
        yield f"size {size!r}", head + size + b"\r\nZ\r\n0\r\n\r\n" + S
    for byte in (0x00, 0x0A, 0x0B, 0x0D, 0x7F):
        yield f"{byte:#04x} in an extension", head + b"1;a=" + bytes([byte]) + b"b\r\nZ\r\n0\r\n\r\n" + S
    for end in (b"XX", b"\n", b"\r", b"\n\r", b"\r\r\n", b"", b"\r\nX"):
        yield f"data ends with {end!r}", head + b"1\r\nZ" + end + b"0\r\n\r\n" + S
    for end in (b"0\n\n", b"0\r\r", b"0\r\n\n", b"0\r\n\r", b"00x\r\n\r\n"):
        yield f"body ends with {end!r}", head + b"1\r\nZ\r\n" + end + S


def line_forms() -> Iterator[Payload]:
    """Request lines, versions, hosts and targets."""
    for byte in ODD:
        odd = bytes([byte])
        yield f"{byte:#04x} in the method", b"GE" + odd + b"T /items/1 HTTP/1.1\r\nHost: a\r\n\r\n" + S
        if byte != 0x20:
            yield f"{byte:#04x} for the first space", b"GET" + odd + b"/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        yield f"{byte:#04x} before the version", b"GET /items/1" + odd + odd + b"HTTP/1.1\r\nHost: a\r\n\r\n"
        if byte not in OWS:
            yield f"{byte:#04x} in the host", b"GET /items/1 HTTP/1.1\r\nHost: a" + odd + b"b\r\n\r\n" + S
        yield f"{byte:#04x} in a field name", G + b"X" + odd + b"Y: z\r\n\r\n" + S
    for version in (
        b"HTTP/0.9",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/11.1",
        b"HTTP/1.10",
        b"http/1.1",
        b"HTTP/1,1",
        b"HTPT/1.1",
        b"HTTP/1.1x",
    ):
        yield f"version {version!r}", b"GET /smuggled " + version + b"\r\nHost: a\r\n\r\n"
    for target in (
        b"*",
        b"items",
        b"http://",
        b"http://u@a/",
        b"ftp://a/",
        b"http://a b/",
        b"/a#b",
        b"\\smuggled",
    ):
        yield f"target {target!r}", b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    for fields in (
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nHost: b\r\n",
        b"Host : a\r\n",
        b" Host: a\r\n",
        b"Host: a\r\n b\r\n",
    ):
        yield f"host fields {fields!r}", b"GET /smuggled HTTP/1.1\r\n" + fields + b"\r\n"


KINDS = {
    "codings": coding_mutations,
    "lengths": length_forms,
    "chunks": chunk_forms,
    "request lines": line_forms,
}

CARRIED = {
    # An ordinary value of X, whatever it reads like; the length stands alone.
    "codings": {f"{byte:#04x} line end of its own" for byte in (0x09, 0x20, *range(0x80, 0x100))},
    # RFC 9112 §3 lets white space be taken together; one space goes to the side.
    "request lines": {"0x20 before the version"},
}
"""What means one thing only; everything else is refused."""


async def judged(plane: Edge, payload: bytes, pieces: int | None) -> str:
    """What became of a payload with a last request behind it: "refused", "carried", or what is wrong with it."""
    for side in plane.sides.values():
        side.requests.clear()
    try:
        async with asyncio.timeout(3):
            said = await plane.talk(payload + LAST, pieces=pieces)
    except TimeoutError:
        return f"neither refused nor ended; forwarded {plane.forwarded}"
    except ConnectionResetError:
        said = b""
    forwarded, statuses = plane.forwarded, answers_in(said)
    if not set(forwarded) <= LEGAL:
        return f"forwarded {forwarded}, answered {statuses}"
    if len(statuses) == 1 and 400 <= statuses[0] < 600 and len(forwarded) <= 1:
        return "refused"
    if statuses == [200, 200] and len(forwarded) == 2 and forwarded[-1] == LAST_LINE:
        return "carried"
    return f"forwarded {forwarded}, answered {statuses}"


@pytest.mark.parametrize("pieces", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_smuggled(plane: Edge, kind: str, pieces: int | None) -> None:
    wrong = {}
    for name, payload in KINDS[kind]():
        expected = "carried" if name in CARRIED.get(kind, ()) else "refused"
        if (found := await judged(plane, payload, pieces)) != expected:
            wrong[name] = found
    assert wrong == {}
