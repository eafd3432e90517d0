from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Deadlines, ErrorCode, Headers
from gateway.errors import UpstreamError
from gateway.ports import UpstreamRequest
from gateway.upstream.framing import InvalidAnswerError, judge_answer_head, write_request_head


def request(headers: Headers, *, method: bytes = b"GET", target: bytes = b"/", body: bytes | None = None) -> bytes:
    return write_request_head(UpstreamRequest(method, target, headers, body, Deadlines(), may_retry=False))


def test_framing_fields_of_the_caller_stay_behind() -> None:
    theirs = [(b"content-length", b"7"), (b"transfer-encoding", b"chunked"), (b"connection", b"close"), (b"a", b"b")]
    assert request(theirs) == b"GET / HTTP/1.1\r\na: b\r\n\r\n"
    assert request(theirs, body=b"xy") == b"GET / HTTP/1.1\r\na: b\r\ncontent-length: 2\r\n\r\n"


def test_repeated_fields_stay_separate_and_in_order() -> None:
    assert request([(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]) == b"GET / HTTP/1.1\r\nb: 1\r\na: 2\r\nb: 3\r\n\r\n"


def test_a_request_without_fields_has_a_head() -> None:
    assert request([]) == b"GET / HTTP/1.1\r\n\r\n"


@given(name=st.binary(min_size=1, max_size=8), value=st.binary(max_size=12), target=st.binary(min_size=1, max_size=12))
def test_a_head_that_is_written_has_exactly_the_lines_it_was_given(name: bytes, value: bytes, target: bytes) -> None:
    name = b"x-" + name  # never a framing field, which stays behind
    given_lines = [b"GET " + target + b" HTTP/1.1", b"host: h", name + b": " + value]
    if set(b"\r\n\0") & set(name + value + target) or b" " in target:
        with pytest.raises(UpstreamError) as caught:
            request([(b"host", b"h"), (name, value)], target=target)
        assert caught.value.code is ErrorCode.BAD_REQUEST
        assert not caught.value.sent
    else:
        head = request([(b"host", b"h"), (name, value)], target=target)
        assert head.split(b"\r\n") == [*given_lines, b"", b""]


def judge(*fields: tuple[bytes, bytes], version: str = "1.1", status: int = 200, is_head: bool = False) -> str:
    framing = judge_answer_head(version, status, list(fields), answers_head=is_head)
    return f"{framing.kind} {framing.length} {'keep' if framing.keep_alive else 'close'}"


CL5 = (b"content-length", b"5")
CHUNKED = (b"transfer-encoding", b"chunked")


def test_the_body_of_an_answer_ends_where_its_head_says() -> None:
    assert judge(CL5) == "length 5 keep"
    assert judge((b"content-length", b"0")) == "none 0 keep"
    assert judge((b"content-length", b"007")) == "length 7 keep"
    assert judge(CHUNKED) == "chunked None keep"
    assert judge((b"transfer-encoding", b"Chunked")) == "chunked None keep"
    assert judge() == "until_close None close"
    assert judge(CL5, version="1.0") == "length 5 close"


@pytest.mark.parametrize("field", [CL5, CHUNKED, (b"x", b"y")])
def test_head_204_and_304_have_no_body(field: tuple[bytes, bytes]) -> None:
    assert judge(field, is_head=True) == "none 0 keep"
    assert judge(field, status=204) == "none 0 keep"
    assert judge(field, status=304) == "none 0 keep"


@pytest.mark.parametrize("value", [b"close", b"Close", b"keep-alive, close", b"x ,\tCLOSE"])
def test_close_is_found_in_a_list(value: bytes) -> None:
    assert judge(CL5, (b"connection", value)) == "length 5 close"
    assert judge(CL5, (b"connection", value), (b"connection", b"keep-alive")) == "length 5 close"


def test_an_option_that_only_contains_close_does_not_close() -> None:
    assert judge(CL5, (b"connection", b"not-close, closer")) == "length 5 keep"


@pytest.mark.parametrize(
    "fields",
    [
        [CL5, CHUNKED],
        [CHUNKED, CL5],
        [CL5, CL5],
        [CL5, (b"content-length", b"6")],
        [(b"content-length", b"5, 5")],
        [(b"content-length", b"-5")],
        [(b"content-length", b"+5")],
        [(b"content-length", b"5_0")],
        [(b"content-length", b"0x5")],
        [(b"content-length", b"")],
        [(b"content-length", "٥".encode())],
        [(b"content-length", b"9223372036854775808")],
        [(b"content-length", b"99999999999999999999999999")],
        [(b"transfer-encoding", b"gzip")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked, chunked")],
        [(b"transfer-encoding", b"chunked;q=1")],
        [(b"transfer-encoding", b"identity")],
        [(b"transfer-encoding", b"")],
        [CHUNKED, CHUNKED],
    ],
    ids=repr,
)
def test_an_answer_whose_end_is_a_matter_of_opinion_is_refused(fields: Headers) -> None:
    for status, is_head in ((200, False), (200, True), (204, False)):
        with pytest.raises(InvalidAnswerError):
            judge(*fields, status=status, is_head=is_head)


def test_transfer_encoding_in_an_http_1_0_answer_is_refused() -> None:
    with pytest.raises(InvalidAnswerError):
        judge(CHUNKED, version="1.0")


@pytest.mark.parametrize("version", ["0.9", "2.0", "1.2", "3.0"])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(InvalidAnswerError):
        judge(CL5, version=version)


@pytest.mark.parametrize("status", [0, 99, 101, 199, 600, 999])
def test_a_status_that_cannot_be_final_is_refused(status: int) -> None:
    with pytest.raises(InvalidAnswerError):
        judge(CL5, status=status)
