from __future__ import annotations

from copy import deepcopy
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.headers import (
    HOP_BY_HOP,
    Hop,
    Incoming,
    client_address,
    is_traceparent,
    is_trusted,
    new_traceparent,
    receive,
    request_id,
    to_client,
    to_side,
)
from gateway.core.model import Headers

GUARDED = frozenset({b"x-agent-id", b"x-task-id"})
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DATE = b"Sun, 01 Mar 2026 12:00:00 GMT"


def taken(*headers: tuple[bytes, bytes], trusted: bool = False) -> Incoming:
    return receive(list(headers), trusted_peer=trusted, guarded=GUARDED, pseudonym=b"crossfade-git")


def hop(*, host: bytes | None = None, auth: bytes | None = None, peer: bytes = b"203.0.113.7") -> Hop:
    return Hop(peer, b"http", b"1.1", b"crossfade-git", False, host, b"127.0.0.1:9001", auth)


def sent(
    *headers: tuple[bytes, bytes], trusted: bool = False, by: Hop | None = None, extra: Headers | None = None
) -> Headers:
    incoming = taken(*headers, trusted=trusted)
    return to_side(incoming, by or hop(), b"id-1", extra or [], entropy=1 << 130 | 7)


def all_of(headers: Headers, name: bytes) -> list[bytes]:
    return [value for found, value in headers if found == name]


# --- what is taken out ---


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP | {b"content-length", b"expect", b"http2-settings"}))
def test_fields_of_one_connection_are_removed_both_ways(name: bytes) -> None:
    assert taken((name, b"x"), (b"a", b"1")).headers == [(b"a", b"1")]
    if name in HOP_BY_HOP:
        assert to_client([(name, b"x"), (b"a", b"1")], [], date=DATE) == [(b"a", b"1"), (b"date", DATE)]


@pytest.mark.parametrize(
    "connection",
    [
        [b"x-one, X-Two"],
        [b"X-ONE", b"close,x-two"],
        [b" x-one ,, x-two\t"],
        [b"keep-alive", b"", b"x-two , x-one"],
    ],
)
def test_what_connection_names_is_removed_both_ways(connection: list[bytes]) -> None:
    headers = [
        *((b"connection", value) for value in connection),
        (b"x-one", b"1"),
        (b"x-two", b"2"),
        (b"x-three", b"3"),
    ]
    assert taken(*headers).headers == [(b"x-three", b"3")]
    assert to_client(headers, [], date=DATE) == [(b"x-three", b"3"), (b"date", DATE)]


@pytest.mark.parametrize("name", [b"host", b"cache-control", b"authorization", b"idempotency-key", b"x-request-id"])
def test_connection_cannot_strike_out_what_rules_rely_on(name: bytes) -> None:
    assert (name, b"x") in taken((b"connection", name), (name, b"x")).headers


def test_connection_cannot_strike_out_the_gateways_own_fields() -> None:
    names = [b"via", b"x-forwarded-for", b"x-forwarded-proto", b"traceparent", b"x-request-id", b"crossfade-auth"]
    out = sent((b"host", b"a"), (b"connection", b", ".join(names)), by=hop(auth=b"token"))
    assert {name for name, _ in out} >= set(names)


def test_connection_cannot_strike_out_what_a_trusted_proxy_says_of_the_client() -> None:
    incoming = taken(
        (b"connection", b"X-Forwarded-For, x-forwarded-proto"),
        (b"x-forwarded-for", b"198.51.100.1"),
        (b"x-forwarded-proto", b"https"),
        trusted=True,
    )
    assert incoming.forwarded_for == [b"198.51.100.1"]
    assert (b"x-forwarded-proto", b"https") in incoming.headers


def test_trailers_is_no_special_field_and_unknown_fields_pass_in_order() -> None:
    headers = [(b"trailers", b"x"), (b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b""), (b"x-b", b"\xff\x80")]
    assert taken(*headers).headers == headers


