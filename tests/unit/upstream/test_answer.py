from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Headers
from gateway.upstream.answer import AnswerReader
from gateway.upstream.framing import InvalidAnswerError
from gateway.upstream.limits import UpstreamLimits

LIMITS = UpstreamLimits(header_bytes=2000, header_fields=20, interim_answers=3, chunk_overhead_bytes=500)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Read:
    """What a reader made of some bytes."""

    status: int
    headers: Headers
    body: bytes
    is_complete: bool
    has_surplus: bool
    keep_alive: bool
    is_invalid: bool


def read(*segments: bytes, is_head: bool = False) -> Read:
    reader = AnswerReader(LIMITS, answers_head=is_head)
    body = b""
    is_invalid = False
    for segment in segments:
        try:
            reader.feed(segment)
        except InvalidAnswerError:
            is_invalid = True
        body += reader.take_body()
        if is_invalid:
            break
    return Read(
        reader.status,
        reader.headers,
        body,
        reader.is_complete,
        reader.has_surplus,
        reader.keep_alive,
        is_invalid,
    )


token = st.text("abcXYZ-09", min_size=1, max_size=8).map(str.encode)
value = st.text("ab ,;=\t\xe9", max_size=12).map(lambda text: text.encode("latin-1").strip(b" \t"))
fields = st.lists(st.tuples(token.map(lambda name: b"x-" + name), value), max_size=6)


@dataclass(frozen=True)
class Sample:
    """A valid answer: its bytes and what they mean."""

    raw: bytes
    status: int
    headers: Headers
    body: bytes
    is_head: bool


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    body = draw(st.binary(max_size=60))
    extra = draw(fields)
    lines = [name + b": " + content for name, content in extra]
    interim = b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" * draw(st.integers(0, 3))
    kind = draw(st.sampled_from(["length", "chunked", "empty", "head"]))
    status = 204 if kind == "empty" else draw(st.sampled_from([200, 404, 503]))
    headers = [(name.lower(), content) for name, content in extra]
    tail = b""
    if kind in ("length", "head"):
        lines.append(b"Content-Length: %d" % len(body))
        headers.append((b"content-length", b"%d" % len(body)))
        tail = body if kind == "length" else b""
    elif kind == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        headers.append((b"transfer-encoding", b"chunked"))
        cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=4))})
        for start, end in pairwise(cuts):
            tail += b"%x%b\r\n" % (end - start, draw(extensions)) + body[start:end] + b"\r\n"
        tail += b"0\r\n" + draw(st.sampled_from([b"", b"trailer: t\r\n"])) + b"\r\n"
    head = b"HTTP/1.1 %d Some Reason\r\n" % status + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    has_body = kind in ("length", "chunked")
    return Sample(interim + head + tail, status, headers, body if has_body else b"", is_head=kind == "head")


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


extensions = st.sampled_from([b"", b";a=b", b';q="x"'])
surplus_bytes = st.sampled_from([b"\n", b"\r\n", b"0", b"\0", b"x", b"HTTP/1.1 200 OK\r\n\r\n"])
places = st.lists(st.integers(0, 10_000), max_size=12)


@given(sample=samples(), cuts=places)
def test_a_valid_answer_reads_the_same_however_it_is_cut(sample: Sample, cuts: list[int]) -> None:
    result = read(*cut(sample.raw, cuts), is_head=sample.is_head)
    assert result == Read(
        sample.status,
        sample.headers,
        sample.body,
        is_complete=True,
        has_surplus=False,
        keep_alive=True,
        is_invalid=False,
    )


@given(
    sample=samples(),
    cuts=places,
    surplus=surplus_bytes,
)
def test_a_surplus_byte_is_seen_however_it_is_cut_and_changes_nothing_else(
    sample: Sample, cuts: list[int], surplus: bytes
) -> None:
    result = read(*cut(sample.raw + surplus, cuts), is_head=sample.is_head)
    assert result.has_surplus
    assert result.is_complete
    assert (result.status, result.headers, result.body) == (sample.status, sample.headers, sample.body)


@given(sample=samples(), cuts=places, short=st.integers(1, 10_000))
def test_a_cut_off_answer_is_never_complete(sample: Sample, cuts: list[int], short: int) -> None:
    raw = sample.raw[: max(len(sample.raw) - short, 1)]
    reader_result = read(*cut(raw, cuts), is_head=sample.is_head)
    assert not reader_result.is_complete
    assert sample.body.startswith(reader_result.body)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6))
def test_garbage_is_invalid_or_incomplete_but_never_a_crash(segments: list[bytes]) -> None:
    read(*segments)
    read(OK + segments[0], *segments[1:])
    read(OK + b"transfer-encoding: chunked\r\n\r\n" + segments[0], *segments[1:])


