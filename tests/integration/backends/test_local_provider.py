"""Commands of the local provider as processes: their limits, what they see, and that nothing of them outlives them."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from backends.common.child import Limits
from backends.common.errors import Code, ServiceError
from backends.common.git_command import Command
from backends.common.local_provider import LocalProvider
from backends.common.local_sandbox import LocalSandbox
from backends.common.removal import remove_tree
from tests.integration.backends.test_processes import names_in, processes_with
from tests.support.services import sandbox_home
from tests.support.waiting import until

LIMITS = Limits(cpu_s=2, memory_bytes=1 << 30, file_bytes=1 << 20, processes=16)


@pytest.fixture
async def sandbox() -> AsyncIterator[LocalSandbox]:
    with sandbox_home() as home:
        yield await LocalProvider(home / "service", LIMITS).create("sandbox0")


async def run(sandbox: LocalSandbox, script: str, keep_bytes: int = 1 << 16, stdin: bytes = b"") -> tuple[int, str]:
    command = Command(("sh", "-c", script), {"GIVEN": "1"}, stdin, is_outside=True)
    finished = await sandbox.run(command, keep_bytes=keep_bytes)
    return finished.code, finished.stdout.decode()


def a_long_sleep() -> str:
    """A command that no other test has, and that nobody waits for."""
    return f"sleep 1{uuid.uuid4().int % 10**12:012}"


async def test_a_command_has_the_environment_that_it_was_given_and_no_more(sandbox: LocalSandbox) -> None:
    _, said = await run(sandbox, "env")
    names = {line.split("=", 1)[0] for line in said.splitlines()}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "HOME", "LC_ALL", "GIVEN"}


async def test_a_command_ends_with_its_code_or_128_and_its_signal(sandbox: LocalSandbox) -> None:
    assert (await run(sandbox, "exit 7"))[0] == 7
    assert (await run(sandbox, "kill -TERM $$"))[0] == 128 + 15


async def test_a_command_reads_what_it_is_fed_and_may_leave_it(sandbox: LocalSandbox) -> None:
    assert await run(sandbox, "cat", stdin=b"fed") == (0, "fed")
    assert await run(sandbox, "exit 3", stdin=b"x" * (1 << 20)) == (3, "")


async def test_more_than_is_kept_is_read_and_dropped(sandbox: LocalSandbox) -> None:
    command = Command(("sh", "-c", "head -c 5000000 /dev/zero"), is_outside=True)
    finished = await sandbox.run(command, keep_bytes=10)
    assert (finished.code, finished.stdout, finished.truncated) == (0, b"\0" * 10, True)


async def test_limits_are_set(sandbox: LocalSandbox) -> None:
    _, said = await run(sandbox, "ulimit -c; ulimit -t; ulimit -v; ulimit -f; umask")
    assert said.split() == ["0", "2", str((1 << 30) // 1024), str((1 << 20) // 512), "0077"]
    assert (await run(sandbox, "head -c 3000000 /dev/zero > big"))[0] != 0
    assert (await run(sandbox, "while :; do :; done"))[0] == 128 + 9


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give each sandbox a user of its own")
async def test_as_root_a_command_is_a_user_without_groups_or_new_privileges(sandbox: LocalSandbox) -> None:
    _, said = await run(sandbox, "cat /proc/self/status; ulimit -p 2>/dev/null || ulimit -u")
    fields = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    assert sandbox.uid is not None
    assert fields["Uid"].split() == fields["Gid"].split() == [str(sandbox.uid)] * 4
    assert fields["Groups"].strip() == ""
    assert fields["NoNewPrivs"].strip() == "1"
    assert int(fields["CapEff"], 16) == 0
    assert said.split()[-1] == "16"
    # The service's own files, beside the sandbox, are closed to it.
    assert (await run(sandbox, "cat ../meta/sandbox.json"))[0] != 0
    assert (await run(sandbox, "touch ../x || touch ../gitconfig"))[0] != 0
    assert (await run(sandbox, "touch x home/x"))[0] == 0


async def test_what_a_command_leaves_running_ends_with_it(sandbox: LocalSandbox) -> None:
    sleep = a_long_sleep()
    code, _ = await run(sandbox, f"setsid {sleep} >/dev/null 2>&1 & ({sleep} >/dev/null 2>&1 &) & exit 5")
    assert code == 5
    assert processes_with("\0".join(sleep.split())) == []


async def test_a_cancelled_command_has_ended_with_all_it_started(sandbox: LocalSandbox) -> None:
    sleep = a_long_sleep()
    running = asyncio.create_task(run(sandbox, f"trap '' TERM INT HUP; setsid {sleep} & (setsid {sleep} &) ; {sleep}"))
    await until(lambda: len(processes_with("\0".join(sleep.split()))) == 3, "all run")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert processes_with("\0".join(sleep.split())) == []


async def test_a_command_that_is_cancelled_while_it_starts_never_runs_on(sandbox: LocalSandbox) -> None:
    for pauses in range(12):
        sleep = a_long_sleep()
        running = asyncio.create_task(run(sandbox, sleep))
        for _ in range(pauses):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert processes_with(sleep.replace(" ", "\0")) == []
        assert processes_with(sleep) == []


async def test_what_cannot_be_started_is_said(sandbox: LocalSandbox) -> None:
    with pytest.raises(ServiceError) as caught:
        await sandbox.run(Command(("no-such-program",), is_outside=True), keep_bytes=1)
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE


async def test_no_descriptor_is_lost(sandbox: LocalSandbox) -> None:
    await run(sandbox, "true")
    before = descriptors()
    for _ in range(5):
        await run(sandbox, "true")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await run(sandbox, "true")
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_sandboxes_are_found_again_and_destroyed(sandbox: LocalSandbox) -> None:
    with sandbox_home() as home:
        made = await LocalProvider(home / "service").create("sandbox0")
        (home / "service" / ".half-made").mkdir()
        again = LocalProvider(home / "service")
        found = await again.find("sandbox0")
        assert found is not None
        assert (found.name, found.uid, found.has_repository) == ("sandbox0", made.uid, False)
        assert await found.is_healthy()
        assert await again.names() == ["sandbox0"]
        for odd in ("../sandbox0", "", "nothing0", "SANDBOX0"):
            assert await again.find(odd) is None
        await again.destroy("sandbox0")
        assert await again.find("sandbox0") is None
        assert await again.names() == []


async def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        LocalProvider(tmp_path / "link")


async def test_a_cancelled_write_never_lands_after_the_next_one(sandbox: LocalSandbox) -> None:
    tree = await a_repository(sandbox)
    for pauses in range(20):
        writing = asyncio.create_task(sandbox.write_file("file", b"cancelled" * 100_000))
        for _ in range(pauses):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        # Nothing is awaited in between: whatever goes on, goes on in a thread.
        (tree / "file").write_bytes(b"next")
        await sandbox.list_directory("")
        assert (tree / "file").read_bytes() == b"next"


async def test_a_creation_that_is_cancelled_leaves_nothing() -> None:
    with sandbox_home() as home:
        provider = LocalProvider(home / "service")
        for pauses in range(6):
            creating = asyncio.create_task(provider.create("sandbox0"))
            for _ in range(pauses):
                await asyncio.sleep(0)
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)
            if not creating.cancelled():
                await provider.destroy("sandbox0")
            assert [path.name for path in (home / "service").iterdir()] == []
        assert (await provider.create("sandbox0")).is_there()


async def a_repository(sandbox: LocalSandbox) -> Path:
    """What a clone leaves, as far as files go."""
    tree = Path(sandbox.global_config).parent / "box" / "clone-1"
    (tree / ".git").mkdir(parents=True)
    (tree / ".git" / "config").touch()
    await sandbox.settle_clone("clone-1", "https://git.example/a.git")
    return tree


Doing = Callable[[LocalSandbox], Awaitable[object]]

DOINGS: dict[str, Doing] = {
    "run": lambda sandbox: sandbox.run(Command(("true",)), keep_bytes=1),
    "run outside": lambda sandbox: sandbox.run(Command(("true",), is_outside=True), keep_bytes=1),
    "prepare": lambda sandbox: sandbox.prepare(),
    "remove_stale_locks": lambda sandbox: sandbox.remove_stale_locks(),
    "settle_clone": lambda sandbox: sandbox.settle_clone("clone-1", "https://git.example/a.git"),
    "read_file": lambda sandbox: sandbox.read_file("file", 1),
    "write_file": lambda sandbox: sandbox.write_file("file", b"x"),
    "delete_file": lambda sandbox: sandbox.delete_file("file"),
    "list_directory": lambda sandbox: sandbox.list_directory(""),
}


@pytest.mark.parametrize("part", [".", "box"])
@pytest.mark.parametrize("fence", [None, 1])
async def test_whatever_is_done_in_a_sandbox_that_is_gone_fails_for_that(part: str, fence: int | None) -> None:
    with sandbox_home() as home:
        provider = LocalProvider(home / "service")
        made = await provider.create("sandbox0")
        tree = await a_repository(made)
        (tree / "file").touch()
        sandbox = made.fenced(fence)
        remove_tree(home / "service" / "sandbox0" / part)
        for name, do in DOINGS.items():
            with pytest.raises(ServiceError) as caught:
                await do(sandbox)
            assert caught.value.code is Code.SANDBOX_UNAVAILABLE, name
            assert str(home) not in caught.value.message
        # Nothing that was done there has made it anew, and what is left of it is in nobody's way.
        assert not made.is_there()
        assert await provider.find("sandbox0") is None
        again = await provider.create("sandbox0")
        assert (await run(again, "exit 0"))[0] == 0
        assert not again.has_repository
        assert await provider.names() == ["sandbox0"]


@pytest.mark.parametrize("part", [".", "box"])
async def test_a_command_whose_sandbox_goes_away_fails_for_that(part: str) -> None:
    with sandbox_home() as home:
        sandbox = (await LocalProvider(home / "service").create("sandbox0")).fenced(1)
        begun = home / "service" / "sandbox0" / "box" / "begun"
        # As git would: it goes on, and then finds no place for what it writes.
        going_on = "touch begun; while [ -e begun ]; do sleep 0.01; done; echo x >file"
        running = asyncio.create_task(run(sandbox, going_on))
        await until(begun.exists, "it runs")
        remove_tree(home / "service" / "sandbox0" / part)
        with pytest.raises(ServiceError) as caught:
            await running
        assert (caught.value.code, caught.value.message) == (Code.SANDBOX_UNAVAILABLE, "the sandbox is gone")


@pytest.mark.parametrize("content", [b"", b'{"url": "https://git.exa', b"null", b"{}"])
async def test_a_damaged_note_of_a_clone_never_costs_the_clone(content: bytes) -> None:
    with sandbox_home() as home:
        tree = await a_repository(await LocalProvider(home / "service").create("sandbox0"))
        note = tree.parent.parent / "meta" / "clone.json"
        whole = note.read_bytes()
        note.write_bytes(content)
        for _ in range(2):
            again = LocalProvider(home / "service")
            with pytest.raises(ServiceError) as caught:
                await again.find("sandbox0")
            assert caught.value.code is Code.SANDBOX_UNAVAILABLE
        note.write_bytes(whole)
        found = await again.find("sandbox0")
        assert found is not None
        assert found.has_repository
        note.write_bytes(content)
        with pytest.raises(ServiceError):
            await again.find("sandbox0")
        assert (tree / ".git").is_dir()


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_sandbox_whose_notes_are_gone_is_damaged_and_makes_way_for_no_other(is_known: bool) -> None:
    with sandbox_home() as home:
        provider = LocalProvider(home / "service")
        tree = await a_repository(await provider.create("sandbox0"))
        remove_tree(tree.parent.parent / "meta")
        provider = provider if is_known else LocalProvider(home / "service")
        for attempt in (provider.find, provider.create):
            with pytest.raises(ServiceError) as caught:
                await attempt("sandbox0")
            assert caught.value.code is Code.SANDBOX_UNAVAILABLE
            assert (tree / ".git" / "config").exists()
        assert names_in(home / "service") == ["sandbox0"]


async def test_no_sandbox_is_made_in_the_place_of_another() -> None:
    with sandbox_home() as home:
        provider = LocalProvider(home / "service")
        tree = await a_repository(await provider.create("sandbox0"))
        with pytest.raises(ServiceError) as caught:
            await provider.create("sandbox0")
        assert caught.value.code is Code.SANDBOX_UNAVAILABLE
        assert (tree / ".git" / "config").exists()
        assert names_in(home / "service") == ["sandbox0"]


async def test_what_is_left_of_a_sandbox_that_died_is_destroyed_made_anew_or_found_at_the_start() -> None:
    with sandbox_home() as home:
        root = home / "service"
        provider = LocalProvider(root)
        for name in ("destroyed", "made0anew", "forgotten", "living00"):
            await provider.create(name)
        before = claims_in(home)
        for name in ("destroyed", "made0anew", "forgotten"):
            remove_tree(root / name / "box")
        await provider.destroy("destroyed")
        assert not (root / "destroyed").exists()
        again = await provider.create("made0anew")
        # Another instance begins while one is being made.
        (root / ".building-1").mkdir()
        LocalProvider(root, is_shared=True)
        assert names_in(root) == [".building-1", "living00", "made0anew"]
        assert again.is_there()
        assert len(claims_in(home)) == len(before) / 2


def claims_in(home: Path) -> list[str]:
    """Users that are taken, where the service is root."""
    return [name for name in names_in(home / "users") if name.isdecimal()] if os.geteuid() == 0 else []
