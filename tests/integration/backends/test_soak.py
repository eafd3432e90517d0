"""Agents on two instances of approach 2, some of which leave, while instances and sandboxes die: nothing is left.

That no two write in one workspace is read from the log that the writers keep under the flock. Sizes are those of a
quick look; `make torture` multiplies them and goes on for two minutes.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import re
import secrets
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import redis as redis_client

from backends.common.fencing import DIRECTORY, WRITERS
from backends.common.removal import remove_tree
from tests.support.fake_e2b import running_fake_e2b
from tests.support.redis_process import RedisProcess, running_redis
from tests.support.services import Service, Start, bare_repository, end, launch, sandbox_home, wait_ready
from tests.support.waiting import until, until_async
from tests.support.writers_log import ON, Line, faults, read_log

SCALE = int(os.environ.get("CROSSFADE_TEST_SCALE", "1"))
TASKS = min(10 * SCALE, 200)
WORKSPACES = min(5 * SCALE, 50)
CALLS = 12
AT_LEAST_S = float(os.environ.get("CROSSFADE_TEST_SOAK_S", "0"))
RESTART_EVERY_S = 3.0 if SCALE == 1 else 15.0
DEATH_EVERY_S = 1.0 if SCALE == 1 else 3.0
LOOK_EVERY_S = 0.1
SEED = 20260701

GIT_SAYS = re.compile(r"git failed: (.* \| )?(fatal|error): .*")
"""What is git's own answer, where that is one at all."""
OPERATIONS: list[tuple[str, dict[str, object]]] = [
    ("git.clone", {}),
    ("git.pull", {}),
    ("git.add", {"files": ["."]}),
    ("git.commit", {"message": "by somebody"}),
    ("git.status", {}),
    ("git.reset", {"mode": "hard"}),
    ("file.write", {"path": "dir/written", "content": "x" * 1000}),
    ("file.write", {"path": "README.md", "content": "changed"}),
    ("file.delete", {"path": "dir/written"}),
    ("file.read", {"path": "README.md"}),
    ("file.list", {}),
]
GONE = "instance gone"
EXPECTED = {
    "cancelled",
    GONE,
    "nothing_to_commit",
    "not_found",
    "unknown_workspace",
    "workspace_busy",
    "sandbox_unavailable",
    # By an instance that is coming back and is asked before it is ready.
    "locks_unavailable",
    # A pull where a file that comes was changed, and one where a commit stands in its way.
    "conflict",
    "diverged",
}
WRITTEN = {"clone", "settle_clone", "write_file"}
if AT_LEAST_S:
    WRITTEN |= {"fetch", "add", "commit", "reset", "delete_file"}


@dataclass
class Crowd:
    """What happened.

    Attributes:
        urls: Of the instances.
        random: Decides what is done.
        secret: Paths of this machine, which no message may name.
        until: No call begins after it; monotonic.
        codes: How calls ended.
        said: The messages of each, for whoever looks at a run.
        leaks: Messages that name such a path.
        cancelled: Calls whose caller left.
    """

    urls: list[str]
    random: random.Random
    secret: list[str]
    until: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)
    said: dict[str, Counter[str]] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    cancelled: int = 0

    def note(self, code: str, message: str = "") -> None:
        self.codes[code] = self.codes.get(code, 0) + 1
        if message:
            self.said.setdefault(code, Counter())[message] += 1
        if any(path in message for path in self.secret):
            self.leaks.append(f"{code}: {message}")


async def one_call(client: httpx.AsyncClient, crowd: Crowd, operation: str, arguments: dict[str, object]) -> str:
    """How it ended: a code, `ok`, or that somebody left."""
    code, message = await ending(client, crowd, operation, arguments)
    crowd.note(code, message)
    return code


async def ending(
    client: httpx.AsyncClient, crowd: Crowd, operation: str, arguments: dict[str, object]
) -> tuple[str, str]:
    calling = asyncio.create_task(client.post("/v1/" + operation.replace(".", "/"), json=arguments))
    if crowd.random.random() < 0.15:
        done, _ = await asyncio.wait([calling], timeout=crowd.random.uniform(0, 0.3))
        if not done:
            crowd.cancelled += 1
            calling.cancel()
    try:
        answer = await calling
    except asyncio.CancelledError:
        return "cancelled", ""
    except httpx.TransportError:
        return GONE, ""
    content = answer.json()
    return ("ok", "") if answer.status_code == 200 else (str(content["code"]), str(content["message"]))


