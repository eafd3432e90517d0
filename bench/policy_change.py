"""From a policy change to its effect in other processes, pushed and with the push lost.

    .venv/bin/python -m bench.policy_change [--changes N]

Two processes follow the policy as gateway workers do and say when they decided by each epoch (CLOCK_MONOTONIC, which
all processes of a machine share).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from gateway.state.connect import connect
from gateway.state.feed import FeedSettings, PolicyFeed
from gateway.state.policy_store import PolicyStore
from gateway.state.snapshot_file import SnapshotFile
from gateway.telemetry.logs import configure_logs
from tests.integration.state.scene import definition, entry, policy
from tests.support.redis_process import running_redis

FOLLOWERS = 2


def follow(url: str, directory: str, ends: Connection) -> None:
    """A process that follows and reports."""
    configure_logs("error")

    async def run() -> None:
        store = PolicyStore(connect(url), "git")
        place = Path(directory)
        feed = PolicyFeed(store, definition(), place, SnapshotFile(place, "git"), FeedSettings("bench"))
        feed.subscribe(lambda: ends.send((feed.current.epoch if feed.current else 0, time.monotonic())))
        await feed.start()
        await asyncio.to_thread(ends.recv)
        await feed.aclose()

    asyncio.run(run())


async def measure(url: str, ends: list[Connection], changes: int, *, push: bool) -> list[float]:
    """Delays in seconds, of the slower follower for each change."""
    store = PolicyStore(connect(url), "git")
    delays = []
    for number in range(changes):
        before = await store.read()
        assert before is not None
        begun = time.monotonic()
        if push:
            epoch = (await store.change(before, policy(before.epoch, number + 1), entry())).epoch
        else:
            epoch = before.epoch + 1
            # What the change script does, but for the message.
            await store.redis.hset(store.keys.policy, "epoch", str(epoch))
        arrived = []
        for end in ends:
            while True:
                seen, at = await asyncio.to_thread(end.recv)
                if seen >= epoch:
                    arrived.append(at - begun)
                    break
        delays.append(max(arrived))
    await store.redis.aclose()
    return delays


async def main() -> None:
    """Sets the scene and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--changes", type=int, default=50)
    options = parser.parse_args()
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as directory, running_redis() as redis:
        store = PolicyStore(connect(redis.url), "git")
        await store.boot(policy(), entry())
        await store.redis.aclose()
        pipes = [context.Pipe() for _ in range(FOLLOWERS)]
        followers = [context.Process(target=follow, args=(redis.url, directory, theirs)) for _, theirs in pipes]
        for follower in followers:
            follower.start()
        ends = [ours for ours, _ in pipes]
        for end in ends:
            await asyncio.to_thread(end.recv)
        for push in (True, False):
            delays = await measure(redis.url, ends, options.changes, push=push)
            print(
                f"{'pushed   ' if push else 'push lost'}: median {statistics.median(delays) * 1000:6.1f} ms, "
                f"longest {max(delays) * 1000:6.1f} ms of {len(delays)} changes on {FOLLOWERS} processes"
            )
        for end in ends:
            end.send("stop")
        for follower in followers:
            follower.join()


if __name__ == "__main__":
    asyncio.run(main())
