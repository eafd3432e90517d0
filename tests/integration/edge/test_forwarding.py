"""What a side is told about a request and its client: exactly what is true, whatever the client says of itself."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from gateway.core import force
from gateway.core.model import Side
from tests.integration.edge.scene import Edge, edge
from tests.support.raw_upstream import RawRequest
from tests.support.sides import Answer, StubSide, client, get, live, migration, post

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def asked(plane: Edge, data: bytes) -> tuple[Answer, RawRequest]:
    """The answer, and the request as the side got it."""
    for side in plane.sides.values():
        side.requests.clear()
    async with client(plane.port) as c:
        answer = await c.ask(data)
    return answer, next(request for side in plane.sides.values() for request in side.requests)


def names(request: RawRequest) -> list[bytes]:
    return [line.partition(b":")[0] for line in request.fields]


FORGED = [
    "Crossfade-Auth: x",
    "CROSSFADE-AUTH: x",
    "crossfade_auth: x",
    "Crossfade_Copy: mirror",
    "crossfade-copy: relay",
    "crossfade-request-time: 2020-01-01T00:00:00.000Z",
    "crossfade_request-time: x",
    "crossfade-: x",
    "crossfade-side: new",
    "x-forwarded-for: 1.2.3.4",
    "X_Forwarded_For: 1.2.3.4",
    "x-forwarded_for: 1.2.3.4",
    "x-forwarded-proto: https",
    "x-forwarded-host: evil",
    "x-forwarded-port: 1",
    "x-forwarded-prefix: /x",
    "x-real-ip: 1.2.3.4",
    "x_real_ip: 1.2.3.4",
    "forwarded: for=1.2.3.4",
    "content_length: 5",
    "transfer_encoding: chunked",
    "x_key: other",
    "mcp_method: x",
    "x_request_id: forged",
    "idempotency_key: forged",
    "x_http_method_override: DELETE",
]


@pytest.mark.parametrize("field", FORGED)
async def test_what_a_client_may_not_say_reaches_no_side_and_is_counted(plane: Edge, field: str) -> None:
    name, _, value = field.lower().encode().partition(b": ")
    _, request = await asked(plane, get("/items/1", field, "x-key: a", "connection: " + field.partition(":")[0]))
    assert value not in request.field(name)
    assert b"_" not in b"".join(names(request))
    assert request.field(b"crossfade-auth") == [b"internal"]
    assert request.field(b"x-forwarded-for") == [b"127.0.0.1"]
    assert request.field(b"x-forwarded-proto") == [b"http"]
    assert request.field(b"x-forwarded-host") == [b"shop.example"]
    assert not request.field(b"crossfade-copy")
    # `Connection` may name the field; it was a forgery all the same.
    _, request = await asked(plane, get("/items/1", field, "x-key: a"))
    assert value not in request.field(name)
    assert plane.counted()["forged"] >= 1


@pytest.mark.parametrize(
    "connection",
    [
        "X-Gone",
        "x-gone,close",
        " ,, x-gone ,, ",
        "keep-alive, X-GONE",
        "x-gone\r\nconnection: x-forwarded-for, host, authorization, crossfade-auth, x-request-id, content-length, via",
    ],
)
async def test_connection_strikes_out_what_it_names_and_nothing_that_rules_rely_on(
    plane: Edge, connection: str
) -> None:
    fields = ("x-gone: 1", "authorization: Bearer x", "te: trailers", "trailers: kept", "proxy-authorization: x")
    more = ("keep-alive: 5", "proxy-connection: keep-alive", "x-request-id: mine", "x-key: a")
    _, request = await asked(
        plane, post("/items/1", b"body", f"connection: {connection}", *fields, *more, method="PUT")
    )
    for name in (b"x-gone", b"te", b"proxy-authorization", b"keep-alive", b"proxy-connection", b"connection"):
        assert not request.field(name), name
    assert request.body == b"body"
    assert request.field(b"content-length") == [b"4"]
    assert request.field(b"trailers") == [b"kept"]
    assert request.field(b"authorization") == [b"Bearer x"]
    assert request.field(b"x-request-id") == [b"mine"]
    assert request.field(b"host") == [b"shop.example"]
    assert request.field(b"x-forwarded-for") == [b"127.0.0.1"]
    assert request.field(b"via") == [b"1.1 crossfade-shop"]
    assert request.field(b"crossfade-auth") == [b"internal"]


async def test_what_is_no_operation_is_not_vouched_for(plane: Edge) -> None:
    _, request = await asked(plane, post("/v1/remotes/check", b"{}"))
    assert request.field(b"crossfade-auth") == []


async def test_fields_pass_in_order_unjoined_and_nothing_is_invented(plane: Edge) -> None:
    sent = ["x-a: 1", "cookie: a=1", "x-b: \xff\xfe", "X-A: 2", "cookie: b=2", "x-a: 1", "x-empty:", "x-tab: a\tb"]
    fields = "\r\n".join([*sent, "x-key: a"]).encode("latin-1")
    _, request = await asked(plane, get("/items/1", "x-key: a").replace(b"x-key: a", fields))
    assert [line for line in request.fields if line.startswith((b"x-a", b"cookie", b"x-b", b"x-e", b"x-t"))] == [
        b"x-a: 1",
        b"cookie: a=1",
        b"x-b: \xff\xfe",
        b"x-a: 2",
        b"cookie: b=2",
        b"x-a: 1",
        b"x-empty: ",
        b"x-tab: a\tb",
    ]
    for name in (b"user-agent", b"accept-encoding", b"accept", b"content-length", b"transfer-encoding"):
        assert name not in names(request), name


@pytest.mark.parametrize(
    ("method", "target", "body", "is_write"),
    [
        ("GET", "/items/1", None, False),
        ("HEAD", "/items/1", None, False),
        ("PUT", "/items/1", b"", True),
        ("PUT", "/items/1", None, True),
        ("POST", "/find", b"{}", True),
        ("POST", "/other", b"{}", False),
    ],
)
async def test_writes_and_writes_alone_are_named_and_timed(
    plane: Edge, method: str, target: str, body: bytes | None, is_write: bool
) -> None:
    if body is None:
        data = f"{method} {target} HTTP/1.1\r\nhost: a\r\nx-key: a\r\n\r\n".encode()
    else:
        data = post(target, body, "x-key: a", method=method)
    for side in plane.sides.values():
        side.requests.clear()
    async with client(plane.port) as c:
        await c.ask(data, head=method == "HEAD")
    request = next(request for side in plane.sides.values() for request in side.requests)
    times = request.field(b"crossfade-request-time")
    assert len(times) == len(request.field(b"idempotency-key")) == int(is_write)
    if times:
        assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", times[0])
    assert request.field(b"content-length") == ([] if body is None else [b"%d" % len(body)])


async def test_the_clients_idempotency_key_is_kept(plane: Edge) -> None:
    _, request = await asked(plane, post("/items/1", b"", "x-key: a", "idempotency-key: mine", method="PUT"))
    assert request.field(b"idempotency-key") == [b"mine"]
    _, request = await asked(plane, get("/items/1", "x-key: a", "idempotency-key: mine"))
    assert request.field(b"idempotency-key") == [b"mine"]


@pytest.mark.parametrize("value", ["", " ", "\t"])
async def test_an_empty_idempotency_key_is_none(plane: Edge, value: str) -> None:
    _, request = await asked(plane, post("/items/1", b"", "x-key: a", f"idempotency-key:{value}", method="PUT"))
    keys = request.field(b"idempotency-key")
    assert len(keys) == 1
    assert keys[0]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([TRACE], True),
        ([], False),
        ([TRACE, TRACE], False),
        ([TRACE.upper()], False),
        ([b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01"], False),
        ([TRACE + b"-x"], False),
        ([b"ff" + TRACE[2:]], False),
    ],
)
async def test_a_trace_is_continued_or_started(plane: Edge, sent: list[bytes], kept: bool) -> None:
    fields = [f"traceparent: {value.decode()}" for value in sent]
    _, request = await asked(plane, get("/items/1", "x-key: a", *fields, "tracestate: a=1", "tracestate: b=2"))
    traces = request.field(b"traceparent")
    assert len(traces) == 1
    assert (traces[0] == TRACE) is kept
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", traces[0])
    assert request.field(b"tracestate") == ([b"a=1", b"b=2"] if kept else [])


@pytest.mark.parametrize(("sent", "kept"), [("a.B_c-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False)])
async def test_one_request_id_is_told_to_both_ends(plane: Edge, sent: str, kept: bool) -> None:
    answer, request = await asked(plane, get("/items/1", "x-key: a", f"x-request-id: {sent}"))
    assert request.field(b"x-request-id") == [answer.headers[b"x-request-id"]]
    assert (answer.headers[b"x-request-id"] == sent.encode()) is kept


@pytest.mark.parametrize("times", [0, 1, 2, 3])
async def test_a_loop_is_ended(plane: Edge, times: int) -> None:
    async with client(plane.port) as c:
        got = await c.ask(get("/items/1", "x-key: a", *["via: 1.0 x (crossfade-shop), 1.1 crossfade-shop"] * times))
    assert got.status == (200 if times < 3 else 400)


def proxied(sides: dict[Side, StubSide], *networks: str) -> dict[str, object]:
    return {**live(migration(sides), 50), "trusted_proxies": list(networks)}


@pytest.mark.parametrize("network", ["127.0.0.1/32", "127.0.0.0/8", "127.0.0.1"])
async def test_a_trusted_proxy_is_believed_and_its_account_prolonged(
    tmp_path: Path, sides: dict[Side, StubSide], network: str
) -> None:
    async with edge(tmp_path, sides, proxied(sides, network)) as plane:
        fields = (
            "x-forwarded-for: 192.0.2.1, 198.51.100.7",
            "x-forwarded-for: 203.0.113.9",
            "x-forwarded-proto: https",
            "x-forwarded-host: public.example",
            "forwarded: for=192.0.2.1",
            "x_forwarded_for: 9.9.9.9",
            "connection: X-Forwarded-For, x-forwarded-proto",
        )
        _, request = await asked(plane, get("/items/1", "x-key: a", *fields))
    assert request.field(b"x-forwarded-for") == [b"192.0.2.1, 198.51.100.7, 203.0.113.9, 127.0.0.1"]
    assert request.field(b"x-forwarded-proto") == [b"https"]
    assert request.field(b"x-forwarded-host") == [b"public.example"]
    assert request.field(b"forwarded") == [b"for=192.0.2.1"]


async def test_a_proxy_from_elsewhere_is_a_stranger(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    async with edge(tmp_path, sides, proxied(sides, "10.0.0.0/8", "::1/128")) as plane:
        _, request = await asked(plane, get("/items/1", "x-key: a", "x-forwarded-for: 10.0.0.1"))
    assert request.field(b"x-forwarded-for") == [b"127.0.0.1"]


def wish(side: Side, *, secret: bytes = b"force", ttl: int = 60, migration_name: str = "shop") -> str:
    return "crossfade-force: " + force.sign(secret, migration_name, side, int(time.time()) + ttl)


async def test_a_forced_read_goes_where_it_wants_and_the_side_is_not_told(
    tmp_path: Path, sides: dict[Side, StubSide]
) -> None:
    async with edge(tmp_path, sides, live(migration(sides), 0)) as plane:
        answer, request = await asked(plane, get("/items/1", "x-key: a", wish(Side.NEW)))
        assert answer.body == b"new"
        assert not request.field(b"crossfade-force")
        assert plane.counted()["force_ignored"] == 0


@pytest.mark.parametrize(
    "fields",
    [
        (wish(Side.NEW, secret=b"other"),),
        (wish(Side.NEW, ttl=-60),),
        (wish(Side.NEW, migration_name="other"),),
        (wish(Side.NEW).replace("new;", "NEW;"),),
        (wish(Side.OLD).replace("old;", "new;"),),
        (wish(Side.NEW) + ";x",),
        (wish(Side.NEW), wish(Side.NEW)),
        (wish(Side.NEW).replace("-", "_", 1),),
        ("crossfade-force: new",),
    ],
    ids=["secret", "expired", "migration", "case", "tampered", "surplus", "twice", "underscore", "unsigned"],
)
async def test_an_invalid_wish_is_ignored(tmp_path: Path, sides: dict[Side, StubSide], fields: tuple[str, ...]) -> None:
    async with edge(tmp_path, sides, live(migration(sides), 0)) as plane:
        answer, _ = await asked(plane, get("/items/1", "x-key: a", *fields))
        assert answer.body == b"old"
        counted = plane.counted()
        assert counted["force_ignored"] + counted["forged"] >= 1


async def test_a_write_cannot_be_forced(tmp_path: Path, sides: dict[Side, StubSide]) -> None:
    async with edge(tmp_path, sides, live(migration(sides), 0)) as plane:
        answer, _ = await asked(plane, post("/items/1", b"", "x-key: a", wish(Side.NEW), method="PUT"))
        assert answer.body == b"old"
        assert plane.counted()["force_ignored"] == 1
