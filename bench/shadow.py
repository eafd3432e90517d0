"""What mirrored reads cost and what their comparison finds.

    .venv/bin/python -m bench.shadow [--comparison] [--rounds N] [--seconds S] [--pairs N]

The first part runs side by side, as `bench.scale`: no mirror, every read mirrored, every read mirrored to a side that
hangs; and nginx with `mirror`, which compares nothing. The second compares answers in this process alone.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.contestants import CONTESTANTS, Running, backend, crossfade, migration
from bench.load import GET_SMALL, run_wrk
from bench.processes import cpu_of, rss_mib
from gateway.core.compare.answers import Answer, Comparer, Pairing, Result
from gateway.core.compare.noise import ENOUGH_PAIRS
from gateway.core.compare.rules import ComparisonRules, Relax
from tests.unit.core.compare.services import Judge, accept_all, change, document

_CONNECTIONS: Final = 8
_NGINX: Final = "nginx mirror"
_NO_MIRROR: Final = "no mirror"
_HEADERS: Final = [(b"content-type", b"application/json")]
_CHANGES: Final = 200
_WITHIN: Final = 1000

Content = dict[str, Any]


def _mirrored(backend_port: int, percent: float, new: str | None = None) -> Content:
    content: Content = migration(backend_port)
    for operation in content["operations"].values():
        operation |= {"stage": "shadow_read", "percent": 0, "mirror_percent": percent}
    if new is not None:
        content["sides"]["new"]["instances"] = [new]
    return content


@contextlib.contextmanager
def _hung() -> Iterator[str]:
    """A side that accepts and never answers."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for sock in held:
        sock.close()


def _live(rounds: int, seconds: int) -> None:
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crossfade-bench-")))
        port = stack.enter_context(backend(home))
        hung = stack.enter_context(_hung())
        contents = {
            _NO_MIRROR: lambda port: _mirrored(port, 0),
            "every read mirrored": lambda port: _mirrored(port, 100),
            "every read mirrored to a side that hangs": lambda port: _mirrored(port, 100, hung),
        }
        there: dict[str, Running] = {}
        for number, (name, content) in enumerate(contents.items()):
            directory = home / str(number)
            directory.mkdir()
            there[name] = stack.enter_context(crossfade("on", content)(directory, port))
        mirror = next(contestant for contestant in CONTESTANTS if contestant.name == _NGINX)
        there[_NGINX] = stack.enter_context(mirror.start(home, port))
        cost: dict[str, list[float]] = {name: [] for name in there}
        slow: dict[str, list[float]] = {name: [] for name in there}
        for running in there.values():
            run_wrk(running.port, GET_SMALL, _CONNECTIONS, 1, home)
        for _ in range(rounds):
            for name, running in there.items():
                before = cpu_of(running.pids)
                load = run_wrk(running.port, GET_SMALL, _CONNECTIONS, seconds, home)
                if load.errors:
                    raise RuntimeError(f"failed requests: {load.errors}")
                cost[name].append((cpu_of(running.pids) - before).total / load.requests * 1e6)
                slow[name].append(load.p99_s * 1000)
        for name, running in there.items():
            ratio = median(mine / base for mine, base in zip(cost[name], cost[_NGINX], strict=True))
            print(
                f"{name:42} {median(cost[name]):6.1f} us CPU a request, {ratio:5.2f} times {_NGINX}; "
                f"P99 {median(slow[name]):5.2f} ms; {rss_mib(running.pids):5.1f} MiB"
            )


def _items(count: int, seconds: int) -> bytes:
    items = [
        {
            "id": n,
            "name": f"item-{n}",
            "at": f"2026-01-01T00:00:{(n + seconds) % 60:02}Z",
            "tags": ["a", "b"],
            "ok": True,
        }
        for n in range(count)
    ]
    return json.dumps({"items": items}).encode()


def _speed() -> None:
    # As in the process that compares.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    comparer = Comparer(ComparisonRules(relaxed={"$.items[*].at": Relax.SHAPE}), b"secret")
    for count, rounds in ((23, 4000), (11_500, 9)):
        left, right = Answer(200, _HEADERS, _items(count, 0)), Answer(200, _HEADERS, _items(count, 1))
        took = []
        for _ in range(rounds):
            begun = time.process_time()
            verdict = comparer.compare(left, right, Pairing())
            took.append(time.process_time() - begun)
            assert verdict.result is Result.MATCH
        print(
            f"comparison of {len(left.body) / 1024:7.1f} KiB of JSON, all of it walked: {median(took) * 1000:7.3f} ms, "
            f"{1 / median(took):7.0f} pairs a second and core"
        )


def _found(pairs: int) -> None:
    rng = random.Random(1)
    relaxed, learnt = accept_all(document, rng, pairs=ENOUGH_PAIRS)
    said = ", ".join(f"{path} {'+'.join(relax.words)}" for path, relax in relaxed.items())
    print(f"learnt in rounds of {ENOUGH_PAIRS} pairs and accepted: {said}; too noisy: {learnt.is_too_noisy}")
    judge = Judge(ComparisonRules(relaxed=relaxed))
    false = sum(judge.differ(document(rng), document(rng)) for _ in range(pairs))
    print(f"{pairs} pairs of two identical services with volatile parts: {false} false mismatches")
    needed = []
    for _ in range(_CHANGES):
        made = change(rng)
        for count in range(1, _WITHIN + 1):
            changed = document(rng)
            made.apply(changed)
            if judge.differ(document(rng), changed):
                needed.append(count)
                break
        else:
            print(f"missed: {made}")
    print(
        f"{_CHANGES} changes that mean something: {len(needed)} found within {_WITHIN} pairs, "
        f"{needed.count(1)} in the first, all by pair {max(needed)}"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="length of one run of wrk")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--comparison", action="store_true", help="only the second part")
    options = parser.parse_args()
    _speed()
    _found(options.pairs)
    if not options.comparison:
        _live(options.rounds, options.seconds)


if __name__ == "__main__":
    main()