@pytest.mark.parametrize("name", [b"x-http-method-override", b"x_http_method_override", b"x-http_method-override"])
def test_the_method_is_what_the_request_line_says(name: bytes) -> None:
    assert taken((name, b"DELETE")).headers == []


@pytest.mark.parametrize(
    "name",
    [
        b"crossfade-copy",
        b"crossfade-auth",
        b"crossfade-request-time",
        b"crossfade-side",
        b"crossfade-",
        b"crossfade_copy",
        b"crossfade_request-time",
        b"crossfade_force",
    ],
)
@pytest.mark.parametrize("trusted", [False, True])
def test_forged_fields_are_removed_and_counted_in_every_spelling(name: bytes, trusted: bool) -> None:
    for headers in ([(name, b"x")], [(b"connection", name), (name, b"x")]):
        incoming = taken(*headers, (b"a", b"1"), trusted=trusted)
        assert (incoming.headers, incoming.forged, incoming.force) == ([(b"a", b"1")], 1, None)


def test_one_force_field_is_kept_aside_and_several_are_forged() -> None:
    one = taken((b"crossfade-force", b"new"))
    assert (one.force, one.forged, one.headers) == (b"new", 0, [])
    two = taken((b"crossfade-force", b"new"), (b"crossfade-force", b"new"))
    assert (two.force, two.forged, two.headers) == (None, 2, [])


@pytest.mark.parametrize("name", [b"crossfade", b"crossfades-x", b"x-crossfade-copy"])
def test_fields_that_only_look_alike_pass(name: bytes) -> None:
    assert taken((name, b"x")).headers == [(name, b"x")]


@pytest.mark.parametrize(
    "name",
    [
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"x-request-id",
        b"idempotency-key",
        b"authorization",
        b"mcp-method",
        b"mcp-name",
        b"mcp-protocol-version",
        b"x-agent-id",
        b"x-task-id",
    ],
)
def test_an_underscore_cannot_stand_in_for_a_field_that_decides(name: bytes) -> None:
    spelled = name.replace(b"-", b"_")
    incoming = taken((spelled, b"x"))
    assert incoming.forged == (1 if spelled != name else 0)
    assert (incoming.headers == []) is (spelled != name)


def test_other_fields_with_underscores_pass() -> None:
    assert taken((b"my_field", b"1")).headers == [(b"my_field", b"1")]


