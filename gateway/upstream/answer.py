"""Reads one answer from the bytes of a connection. No sockets: segments in, facts out.

Owns where an answer starts and ends, to the byte. httptools parses heads and chunks; the end of a head is found a
second time by search, bodies of known length are counted, so that no surplus byte can hide: RFC 9112 §6.3 forbids to
take one for the start of another answer. It must not know pools, timers or who reads.
"""

from __future__ import annotations

import httptools

from gateway.core.model import Headers
from gateway.upstream.framing import BodyKind, InvalidAnswerError, accepts_switch, judge_answer_head
from gateway.upstream.limits import UpstreamLimits

_STATUS_LINE_START = b"HTTP/"
_HEAD_END = b"\r\n\r\n"
# Size line and line ends of an ordinary chunk: sixteen hex digits, twice CRLF, rounded up.
_CHUNK_ALLOWANCE_BYTES = 24


class AnswerReader:
    """The state of one answer: made for one exchange, fed until `is_complete`, thrown away.

    Attributes:
        status: Final status code; 0 before `has_head`.
        headers: Its fields, lower-case names, surrounding white space removed.
        length: As `UpstreamResponse.length`.
        interim: The 1xx answers seen so far, as (status, headers). Whoever forwards one removes it.
        body: Pieces of the body not yet taken.
        has_started: A byte of an answer came.
        has_head: The final head is complete.
        is_complete: The answer is complete.
        has_surplus: Bytes came after its end.
        has_switched: It is a 101 to one of the protocols asked for; what follows is `body`.
        keep_alive: The connection may be used again as far as the answer is concerned.
        trailers: Fields behind a chunked body, written like `headers`.
    """

    __slots__ = (
        "_answers_head",
        "_asked",
        "_chunk_overhead",
        "_fields",
        "_head_bytes",
        "_head_tail",
        "_interim_count",
        "_kind",
        "_limits",
        "_parser",
        "_parser_saw_end",
        "_parser_saw_head",
        "_remaining",
        "_start_seen",
        "body",
        "has_head",
        "has_started",
        "has_surplus",
        "has_switched",
        "headers",
        "interim",
        "is_complete",
        "keep_alive",
        "length",
        "status",
        "trailers",
    )

    def __init__(self, limits: UpstreamLimits, *, answers_head: bool, asked: bytes | None = None) -> None:
        """Starts before the first byte.

        Args:
            limits: Bounds on heads, interim answers and chunk overhead.
            answers_head: Whether the request's method is HEAD.
            asked: The protocols that the request asked to switch to.
        """
        self._asked = asked
        self._limits = limits
        self._answers_head = answers_head
        self._parser: httptools.HttpResponseParser | None = None
        self._parser_saw_head = False
        self._parser_saw_end = False
        self._fields: Headers = []
        self._head_bytes = 0
        self._head_tail = b""
        self._start_seen = 0
        self._interim_count = 0
        self._chunk_overhead = 0
        self._kind = BodyKind.NONE
        self._remaining = 0
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None
        self.interim: list[tuple[int, Headers]] = []
        self.body: list[bytes] = []
        self.has_started = False
        self.has_head = False
        self.is_complete = False
        self.has_surplus = False
        self.has_switched = False
        self.keep_alive = False
        self.trailers: Headers = []

    def feed(self, data: bytes) -> None:
        """Takes the next segment, not empty.

        Raises:
            InvalidAnswerError: It breaks HTTP or a limit. What came before it stays readable; the reader is finished.
        """
        self.has_started = True
        try:
            if not self.has_head:
                data = self._feed_head(data)
                if not data:
                    return
            if self.is_complete:
                self.has_surplus = True
            elif self._kind is BodyKind.LENGTH:
                self._feed_length(data)
            elif self._kind is BodyKind.CHUNKED:
                self._feed_chunks(data)
            else:
                self.body.append(data)
        except httptools.HttpParserUpgrade as exc:
            self._parser = None
            raise InvalidAnswerError("a switch of protocols that nobody asked for") from exc
        except httptools.HttpParserError as exc:
            self._parser = None
            cause = exc.__context__
            if isinstance(cause, InvalidAnswerError):
                raise cause from exc
            raise InvalidAnswerError(f"malformed: {exc}") from exc
        except InvalidAnswerError:
            self._parser = None
            raise

    def feed_eof(self) -> None:
        """Takes the end of the connection: completes a body that nothing else delimits."""
        if self.has_head and self._kind is BodyKind.UNTIL_CLOSE:
            self.is_complete = True

    def take_body(self) -> bytes:
        """The body bytes that came since the last call, perhaps none."""
        pieces = self.body
        if not pieces:
            return b""
        self.body = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- the head ---------------------------------------------------------------------------------------------------

    def _feed_head(self, data: bytes) -> bytes:
        """Feeds up to the end of the final head; returns what follows it."""
        while data:
            if self._start_seen or not data.startswith(_STATUS_LINE_START):
                end = self._find_head_end(data)
                head = data if end < 0 else data[:end]
                self._check_start(head)
            else:
                # Nearly always a head begins with its segment.
                self._start_seen = len(_STATUS_LINE_START)
                end = data.find(_HEAD_END) + 4
                if end < 4:
                    end = -1
                    self._head_tail = data[-3:]
                head = data if end < 0 else data[:end]
            self._head_bytes += len(head)
            if self._head_bytes > self._limits.header_bytes:
                raise InvalidAnswerError(f"head over {self._limits.header_bytes} bytes")
            if self._parser is None:
                self._parser = httptools.HttpResponseParser(self)
            try:
                self._parser.feed_data(head)
            except httptools.HttpParserUpgrade:
                # It read the whole head; whether the switch is one, is judged below.
                if self._asked is None or not self._parser_saw_head:
                    raise
            if self._parser_saw_head != (end >= 0):
                raise InvalidAnswerError("malformed: end of the head is ambiguous")
            if end < 0:
                return b""
            data = data[end:]
            self._head_tail = b""
            if self._finish_head():
                return data
        return b""

    def _find_head_end(self, data: bytes) -> int:
        """Index just after the empty line that ends a head, or -1. The line may straddle segments."""
        tail = self._head_tail
        if not tail:
            found = data.find(_HEAD_END)
            if found < 0:
                self._head_tail = data[-3:]
                return -1
            return found + 4
        joined = tail + data
        found = joined.find(_HEAD_END)
        if found < 0:
            self._head_tail = joined[-3:]
            return -1
        return found + 4 - len(tail)

    def _check_start(self, head: bytes) -> None:
        # The parser would skip leading empty lines and take other protocols; both are no answer to us.
        seen = self._start_seen
        if seen < len(_STATUS_LINE_START):
            expected = _STATUS_LINE_START[seen : seen + len(head)]
            if not head.startswith(expected):
                raise InvalidAnswerError("not HTTP")
            self._start_seen = seen + len(expected)

    def _finish_head(self) -> bool:
        """Judges the head just parsed. True when it is the final one."""
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        headers = self._fields
        if len(headers) > self._limits.header_fields:
            raise InvalidAnswerError(f"more than {self._limits.header_fields} header fields")
        if 100 <= status <= 199 and status != 101:
            self._interim_count += 1
            if self._interim_count > self._limits.interim_answers:
                raise InvalidAnswerError(f"more than {self._limits.interim_answers} interim answers")
            self.interim.append((status, headers))
            self._fields = []
            self._parser = None
            self._parser_saw_head = False
            self._start_seen = 0
            return False
        if status == 101 and self._asked is not None and accepts_switch(headers, self._asked):
            self.status = status
            self.headers = headers
            self.has_head = self.has_switched = True
            self._kind = BodyKind.UNTIL_CLOSE
            self._parser = None
            return True
        framing = judge_answer_head(parser.get_http_version(), status, headers, answers_head=self._answers_head)
        self.status = status
        self.headers = headers
        self.length = framing.length
        self.keep_alive = framing.keep_alive
        self.has_head = True
        self._kind = framing.kind
        if framing.kind is BodyKind.CHUNKED:
            return True
        self._parser = None
        if framing.kind is BodyKind.NONE:
            self.is_complete = True
        elif framing.length is not None:
            self._remaining = framing.length
        return True

    # -- the body ---------------------------------------------------------------------------------------------------

    def _feed_length(self, data: bytes) -> None:
        missing = self._remaining - len(data)
        if missing < 0:
            data = data[: self._remaining]
            self.has_surplus = True
        if missing <= 0:
            self.is_complete = True
        self._remaining = missing
        self.body.append(data)

    def _feed_chunks(self, data: bytes) -> None:
        parser = self._parser
        assert parser is not None
        self._chunk_overhead += len(data)
        # A chunked body ends with a line feed. The parser does not say where it stopped, and skips empty lines
        # silently: feeding the last byte alone tells an answer that ends here from one that ended before.
        try:
            if data.endswith(b"\n"):
                if len(data) > 1:
                    parser.feed_data(memoryview(data)[:-1])
                self.has_surplus = self._parser_saw_end
                if not self._parser_saw_end:
                    parser.feed_data(b"\n")
            else:
                parser.feed_data(data)
                self.has_surplus = self._parser_saw_end
        except httptools.HttpParserError:
            if not self._parser_saw_end:
                raise
            self.has_surplus = True
        if self._chunk_overhead > self._limits.chunk_overhead_bytes and not self.has_surplus:
            raise InvalidAnswerError(f"chunk extensions or trailers over {self._limits.chunk_overhead_bytes} bytes")
        if self._parser_saw_end:
            self.is_complete = True
            self._parser = None

    # -- called by httptools ----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or a trailer."""
        if self._parser_saw_end:
            return
        fields = self.trailers if self._parser_saw_head else self._fields
        fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The end of a head."""
        self._parser_saw_head = True

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._chunk_overhead -= _CHUNK_ALLOWANCE_BYTES

    def on_body(self, data: bytes) -> None:
        """Data of a chunk."""
        if not self._parser_saw_end:
            self._chunk_overhead -= len(data)
            self.body.append(data)

    def on_message_complete(self) -> None:
        """The end of a chunked body, or of a head that has none."""
        self._parser_saw_end = self.has_head