async def work(crowd: Crowd, number: int, bare: Path) -> None:
    """One agent's task: any writes, on any instance."""
    headers = {"X-Agent-Id": "soak", "X-Task-Id": f"task-{number % WORKSPACES}"}
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=60))
            for url in crowd.urls
        ]
        done, has_none = 0, True
        while done < CALLS or time.monotonic() < crowd.until:
            # As an agent would; else most calls would meet workspaces that are not there.
            operation, arguments = OPERATIONS[0] if has_none else crowd.random.choice(OPERATIONS)
            done += 1
            more = {"url": str(bare)} if operation == "git.clone" else {}
            here = crowd.random.choice(clients)
            code = await one_call(here, crowd, operation, {**arguments, **more})
            if code == GONE:
                # Who only asked the one that is gone would take the time of the machine from its coming back.
                there = clients[1 - clients.index(here)]
                code = await one_call(there, crowd, operation, {**arguments, **more})
            has_none = code == "unknown_workspace" or (has_none and code != "ok")


@dataclass
class Place:
    """Where the sandboxes are.

    Attributes:
        home: Given to the services.
        env: Makes the services use it.
        boxes: Of every sandbox there is, by its name: the directory with what `fencing` keeps.
        strike: One of them dies, in use if any is.
    """

    home: Path
    env: dict[str, str]
    boxes: Callable[[], dict[str, Path]]
    strike: Callable[[], None]


def somebody_is_in(log: Path) -> bool:
    with suppress(FileNotFoundError):
        lines = read_log(log)
        return bool(lines) and lines[-1].what is not None
    return False


@contextmanager
def local(home: Path) -> Iterator[Place]:
    root = home / "approach2"
    chosen = random.Random(SEED)

    def boxes() -> dict[str, Path]:
        return {entry.name: entry / "box" for entry in root.iterdir() if not entry.name.startswith(".")}

    def strike() -> None:
        logs = {name: box / DIRECTORY / WRITERS for name, box in boxes().items()}
        used = sorted(name for name, log in logs.items() if log.exists())
        if not used:
            return
        whole = root / chosen.choice([name for name in used if somebody_is_in(logs[name])] or used)
        dying = chosen.choice([whole, whole / "box"])
        # At once, as a file system goes away: nobody works in half of it.
        dead = dying.with_name(f".dead-{secrets.token_hex(8)}")
        with suppress(FileNotFoundError):
            dying.rename(dead)
            remove_tree(dead)

    yield Place(home, {}, boxes, strike)


@contextmanager
def e2b(home: Path) -> Iterator[Place]:
    with running_fake_e2b(home / "e2b") as cloud:

        def boxes() -> dict[str, Path]:
            return {
                sandbox["metadata"]["crossfade_name"]: cloud.root / sandbox["sandboxID"] / "crossfade"
                for sandbox in cloud.sandboxes()
            }

        yield Place(home, cloud.env, boxes, lambda: cloud.trouble(deaths=1))


@dataclass
class Logs:
    """The logs of writers of all sandboxes that were seen, also of those that are gone.

    Attributes:
        place: Where the sandboxes are.
        database: Says which workspace has which.
        kept: Closes the logs, which are held open and are therefore complete and stay.
        opened: The logs by their sandbox. No further link: the services write into no file that has another name.
        workspaces: Which each of those is of.
        unowned: Those of which that was not found out.
        is_over: The crowd has gone.
    """

    place: Place
    database: Path
    kept: ExitStack
    opened: dict[str, int] = field(default_factory=dict)
    workspaces: dict[str, str] = field(default_factory=dict)
    unowned: set[str] = field(default_factory=set)
    is_over: bool = False

    def look(self) -> bool:
        """Whether it was the last look."""
        is_over = self.is_over
        there = self.place.boxes()
        for name in there.keys() - self.opened.keys():
            with suppress(FileNotFoundError):
                self.opened[name] = os.open(there[name] / DIRECTORY / WRITERS, os.O_RDONLY)
                self.kept.callback(os.close, self.opened[name])
        if not self.opened.keys() <= self.workspaces.keys() | self.unowned:
            with closing(sqlite3.connect(self.database, timeout=30)) as connection:
                query = "SELECT name, workspace_hash FROM git_sandboxes WHERE workspace_hash IS NOT NULL"
                self.workspaces.update(connection.execute(query))
            # Gone before it was asked for.
            self.unowned |= self.opened.keys() - self.workspaces.keys()
        return is_over

    async def collect(self) -> None:
        while not await asyncio.to_thread(self.look):
            await after(LOOK_EVERY_S)

    def read(self) -> dict[str, list[Line]]:
        """By sandbox."""
        return {name: read_log(Path(f"/proc/self/fd/{log}")) for name, log in sorted(self.opened.items())}

    def faults(self) -> list[str]:
        """Where two wrote at once: in one sandbox, or in two of one workspace."""
        found: list[str] = []
        holds: dict[str, list[tuple[int, int, str]]] = {}
        for name, lines in self.read().items():
            found += [f"{name}: {fault}" for fault in faults(lines)]
            if lines:
                span = (lines[0].fence, lines[-1].fence, name)
                holds.setdefault(self.workspaces.get(name, name), []).append(span)
        for spans in holds.values():
            # The numbers of a workspace's holds grow over all of its sandboxes.
            for before, after in pairwise(sorted(spans)):
                if after[0] <= before[1]:
                    found.append(f"{after[2]} was written in before the end of {before[2]}")
        return found