FORWARDING = [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-x"]
FORWARDING += [b"forwarded", b"x-real-ip"]


@pytest.mark.parametrize("name", FORWARDING)
def test_forwarding_fields_of_strangers_are_removed_and_counted(name: bytes) -> None:
    incoming = taken((name, b"198.51.100.1"), (b"a", b"1"))
    assert (incoming.headers, incoming.forwarded_for, incoming.forged) == ([(b"a", b"1")], [], 1)


@pytest.mark.parametrize("name", FORWARDING)
def test_forwarding_fields_of_trusted_proxies_are_kept_and_their_underscore_twins_are_not(name: bytes) -> None:
    incoming = taken((name, b"198.51.100.1"), trusted=True)
    kept = [(b"x-forwarded-for", value) for value in incoming.forwarded_for] + incoming.headers
    assert (kept, incoming.forged) == ([(name, b"198.51.100.1")], 0)
    twin = name.replace(b"-", b"_")
    if twin != name:
        assert taken((twin, b"x"), trusted=True).headers == []
        assert taken((twin, b"x"), trusted=True).forwarded_for == []


@pytest.mark.parametrize("name", [b"forwarded-by-mail", b"x-real-ip-hint", b"x-forwarded"])
def test_fields_that_only_begin_like_forwarding_fields_pass(name: bytes) -> None:
    assert taken((name, b"x")).headers == [(name, b"x")]


@pytest.mark.parametrize(
    ("vias", "looping"),
    [
        ([], False),
        ([b"1.1 crossfade-git"] * 2, False),
        ([b"1.1 crossfade-git"] * 3, True),
        ([b"1.1 crossfade-git, 1.1 other,1.0 crossfade-git , HTTP/1.1  crossfade-git (x)"], True),
        ([b"1.1 crossfade-git-eu"] * 9, False),
        ([b"1.1 other (crossfade-git)"] * 9, False),
        ([b"", b",,", b"1.1"], False),
    ],
)
def test_a_request_that_came_through_here_three_times_is_looping(vias: list[bytes], looping: bool) -> None:
    incoming = taken(*((b"via", via) for via in vias))
    assert incoming.looping is looping
    assert all_of(incoming.headers, b"via") == vias


# --- what goes to a side ---


def test_a_request_without_any_field_gets_the_gateways_and_no_others() -> None:
    assert [name for name, _ in sent()] == [
        b"traceparent",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"host",
        b"x-request-id",
    ]
    assert (b"host", b"127.0.0.1:9001") in sent()


def test_fields_pass_unjoined_in_order_with_their_bytes() -> None:
    headers = [(b"host", b"a"), (b"cookie", b"a=1"), (b"x", b"1"), (b"cookie", b"b=2"), (b"x", b"\xe9"), (b"te_", b"")]
    assert sent(*headers)[: len(headers)] == headers


@pytest.mark.parametrize(
    ("host", "override", "to", "forwarded"),
    [
        ([b"shop.example"], None, [b"shop.example"], [b"shop.example"]),
        ([b"shop.example"], b"git.internal", [b"git.internal"], [b"shop.example"]),
        ([], None, [b"127.0.0.1:9001"], []),
        ([], b"git.internal", [b"git.internal"], []),
        ([b""], None, [b""], []),
    ],
)
def test_the_host_is_kept_unless_the_side_overrides_it(
    host: list[bytes], override: bytes | None, to: list[bytes], forwarded: list[bytes]
) -> None:
    out = sent(*((b"host", value) for value in host), by=hop(host=override))
    assert all_of(out, b"host") == to
    assert all_of(out, b"x-forwarded-host") == forwarded


def test_strangers_cannot_say_where_they_came_from() -> None:
    out = sent((b"host", b"a"), (b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-host", b"evil"), (b"forwarded", b"x"))
    assert all_of(out, b"x-forwarded-for") == [b"203.0.113.7"]
    assert all_of(out, b"x-forwarded-host") == [b"a"]
    assert all_of(out, b"x-forwarded-proto") == [b"http"]
    assert all_of(out, b"forwarded") == []


def test_a_trusted_proxys_account_is_kept_and_prolonged() -> None:
    out = sent(
        (b"host", b"a"),
        (b"x-forwarded-for", b"198.51.100.1, 198.51.100.2"),
        (b"x-forwarded-for", b""),
        (b"x-forwarded-for", b"198.51.100.3"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"shop.example"),
        (b"x-real-ip", b"198.51.100.1"),
        trusted=True,
    )
    assert all_of(out, b"x-forwarded-for") == [b"198.51.100.1, 198.51.100.2, 198.51.100.3, 203.0.113.7"]
    assert all_of(out, b"x-forwarded-proto") == [b"https"]
    assert all_of(out, b"x-forwarded-host") == [b"shop.example"]
    assert all_of(out, b"x-real-ip") == [b"198.51.100.1"]


def test_a_peer_without_an_address_is_called_unknown() -> None:
    assert all_of(sent(by=hop(peer=b"unknown")), b"x-forwarded-for") == [b"unknown"]


def test_via_is_added_and_earlier_ones_stay() -> None:
    assert all_of(sent((b"via", b"1.0 edge")), b"via") == [b"1.0 edge", b"1.1 crossfade-git"]


def test_the_internal_token_goes_to_the_side_when_there_is_one() -> None:
    assert all_of(sent(by=hop(auth=b"token")), b"crossfade-auth") == [b"token"]
    assert all_of(sent((b"crossfade-auth", b"forged")), b"crossfade-auth") == []


def test_extra_fields_replace_the_clients() -> None:
    out = sent((b"idempotency-key", b"theirs"), extra=[(b"idempotency-key", b"ours")])
    assert all_of(out, b"idempotency-key") == [b"ours"]


# --- trace context: W3C Trace Context, §3.2 and §3.3 ---


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (TRACE, True),
        (TRACE[:-2] + b"00", True),
        (TRACE[:-2] + b"ff", True),
        (b"ff" + TRACE[2:], False),
        (b"01" + TRACE[2:], True),
        (b"cc" + TRACE[2:] + b"-what-the-future-will-be-like", True),
        (b"cc" + TRACE[2:] + b"-", True),
        (b"cc" + TRACE[2:] + b".what-the-future-will-be-like", False),
        (TRACE + b"-x", False),
        (TRACE + b"-", False),
        (TRACE.upper(), False),
        (TRACE.replace(b"-", b"_"), False),
        (TRACE[1:], False),
        (TRACE[:-1], False),
        (b"0" + TRACE, False),
        (b"00-" + b"0" * 32 + TRACE[35:], False),
        (TRACE[:36] + b"0" * 16 + b"-01", False),
        (TRACE[:-2] + b"0g", False),
        (b"0g" + TRACE[2:], False),
        (TRACE.replace(b"c", b"."), False),
        (TRACE + b"\n", False),
        (b"", False),
    ],
)
def test_a_traceparent_is_valid_by_the_rules_of_the_specification(value: bytes, valid: bool) -> None:
    assert is_traceparent(value) is valid
    out = sent((b"traceparent", value), (b"tracestate", b"a=1"))
    assert (all_of(out, b"traceparent") == [value]) is valid
    assert all_of(out, b"tracestate") == ([b"a=1"] if valid else [])


@pytest.mark.parametrize("traceparents", [[], [TRACE, TRACE], [b"x"]])
def test_a_trace_that_cannot_be_continued_is_started_without_its_state(traceparents: list[bytes]) -> None:
    out = sent(*((b"traceparent", value) for value in traceparents), (b"tracestate", b"a=1"), (b"tracestate", b"b=2"))
    [started] = all_of(out, b"traceparent")
    assert is_traceparent(started)
    assert started not in traceparents
    assert all_of(out, b"tracestate") == []


def test_the_state_of_a_trace_passes_unjoined_and_unread() -> None:
    out = sent((b"tracestate", b"a=1"), (b"traceparent", TRACE), (b"tracestate", b"\xff"))
    assert all_of(out, b"tracestate") == [b"a=1", b"\xff"]


@given(st.integers(0, (1 << 256) - 1))
def test_every_trace_that_is_started_is_valid(entropy: int) -> None:
    assert is_traceparent(new_traceparent(entropy))


# --- request ids ---


@pytest.mark.parametrize("value", [b"a", b"A-1_b.c", b"x" * 128])
def test_a_clients_request_id_is_kept_if_it_is_plain(value: bytes) -> None:
    assert request_id([(b"x-request-id", value)], entropy=7) == value


@pytest.mark.parametrize(
    "values", [[], [b""], [b"x" * 129], [b"a b"], [b"a\n"], [b"a/b"], [b"\xe9"], [b"a", b"a"], [b"a,b"]]
)
def test_any_other_request_id_is_replaced(values: list[bytes]) -> None:
    made = request_id([(b"x-request-id", value) for value in values], entropy=(1 << 200) + 7)
    assert made == b"%032x" % 7


def test_exactly_one_request_id_goes_to_the_side() -> None:
    out = sent((b"x-request-id", b"theirs"), (b"x-request-id", b"again"), (b"x_request_id", b"twin"))
    assert all_of(out, b"x-request-id") == [b"id-1"]
    assert all_of(out, b"x_request_id") == []


# --- what goes to the client ---


def test_answers_pass_unjoined_and_say_nothing_of_the_inside() -> None:
    headers = [
        (b"set-cookie", b"a=1"),
        (b"crossfade-auth", b"token"),
        (b"set-cookie", b"b=2"),
        (b"content-length", b"5"),
        (b"www-authenticate", b"Basic"),
        (b"x-request-id", b"theirs"),
        (b"date", b"then"),
    ]
    assert to_client(headers, [(b"crossfade-side", b"new"), (b"x-request-id", b"ours")], date=DATE) == [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"www-authenticate", b"Basic"),
        (b"date", b"then"),
        (b"crossfade-side", b"new"),
        (b"x-request-id", b"ours"),
    ]


