"""The fence as the shell and the kernel have it: what it passes on, whom it keeps out, and the log of who wrote."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.common.errors import Code, ServiceError
from backends.common.fencing import DIRECTORY, WRITERS, check_guard, guarded, passing
from backends.common.git_command import Command
from backends.common.sandbox import Finished
from tests.integration.backends.test_contract import ok
from tests.integration.backends.test_processes import names_in
from tests.support.fake_e2b import running_fake_e2b
from tests.support.git_http import git_over_http
from tests.support.redis_process import RedisProcess, running_redis
from tests.support.services import Service, Start, agent_on, bare_repository, sandbox_home, started_service
from tests.support.waiting import until
from tests.support.writers_log import ON, Line, faults, read_log

Plant = Callable[[Path, Path], None]

logged = pytest.mark.parametrize("is_logged", [False, True])


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """Where `.crossfade` will lie."""
    path = tmp_path / "box"
    path.mkdir()
    return path


async def run(box: Path, script: str, fence: int = 1, *, is_logged: bool, stdin: bytes = b"") -> Finished:
    """A shell under the fence."""
    command = guarded(Command(("sh", "-c", script), what="work"), str(box / DIRECTORY), fence, is_logged=is_logged)
    process = await asyncio.create_subprocess_exec(*command.argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        stdout, stderr = await process.communicate(stdin)
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    return Finished(code if code >= 0 else 128 - code, stdout, stderr)


def log_of(box: Path) -> list[Line]:
    return read_log(box / DIRECTORY / WRITERS)


@logged
async def test_a_guard_passes_on_what_its_command_reads_says_and_ends_with(box: Path, is_logged: bool) -> None:
    done = await run(box, "cat; echo said >&2; exit 7", is_logged=is_logged, stdin=b"fed")
    assert (done.code, done.stdout, done.stderr) == (7, b"fed", b"said\n")
    assert (await run(box, "kill -TERM $$", is_logged=is_logged)).code == 128 + signal.SIGTERM
    assert (await run(box, "exit 0", is_logged=is_logged)).code == 0
    assert (box / DIRECTORY / WRITERS).exists() is is_logged


@logged
async def test_a_guard_in_a_sandbox_that_is_gone_does_nothing_and_makes_nothing(
    tmp_path: Path, is_logged: bool
) -> None:
    with pytest.raises(ServiceError) as caught:
        check_guard(await run(tmp_path / "gone" / "box", f"touch {tmp_path}/done", is_logged=is_logged))
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE
    assert names_in(tmp_path) == []


async def test_each_writer_says_when_it_begins_and_ends(box: Path) -> None:
    await run(box, "exit 7", 5, is_logged=True)
    with passing(box, None, 6, "write_file"):
        pass
    with pytest.raises(KeyError), passing(box, None, 6, "delete_file"):
        raise KeyError
    lines = log_of(box)
    assert [(line.fence, line.what) for line in lines] == [
        (5, "work"), (5, None), (6, "write_file"), (6, None), (6, "delete_file"), (6, None),
    ]  # fmt: skip
    assert len({line.writer for line in lines}) == 3
    assert faults(lines) == []


async def test_whoever_is_kept_out_says_nothing(box: Path) -> None:
    await run(box, "true", 5, is_logged=True)
    for attempt in (run(box, "true", 4, is_logged=True), asyncio.to_thread(pass_by, box, 4)):
        with pytest.raises(ServiceError) as caught:
            check_guard(await attempt)
        assert caught.value.code is Code.LOCK_LOST
    assert len(log_of(box)) == 2


def pass_by(box: Path, fence: int) -> Finished:
    with passing(box, None, fence, "pass_by"):
        return Finished(0, b"", b"")


async def test_writers_of_both_kinds_say_so_one_after_the_other(box: Path) -> None:
    """Each holds the lock until its end is written: else somebody would begin before it."""
    inside = box / "inside"
    work = f"mkdir {inside} && rmdir {inside}"

    def write() -> Finished:
        with passing(box, None, 1, "write"):
            inside.mkdir()
            inside.rmdir()
            return Finished(0, b"", b"")

    each = [run(box, work, is_logged=True) if n % 2 else asyncio.to_thread(write) for n in range(30)]
    assert {done.code for done in await asyncio.gather(*each)} == {0}
    lines = log_of(box)
    assert len(lines) == 60
    assert faults(lines) == []


async def test_a_writer_whose_group_is_killed_has_no_end_and_holds_up_nobody(box: Path) -> None:
    command = guarded(
        Command(("sh", "-c", "echo begun; sleep 1000; true"), what="work"), str(box / DIRECTORY), 1, is_logged=True
    )
    process = await asyncio.create_subprocess_exec(*command.argv, stdout=PIPE, start_new_session=True)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begun\n"
    os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()
    assert (await run(box, "true", 2, is_logged=True)).code == 0
    assert [(line.fence, line.what) for line in log_of(box)] == [(1, "work"), (2, "work"), (2, None)]
    assert faults(log_of(box)) == []


def a_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path, other: Path) -> None:
    path.symlink_to(other)


def a_second_name(path: Path, other: Path) -> None:
    path.hardlink_to(other)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A file of somebody else."""
    path = tmp_path / "other"
    path.write_text("1")
    return path


