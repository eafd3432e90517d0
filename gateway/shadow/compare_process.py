"""The process that compares: `python -m gateway.shadow.compare_process`, frames in, verdicts out, until its input ends.

Apart from the event loop, since a large pair takes tens of milliseconds; and with bounds of its own, since what it
reads was written by services that are being tested.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import BinaryIO, Final

from gateway.core.compare.answers import Comparer, Pairing, Result, Verdict, Why
from gateway.core.compare.rules import ComparisonRules
from gateway.shadow.frames import HEAD, Document, read_answer, verdict_frame

_MEMORY_BYTES: Final = 2 << 30
_NICE: Final = 5
_GC_ALLOCATIONS: Final = 100_000


def main() -> int:
    """Compares until the input ends; returns the exit code."""
    # Ctrl-C in a terminal reaches the whole group; the end of the pipe says when to leave.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    with suppress(OSError):
        os.nice(_NICE)
    # Values of JSON hold no cycles: looking for some in the middle of a large pair is wasted.
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 20, 100)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        # Python would try to flush again at exit.
        os._exit(0)
    return 0


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answers frame after frame."""
    comparers: dict[str, tuple[Comparer, str]] = {}
    while len(start := source.read(HEAD.size)) == HEAD.size:
        lengths = HEAD.unpack(start)
        text, left, right = (source.read(length) for length in lengths)
        if len(right) != lengths[2]:
            return
        head: Document = json.loads(text)
        if "rules" in head:
            comparers = _compiled(head)
            continue
        verdict, version = _judge(head, left, right, comparers)
        target.write(verdict_frame(head["id"], verdict, version))
        target.flush()


def _compiled(head: Document) -> dict[str, tuple[Comparer, str]]:
    secret = bytes.fromhex(head["secret"])
    compiled = {}
    for name, document in head["rules"].items():
        rules = ComparisonRules.from_document(document)
        compiled[name] = (Comparer(rules, secret), rules.version)
    return compiled


def _judge(
    head: Document, left: bytes, right: bytes, comparers: dict[str, tuple[Comparer, str]]
) -> tuple[Verdict, str]:
    known = comparers.get(head["operation"])
    if known is None:
        # The operation has left the file since.
        return Verdict(Result.INCOMPARABLE, Why.DECLARED), ""
    comparer, version = known
    pairing = Pairing(head["is_mcp"], head["left_is_old"], frozenset(head["failure_codes"]))
    try:
        answers = read_answer(head["left"], left), read_answer(head["right"], right)
        return comparer.compare(*answers, pairing, with_leaves=head["with_leaves"]), version
    except Exception as exc:
        # The process boundary: one pair must not take the others along. The kind alone is said: a message may hold what
        # a service sent.
        sys.stderr.write(f"comparison_failed {type(exc).__name__} operation={head['operation']}\n")
        return Verdict(Result.INCOMPARABLE, Why.FAILED), version


if __name__ == "__main__":
    sys.exit(main())