def test_an_answer_without_a_date_gets_one_and_never_a_second() -> None:
    assert to_client([], [], date=DATE) == [(b"date", DATE)]
    assert to_client([(b"connection", b"date"), (b"date", b"then")], [], date=DATE) == [(b"date", DATE)]


# --- the client's address ---

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("203.0.113.7", [b"198.51.100.1"], "203.0.113.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [b"6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", [b"6.6.6.6", b"198.51.100.1", b"10.0.0.2,"], "198.51.100.1"),
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [b"6.6.6.6, rubbish"], "10.0.0.1"),
        ("10.0.0.1", [b"6.6.6.6, rubbish, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b"\xff"], "10.0.0.1"),
        ("::ffff:10.0.0.1", [b"198.51.100.1"], "198.51.100.1"),
        ("2001:db8::1", [b"2001:470::1"], "2001:470::1"),
        ("", [b"198.51.100.1"], ""),
    ],
)
def test_the_client_is_the_last_address_that_no_trusted_proxy_has(peer: str, chain: list[bytes], client: str) -> None:
    assert client_address(peer, chain, TRUSTED) == client


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:11.0.0.1", False),
        ("2001:db8::1", True),
        ("::1", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_trust_is_by_address_and_network(address: str, trusted: bool) -> None:
    assert is_trusted(address, TRUSTED) is trusted
    assert not is_trusted(address, ())


# --- what always holds ---

NAMES = st.sampled_from(
    [
        b"host",
        b"connection",
        b"via",
        b"te",
        b"cookie",
        b"x-forwarded-for",
        b"x_forwarded_for",
        b"forwarded",
        b"crossfade-copy",
        b"crossfade_copy",
        b"crossfade-force",
        b"traceparent",
        b"tracestate",
        b"x-request-id",
        b"x-agent-id",
        b"x_agent_id",
        b"content-length",
        b"transfer-encoding",
        b"x-a",
        b"x-b",
        b"date",
    ]
)
VALUES = st.one_of(st.sampled_from([b"", b"x-a", b"x-a, host", b"close", TRACE, b"1.2.3.4"]), st.binary(max_size=6))
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=12)


