"""Header fields that only some requests and answers carry: hops that are left, what goes with a write, a mere length.

The rules for all others are core's (`core.headers`). It must not know sides or policies.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from gateway.core.classify import COMMON_METHODS
from gateway.core.headers import to_client
from gateway.core.model import ErrorCode, Headers
from gateway.core.refusal import Refusal
from gateway.edge.plane import LaneClock

_MAX_FORWARDS_DIGITS: Final = 9
# RFC 9110 §7.6.2: a larger value may be lowered to the largest that the recipient supports.
_MAX_FORWARDS: Final = 10**_MAX_FORWARDS_DIGITS


def count_down_max_forwards(headers: Headers) -> None:
    """RFC 9110 §7.6.2: an OPTIONS request says how many more intermediaries it may pass.

    Args:
        headers: Of the request; changed in place.

    Raises:
        Refusal: It may pass none: the gateway is who was asked.
    """
    for at, (name, value) in enumerate(headers):
        digits = value.strip(b" \t").lstrip(b"0") or b"0"
        if name == b"max-forwards" and value.strip(b" \t").isdigit():
            left = int(digits) if len(digits) <= _MAX_FORWARDS_DIGITS else _MAX_FORWARDS
            if left == 0:
                raise Refusal(ErrorCode.METHOD_NOT_ALLOWED, "Max-Forwards ends here", allow=COMMON_METHODS)
            headers[at] = (name, b"%d" % (left - 1))


def write_fields(headers: Headers, clock: LaneClock) -> Headers:
    """The fields that a write carries to its side: when it was, and a name under which it has one effect.

    Args:
        headers: Of the request.
        clock: Gives the time, and the name where the client gave none.
    """
    now = datetime.fromtimestamp(clock.unix(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields: Headers = [(b"crossfade-request-time", now.encode())]
    if not any(name == b"idempotency-key" and value.strip(b" \t") for name, value in headers):
        fields.append((b"idempotency-key", b"%032x" % clock.entropy(128)))
    return fields


def interim_fields(headers: Headers) -> Headers:
    """The fields of an interim answer for the client."""
    return to_client(headers, [], date=None)


def single_length(headers: Headers) -> Headers:
    """The one length that a side declares, of a body that does not come: to a HEAD, or with a 304; else nothing."""
    lengths = {value.strip(b" \t") for name, value in headers if name == b"content-length"}
    return [(b"content-length", length) for length in lengths if len(lengths) == 1 and length.isdigit()]
