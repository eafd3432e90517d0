"""How a request ended: the closed set of `outcome` label values."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended, as seen by the client."""

    OK = "ok"
    """A side answered below 400."""
    CLIENT_ERROR = "client_error"
    """A side answered 4xx: the request's fault."""
    FAILURE = "failure"
    """A side answered 5xx, not at all, or broke off."""
    REFUSED = "refused"
    """The gateway answered itself."""
    CLIENT_GONE = "client_gone"
    """The client left first; blames nobody."""