@pytest.fixture
def redis() -> RedisProcess:  # type: ignore[misc]  # a generator, as pytest has them
    with running_redis() as server:
        yield server


async def strike(place: Place) -> None:
    """Sandboxes die, until the crowd has gone."""
    while True:
        await after(DEATH_EVERY_S)
        await asyncio.to_thread(place.strike)


async def restart(running: list[Service], again: Callable[[], Service]) -> None:
    """An instance is killed and comes back, until the crowd has gone."""
    while True:
        await after(RESTART_EVERY_S)
        running[1].process.kill()
        await asyncio.to_thread(running[1].process.wait)

        def is_begun() -> bool:
            try:
                running[1] = again()
            except OSError as exc:
                # A client of anybody on this machine may have that port for a moment.
                if exc.errno != errno.EADDRINUSE:
                    raise
                return False
            return True

        await until(is_begun, "its port is free")
        await wait_ready(running[1])


async def after(pause_s: float) -> None:
    at = time.monotonic() + pause_s
    await until(lambda: time.monotonic() >= at, limit_s=2 * pause_s + 60)


# A call that is cancelled while it connects leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("provider", [local, e2b])
async def test_nothing_is_left_and_no_two_write(
    provider: Callable[[Path], AbstractContextManager[Place]], tmp_path: Path, redis: RedisProcess
) -> None:
    bare = bare_repository(tmp_path)
    with sandbox_home() as home, ExitStack() as kept:
        database = tmp_path / "shared.db"
        with provider(home) as place:
            env = {
                **place.env,
                **ON,
                "CROSSFADE_REDIS_URL": redis.url,
                "CROSSFADE_DATABASE_URL": f"sqlite+aiosqlite:///{database}",
            }
            start = Start(env=env, local_remotes=[tmp_path])
            running = [launch("approach2", tmp_path / f"data-{n}", home, start) for n in range(2)]
            # The killed one comes back at the same address: its clients do not look for another.
            port = int(running[1].url.rpartition(":")[2])

            def again() -> Service:
                return launch("approach2", tmp_path / "data-1", home, start, port)

            try:
                for service in running:
                    await wait_ready(service)
                until = time.monotonic() + AT_LEAST_S
                secret = [str(home), str(tmp_path), str(Path.home()), tempfile.gettempdir()]
                crowd = Crowd([service.url for service in running], random.Random(SEED), secret, until)
                logs = Logs(place, database, kept)
                collecting = asyncio.create_task(logs.collect())
                striking = [asyncio.create_task(work) for work in (strike(place), restart(running, again))]
                await asyncio.gather(*(work(crowd, number, bare) for number in range(TASKS)))
                for task in striking:
                    task.cancel()
                logs.is_over = True
                ended = await asyncio.gather(*striking, return_exceptions=True)
                assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
                await collecting
                wrote = Counter(line.what for lines in logs.read().values() for line in lines)
                for figures in (crowd.codes, crowd.said, dict(wrote)):
                    print(figures)  # noqa: T201 - shown by `make torture`
                print(f"{len(logs.opened)} sandboxes were written in")  # noqa: T201 - likewise
                assert not logs.faults()
                assert crowd.codes.pop("ok") > TASKS
                assert set(crowd.codes) <= EXPECTED | {"git_failed"}
                assert all(map(GIT_SAYS.fullmatch, crowd.said.get("git_failed", ())))
                assert not crowd.leaks
                assert wrote.keys() >= WRITTEN

                async def no_lock() -> bool:
                    with redis_client.Redis.from_url(redis.url) as client:
                        return not list(client.scan_iter("cf:lock:*"))

                await until_async(no_lock, "no lock is left", limit_s=30)
                # A sandbox that died is known to be gone when somebody looks: at the start, and every 10 minutes.
                end(running[0])
                running[0] = launch("approach2", tmp_path / "data-0", home, start)
                await wait_ready(running[0])

                def why_not() -> str:
                    with closing(sqlite3.connect(database)) as connection:
                        states = dict(connection.execute("SELECT name, state FROM git_sandboxes"))
                    there = set(place.boxes())
                    # What was being made when an instance was killed is removed ten minutes later.
                    gone = {name: state for name, state in states.items() if state != "creating" and name not in there}
                    return f"gone: {gone}, unknown: {there - states.keys()}" if gone or there - states.keys() else ""

                async def all_known() -> bool:
                    return not await asyncio.to_thread(why_not)

                try:
                    await until_async(all_known, "the table has every sandbox and no other", limit_s=30)
                except AssertionError as exc:
                    raise AssertionError(why_not()) from exc
            finally:
                for service in running:
                    end(service)
                gc.collect()
