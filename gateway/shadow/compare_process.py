"""The process that compares: `python -m gateway.shadow.compare_process UNPACKED_BYTES`, frames in, verdicts out.

It ends when its input does, and with whoever started it, even while it is stopped.

Apart from the event loop, since a large pair takes tens of milliseconds; and with bounds of its own, since what it
reads was written by services that are being tested.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import BinaryIO, Final

from gateway.core.compare.answers import Answer, Comparer, Pairing, Result, Verdict, Why
from gateway.core.compare.content import UndecodableError, decoded
from gateway.core.compare.rules import ComparisonRules
from gateway.shadow.frames import HEAD, Document, read_answer, verdict_frame

_MEMORY_BYTES: Final = 2 << 30
_NICE: Final = 5
_GC_ALLOCATIONS: Final = 100_000
_PR_SET_PDEATHSIG: Final = 1
_CODING: Final = b"content-encoding"

_Comparers = dict[str, tuple[Comparer, str]]


def command(unpacked_bytes: int) -> tuple[str, ...]:
    """What starts the process.

    Args:
        unpacked_bytes: A body that is larger when its content coding is undone is not compared.
    """
    return (sys.executable, "-P", "-m", "gateway.shadow.compare_process", str(unpacked_bytes))


def main() -> int:
    """Compares until the input ends; returns the exit code."""
    unpacked_bytes = int(sys.argv[1])
    # Ctrl-C in a terminal reaches the whole group; the end of the pipe says when to leave.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # A process that is stopped never sees the end of its input. prctl(2) cannot fail with these arguments.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    with suppress(OSError):
        os.nice(_NICE)
    # Values of JSON hold no cycles: looking for some in the middle of a large pair is wasted.
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 20, 100)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer, unpacked_bytes)
    except BrokenPipeError:
        # Python would try to flush again at exit.
        os._exit(0)
    return 0


def serve(source: BinaryIO, target: BinaryIO, unpacked_bytes: int) -> None:
    """Answers frame after frame."""
    comparers: _Comparers = {}
    while len(start := source.read(HEAD.size)) == HEAD.size:
        lengths = HEAD.unpack(start)
        text, left, right = (source.read(length) for length in lengths)
        if len(right) != lengths[2]:
            return
        head: Document = json.loads(text)
        if "rules" in head:
            comparers = _compiled(head)
            continue
        verdict, version = _judge(head, (left, right), comparers, unpacked_bytes)
        target.write(verdict_frame(head["id"], verdict, version))
        target.flush()


def _compiled(head: Document) -> _Comparers:
    secret = bytes.fromhex(head["secret"])
    compiled = {}
    for name, document in head["rules"].items():
        rules = ComparisonRules.from_document(document)
        compiled[name] = (Comparer(rules, secret), rules.version)
    return compiled


def _judge(
    head: Document, bodies: tuple[bytes, bytes], comparers: _Comparers, unpacked_bytes: int
) -> tuple[Verdict, str]:
    known = comparers.get(head["operation"])
    if known is None:
        # The operation has left the file since.
        return Verdict(Result.INCOMPARABLE, Why.DECLARED), ""
    comparer, version = known
    pairing = Pairing(head["is_mcp"], head["left_is_old"], frozenset(head["failure_codes"]))
    try:
        left, right = (read_answer(head[name], body) for name, body in zip(("left", "right"), bodies, strict=True))
        if not (_is_within(left, unpacked_bytes) and _is_within(right, unpacked_bytes)):
            return Verdict(Result.INCOMPARABLE, Why.UNDECODABLE), version
        return comparer.compare(left, right, pairing, with_leaves=head["with_leaves"]), version
    except Exception as exc:
        # The process boundary: one pair must not take the others along. The kind alone is said: a message may hold what
        # a service sent.
        sys.stderr.write(f"comparison_failed {type(exc).__name__} operation={head['operation']}\n")
        return Verdict(Result.INCOMPARABLE, Why.FAILED), version


def _is_within(answer: Answer, unpacked_bytes: int) -> bool:
    """Whether a body stays within bounds when it is unpacked: some kilobytes may become millions of values."""
    if not any(name == _CODING for name, _ in answer.headers):
        return True
    try:
        decoded(answer.body, answer.headers, unpacked_bytes)
    except UndecodableError:
        # Damaged, or too large; where it is damaged alone, comparing finds that too.
        try:
            decoded(answer.body, answer.headers)
        except UndecodableError:
            return True
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