@given(HEADERS, st.booleans())
def test_a_header_list_is_never_changed_in_place(headers: Headers, trusted: bool) -> None:
    before = deepcopy(headers)
    incoming = receive(headers, trusted_peer=trusted, guarded=GUARDED, pseudonym=b"crossfade-git")
    assert headers == before
    held = deepcopy(incoming)
    extra: Headers = [(b"x-a", b"ours")]
    to_side(incoming, hop(), b"id", extra, entropy=1)
    to_client(headers, extra, date=DATE)
    request_id(headers, entropy=1)
    assert (incoming, headers, extra) == (held, before, [(b"x-a", b"ours")])


@given(HEADERS, st.booleans())
def test_nothing_forged_and_no_framing_ever_reaches_a_side(headers: Headers, trusted: bool) -> None:
    out = sent(*headers, trusted=trusted)
    names = [name for name, _ in out]
    assert not [name for name in names if name.replace(b"_", b"-").startswith(b"crossfade-")]
    assert not set(names) & (HOP_BY_HOP | {b"content-length", b"expect", b"x_agent_id", b"x_forwarded_for"})
    for once in (b"traceparent", b"x-request-id", b"x-forwarded-for"):
        assert names.count(once) == 1


@given(HEADERS)
def test_what_passes_keeps_its_order_and_its_bytes(headers: Headers) -> None:
    passed = taken(*headers).headers
    rest = iter(headers)
    assert all(field in rest for field in passed)
