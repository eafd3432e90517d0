"""What goes through the pipes of the process that compares: a head in JSON, and the two bodies as they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

from gateway.core.compare.answers import Answer, Pairing, Result, Verdict
from gateway.core.compare.tree import Difference

HEAD: Final = struct.Struct(">III")
"""Lengths of the JSON head and of the two bodies."""
REPLY: Final = struct.Struct(">I")

Document = dict[str, Any]


def rules_frame(rules: Mapping[str, Document], secret: str) -> bytes:
    """Tells the process by which rules to compare from now on."""
    return _frame({"rules": dict(rules), "secret": secret})


def pair_frame(
    number: int, operation: str, left: Answer, right: Answer, pairing: Pairing, *, with_leaves: bool
) -> bytes:
    """Asks for a verdict about a pair."""
    head = {
        "id": number,
        "operation": operation,
        "left": _answer(left),
        "right": _answer(right),
        "is_mcp": pairing.is_mcp,
        "left_is_old": pairing.left_is_old,
        "failure_codes": sorted(pairing.failure_codes),
        "with_leaves": with_leaves,
    }
    return _frame(head, left.body, right.body)


def read_answer(document: Document, body: bytes) -> Answer:
    """An answer out of a frame."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in document["headers"]]
    return Answer(document["status"], headers, body)


def verdict_frame(number: int, verdict: Verdict, rules: str) -> bytes:
    """The reply to a pair."""
    text = json.dumps(
        {
            "id": number,
            "result": verdict.result.value,
            "why": str(verdict.why),
            "differences": [difference.document() for difference in verdict.differences],
            "unnamed": verdict.unnamed,
            "leaves": sorted(verdict.leaves),
            "rules": rules,
        }
    ).encode()
    return REPLY.pack(len(text)) + text


def read_verdict(document: Document) -> Verdict:
    """The verdict out of a reply."""
    return Verdict(
        Result(document["result"]),
        document["why"],
        tuple(Difference.from_document(found) for found in document["differences"]),
        document["unnamed"],
        frozenset(document["leaves"]),
    )


def _answer(answer: Answer) -> Document:
    fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
    return {"status": answer.status, "headers": fields}


def _frame(head: Document, left: bytes = b"", right: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return b"".join((HEAD.pack(len(text), len(left), len(right)), text, left, right))