OWNER = 12345 if os.geteuid() == 0 else None


def is_as_it_was(other: Path) -> bool:
    return (other.read_text(), other.stat().st_uid) == ("1", os.geteuid())


@pytest.mark.parametrize("plant", [a_pipe, a_link, a_second_name])
async def test_a_service_writes_its_log_into_nothing_that_was_planted(box: Path, other: Path, plant: Plant) -> None:
    (box / DIRECTORY).mkdir()
    plant(box / DIRECTORY / WRITERS, other)
    with passing(box, OWNER, 1, "write_file"):
        (box / "done").touch()
    assert (box / "done").exists()
    assert is_as_it_was(other)


async def test_a_service_writes_its_log_into_no_pipe_that_somebody_reads(box: Path) -> None:
    (box / DIRECTORY).mkdir()
    os.mkfifo(box / DIRECTORY / WRITERS)
    reader = os.open(box / DIRECTORY / WRITERS, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with passing(box, OWNER, 1, "write_file"):
            pass
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["lock", "fence"])
@pytest.mark.parametrize("plant", [a_pipe, a_second_name])
async def test_a_service_locks_and_numbers_nothing_that_was_planted(
    box: Path, other: Path, plant: Plant, name: str
) -> None:
    (box / DIRECTORY).mkdir()
    plant(box / DIRECTORY / name, other)
    with pytest.raises(ServiceError) as caught, passing(box, OWNER, 7):
        (box / "done").touch()
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE
    assert not (box / "done").exists()
    assert is_as_it_was(other)


@pytest.mark.skipif(OWNER is None, reason="only root can give files away")
async def test_a_number_that_is_none_lets_nobody_pass(box: Path) -> None:
    (box / ".crossfade").mkdir()
    (box / ".crossfade" / "fence").write_text("seven\n")
    with pytest.raises(ServiceError) as caught, passing(box, None, 8):
        pass
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE


async def test_what_a_killed_service_made_and_had_not_given_away_is_given_away_by_the_next(box: Path) -> None:
    (box / DIRECTORY).mkdir()
    names = ["fence", "lock", WRITERS]
    for name in names:
        (box / DIRECTORY / name).touch()
    with passing(box, OWNER, 1, "write_file"):
        pass
    assert {path.stat().st_uid for path in [box / DIRECTORY, *(box / DIRECTORY).iterdir()]} == {OWNER}
    assert names_in(box / DIRECTORY) == names


async def test_a_guard_whose_log_is_a_pipe_keeps_nobody_from_work(box: Path) -> None:
    (box / DIRECTORY).mkdir()
    os.mkfifo(box / DIRECTORY / WRITERS)
    async with asyncio.timeout(20):
        assert (await run(box, "exit 7", is_logged=True)).code == 7


