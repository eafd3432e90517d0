from __future__ import annotations

from pathlib import Path

from gateway.state.tokens import TokenStore
from tests.support.control import Desk, desk_on
from tests.support.redis_process import running_redis
from tests.support.waiting import until, until_async


async def test_a_token_that_was_revoked_elsewhere_loses_its_file_and_stays_away(tmp_path: Path) -> None:
    with running_redis() as redis:
        async with desk_on(redis, tmp_path) as desk:
            await revoke_elsewhere(desk)
            await until(lambda: not (tmp_path / "token").exists(), "the file is gone")
        # What `up` would do at its next start: the file is made anew, and only that one is valid.
        old = desk.tokens["machine"]
        async with desk_on(redis, tmp_path) as desk:
            assert (await desk.ask("GET", "/v1/status", by="machine")).status_code == 200
            desk.tokens["old"] = old
            assert (await desk.ask("GET", "/v1/status", by="old")).status_code == 401


async def revoke_elsewhere(desk: Desk) -> None:
    store = TokenStore(desk.side_client, "git")
    machine = next(info for info in await store.list() if info.name.startswith("up-"))
    await store.revoke(machine.name)


async def test_two_machines_do_not_end_each_others_tokens(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with running_redis() as redis:
        async with desk_on(redis, tmp_path / "one") as one, desk_on(redis, tmp_path / "two") as two:
            for desk in (one, two):
                assert (await desk.ask("GET", "/v1/tokens", by="machine")).status_code == 200
            names = {info.name for info in await TokenStore(one.side_client, "git").list()}
            assert len([name for name in names if name.startswith("up-")]) == 2


async def test_tokens_that_redis_lost_leave_the_machine_with_its_own(desk: Desk) -> None:
    await desk.side_client.delete("cf:git:tokens")

    await until_async(lambda: desk.side_client.hlen("cf:git:tokens"), "the machine's token is back")
    assert (await desk.ask("GET", "/v1/tokens", by="machine")).status_code == 200
    assert (desk.data_dir / "token").exists()
    assert (await desk.ask("GET", "/v1/status", by="approver")).status_code == 401