def test_a_body_that_only_the_end_of_the_connection_delimits() -> None:
    reader = AnswerReader(LIMITS, answers_head=False)
    reader.feed(OK + b"\r\nsome")
    reader.feed(b" more")
    assert not reader.is_complete
    reader.feed_eof()
    assert reader.is_complete
    assert not reader.keep_alive
    assert reader.take_body() == b"some more"


@pytest.mark.parametrize("raw", [OK, OK + b"content-length: 5\r\n\r\nabc", CHUNKED + b"3\r\nab"])
def test_the_end_of_the_connection_completes_no_other_body(raw: bytes) -> None:
    reader = AnswerReader(LIMITS, answers_head=False)
    reader.feed(raw)
    reader.feed_eof()
    assert not reader.is_complete


L2 = b"Content-Length: 2\r\n"
HOSTILE_HEADS = {
    "html": b"<html>hello</html>",
    "http-0.9": b"hello\r\n\r\n",
    "http-2": b"HTTP/2.0 200 OK\r\n" + L2 + b"\r\nhi",
    "http-0.9-version": b"HTTP/0.9 200 OK\r\n" + L2 + b"\r\nhi",
    "another-protocol": b"RTSP/1.0 200 OK\r\n" + L2 + b"\r\nhi",
    "lower-case-protocol": b"http/1.1 200 OK\r\n" + L2 + b"\r\nhi",
    "leading-empty-line": b"\r\n" + OK + L2 + b"\r\nhi",
    "tls-alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "bare-lf-everywhere": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "bare-lf-in-status-line": b"HTTP/1.1 200 OK\n" + L2 + b"\r\nhi",
    "bare-lf-after-field": OK + b"X: a\n" + L2 + b"\r\nhi",
    "bare-lf-at-the-end": OK + b"Content-Length: 2\r\n\nhi",
    "fold": OK + b"X: a\r\n b\r\n" + L2 + b"\r\nhi",
    "fold-of-length": OK + b"Content-Length:\r\n 2\r\n\r\nhi",
    "fold-of-coding": OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "fold-first": OK + b" X: a\r\n" + L2 + b"\r\nhi",
    "space-before-colon": OK + b"Content-Length : 2\r\n\r\nhi",
    "space-in-name": OK + b"X Y: 2\r\n" + L2 + b"\r\nhi",
    "empty-name": OK + b": x\r\n" + L2 + b"\r\nhi",
    "no-colon": OK + b"nonsense\r\n" + L2 + b"\r\nhi",
    "nul-in-value": OK + b"X: a\0b\r\n" + L2 + b"\r\nhi",
    "cr-in-value": OK + b"X: a\rb\r\n" + L2 + b"\r\nhi",
    "cr-cr-lf": OK + b"X: a\r\r\n" + L2 + b"\r\nhi",
    "control-in-value": OK + b"X: a\x01b\r\n" + L2 + b"\r\nhi",
    "both-framings": OK + L2 + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both-framings-reversed": OK + b"Transfer-Encoding: chunked\r\n" + L2 + b"\r\n0\r\n\r\n",
    "two-lengths": OK + L2 + b"Content-Length: 3\r\n\r\nhi",
    "equal-lengths": OK + L2 + L2 + b"\r\nhi",
    "length-list": OK + b"Content-Length: 2, 2\r\n\r\nhi",
    "negative-length": OK + b"Content-Length: -2\r\n\r\nhi",
    "huge-length": OK + b"Content-Length: 9223372036854775808\r\n\r\nhi",
    "gzip-chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked-twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked-in-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "status-000": b"HTTP/1.1 000 OK\r\n" + L2 + b"\r\nhi",
    "status-99": b"HTTP/1.1 99 OK\r\n" + L2 + b"\r\nhi",
    "status-600": b"HTTP/1.1 600 OK\r\n" + L2 + b"\r\nhi",
    "status-999": b"HTTP/1.1 999 OK\r\n" + L2 + b"\r\nhi",
    "status-1000": b"HTTP/1.1 1000 OK\r\n" + L2 + b"\r\nhi",
    "unasked-101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nraw",
    "bare-101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK + L2 + b"\r\nhi",
    "garbage-after-interim": b"HTTP/1.1 100 Continue\r\n\r\n\r\n" + OK + L2 + b"\r\nhi",
    "too-many-interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 4 + OK + L2 + b"\r\nhi",
    "too-many-fields": OK + b"".join(b"x%d: y\r\n" % number for number in range(21)) + b"\r\n",
    "too-long-a-field": OK + b"x: " + b"y" * 2000 + b"\r\n\r\n",
    "too-long-and-endless": OK + b"x: " + b"y" * 2000,
    "too-long-in-sum": b"HTTP/1.1 103 Early\r\nx: "
    + b"y" * 1500
    + b"\r\n\r\n"
    + OK
    + b"x: "
    + b"y" * 600
    + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", HOSTILE_HEADS.values(), ids=HOSTILE_HEADS.keys())
@pytest.mark.parametrize("size", [1, 3, 100_000])
def test_a_hostile_head_is_refused_however_it_is_cut(raw: bytes, size: int) -> None:
    result = read(*(raw[start : start + size] for start in range(0, len(raw), size)))
    assert result.is_invalid
    assert not result.is_complete
    assert result.body == b""


def test_the_largest_allowed_head_is_accepted() -> None:
    line = b"x: " + b"y" * (2000 - len(OK) - len(b"x: \r\n") - len(b"content-length: 0\r\n\r\n"))
    raw = OK + line + b"\r\ncontent-length: 0\r\n\r\n"
    assert len(raw) == 2000
    assert read(raw).is_complete
    assert read(raw.replace(b"x: ", b"x: y")).is_invalid


def test_as_many_fields_and_interim_answers_as_allowed_are_accepted() -> None:
    fields_20 = b"".join(b"x%d: y\r\n" % number for number in range(19)) + b"content-length: 0\r\n\r\n"
    result = read(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK + fields_20)
    assert result.is_complete
    assert len(result.headers) == 20


def test_interim_answers_are_kept_for_whoever_forwards_them() -> None:
    reader = AnswerReader(LIMITS, answers_head=False)
    reader.feed(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    assert reader.interim == [(103, [(b"link", b"</a>")])]
    assert not reader.has_head


HOSTILE_CHUNKS = {
    "prefix": b"0x2\r\nhi\r\n0\r\n\r\n",
    "negative": b"-2\r\nhi\r\n0\r\n\r\n",
    "space": b"2 \r\nhi\r\n0\r\n\r\n",
    "empty-size": b"\r\nhi\r\n0\r\n\r\n",
    "overflow": b"fffffffffffffffff\r\nhi",
    "bare-lf-after-size": b"2\nhi\r\n0\r\n\r\n",
    "bare-lf-after-data": b"2\r\nhi\n0\r\n\r\n",
    "bare-lf-in-extension": b"2;a\nb\r\nhi\r\n0\r\n\r\n",
    "no-line-end-after-data": b"2\r\nhi0\r\n\r\n",
    "longer-than-its-size": b"2\r\nhiXX\r\n0\r\n\r\n",
    "nul-in-trailer": b"0\r\nt: \0\r\n\r\n",
    "bare-lf-in-trailer": b"0\r\nt: v\n\r\n",
}


@pytest.mark.parametrize("raw", HOSTILE_CHUNKS.values(), ids=HOSTILE_CHUNKS.keys())
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_hostile_chunk_is_refused_and_never_completes(raw: bytes, size: int) -> None:
    result = read(CHUNKED, *(raw[start : start + size] for start in range(0, len(raw), size)))
    assert result.is_invalid
    assert not result.is_complete


@pytest.mark.parametrize("is_one_segment", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b"2;" + b"e" * 600 + b"\r\nhi\r\n0\r\n\r\n",
        b"2;" + b"e" * 600,
        (b"1;" + b"e" * 60 + b"\r\nx\r\n") * 20 + b"0\r\n",
        b"0\r\n" + b"t: " + b"v" * 600,
    ],
    ids=["one-extension", "endless-extension", "many-extensions", "trailer"],
)
def test_chunk_extensions_and_trailers_are_bounded(body: bytes, *, is_one_segment: bool) -> None:
    segments = [CHUNKED + body] if is_one_segment else [CHUNKED, body]
    assert read(*segments).is_invalid


def test_many_small_chunks_are_no_overhead() -> None:
    result = read(CHUNKED + b"1\r\nx\r\n" * 5000, b"0\r\n\r\n")
    assert result.is_complete
    assert result.body == b"x" * 5000


def test_trailers_are_not_merged_into_the_fields() -> None:
    result = read(CHUNKED + b"0\r\nContent-Type: a/b\r\nx: y\r\n\r\n")
    assert result.is_complete
    assert result.headers == [(b"transfer-encoding", b"chunked")]


def test_a_chunk_that_breaks_after_good_ones_leaves_those_readable() -> None:
    result = read(CHUNKED + b"2\r\nhi\r\nbroken")
    assert result.is_invalid
    assert (result.status, result.body) == (200, b"hi")


def test_white_space_around_a_value_is_not_part_of_it() -> None:
    assert read(OK + b"X: \t a b \t\r\n" + L2 + b"\r\nhi").headers[0] == (b"x", b"a b")