@logged
@pytest.mark.parametrize("name", ["lock", "fence", "fence.new"])
async def test_a_guard_waits_for_nobody_at_a_pipe(box: Path, name: str, is_logged: bool) -> None:
    (box / DIRECTORY).mkdir()
    os.mkfifo(box / DIRECTORY / name)
    async with asyncio.timeout(20):
        with pytest.raises(ServiceError) as caught:
            check_guard(await run(box, f"touch {box}/done", is_logged=is_logged))
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE
    assert not (box / "done").exists()


# --- the services --------------------------------------------------------------------------------------------------


@dataclass
class Logging:
    """A service that keeps the log, whose sandboxes lie below a directory."""

    service: Service
    root: Path

    @property
    def lines(self) -> list[Line]:
        """Of the one workspace in which something was written."""
        [log] = self.root.glob(f"**/{DIRECTORY}/{WRITERS}")
        return read_log(log)


@asynccontextmanager
async def service_with_log(
    provider: str, tmp_path: Path, redis: RedisProcess, env: dict[str, str]
) -> AsyncIterator[Logging]:
    async with AsyncExitStack() as stack:
        home = stack.enter_context(sandbox_home())
        place = stack.enter_context(running_fake_e2b(home / "e2b")).env if provider == "e2b" else {}
        start = Start({**place, **ON, **env, "CROSSFADE_REDIS_URL": redis.url}, local_remotes=[tmp_path])
        yield Logging(
            await stack.enter_async_context(started_service("approach2", tmp_path / "data", home, start)), home
        )


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    with running_redis() as server:
        yield server


on_both = pytest.mark.parametrize("provider", ["local", "e2b"])


@on_both
async def test_operations_are_in_the_log_of_their_workspace(provider: str, tmp_path: Path, redis: RedisProcess) -> None:
    bare = bare_repository(tmp_path)
    async with (
        service_with_log(provider, tmp_path, redis, {}) as logging,
        agent_on("rest", logging.service.url) as agent,
    ):
        await ok(agent, "git.clone", url=str(bare))
        await ok(agent, "file.write", path="a", content="1")
        await ok(agent, "file.delete", path="run.sh")
        await ok(agent, "git.add", files=["."])
        await ok(agent, "git.commit", message="both")
        lines = logging.lines
        assert faults(lines) == []
        said = [line.what for line in lines]
        assert said.count(None) == len(said) / 2
        assert {"clone", "settle_clone", "write_file", "delete_file", "add", "commit", "remove_stale_locks"} <= {*said}
        assert len({line.fence for line in lines}) == 5
        # A read is under no fence.
        await ok(agent, "git.status")
        await ok(agent, "file.read", path="a")
        assert logging.lines == lines


@on_both
async def test_a_command_that_is_killed_at_its_deadline_has_no_end(
    provider: str, tmp_path: Path, redis: RedisProcess
) -> None:
    bare = bare_repository(tmp_path)
    env = {"CROSSFADE_LONGEST_OPERATION_S": "5", "CROSSFADE_ALLOWED_REMOTES": "127.0.0.1"}
    with git_over_http(tmp_path) as remote:
        async with (
            service_with_log(provider, tmp_path, redis, env) as logging,
            agent_on("rest", logging.service.url) as agent,
        ):
            await ok(agent, "git.clone", url=str(bare))
            cloning = asyncio.create_task(agent.call("git.clone", url=f"{remote.url}/hang/project.git"))
            await until(remote.arrived.is_set, "git asks the remote")
            assert (await cloning).code == "deadline"
            await ok(agent, "file.write", path="a", content="1")
            lines = logging.lines
            assert faults(lines) == []
            hung = [line.writer for line in lines if line.what == "clone"][-1]
            assert [line.what for line in lines if line.writer == hung] == ["clone"]
            assert lines[-1].what is None
