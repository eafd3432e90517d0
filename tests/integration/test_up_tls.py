"""TLS on the data port: spoken by every worker, and a new certificate without a restart."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.support.certificates import make_authority
from tests.support.redis_process import running_redis
from tests.support.sides import Client, StubSide, get, live, migration, stub_sides
from tests.support.up import Up, run_to_end, running_up
from tests.support.waiting import until, until_async
from tests.support.worker import bench


@asynccontextmanager
async def secure_gateway(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Up]:
    content = live(migration(sides), 50)
    chain = str(tmp_path / "server.pem")
    with running_redis() as redis:
        async with bench(tmp_path, redis.url, content) as place:
            await place.boot()
            env = {
                "CROSSFADE_REDIS_URL": redis.url,
                "CROSSFADE_TLS__CERT_FILE": chain,
                "CROSSFADE_TLS__KEY_FILE": chain,
                "CROSSFADE_EDGE__HEADER_TIMEOUT_S": "2",
            }
            async with running_up(tmp_path / "data", content, env=env, command="gateway") as up:
                yield up


@asynccontextmanager
async def secure_client(up: Up, ca_file: Path) -> AsyncIterator[Client]:
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    reader, writer = await asyncio.open_connection("127.0.0.1", up.port("gateway"), ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def is_served(up: Up, ca_file: Path) -> bool:
    """Whether a client that trusts this authority alone is served by all of several connections."""
    for _ in range(8):
        try:
            ssl.get_server_certificate(("127.0.0.1", up.port("gateway")), ca_certs=str(ca_file), timeout=30)
        except ssl.SSLError:
            return False
    return True


async def test_the_data_port_speaks_tls_and_takes_a_new_certificate_without_a_restart(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for directory in (first, second, third):
        directory.mkdir()
    old, new = make_authority(first, "127.0.0.1"), make_authority(second, "127.0.0.1")
    in_force = tmp_path / "server.pem"
    os.link(first / "server.pem", in_force)
    async with stub_sides() as sides, secure_gateway(tmp_path, sides) as up:
        assert up.runtime["gateway"].startswith("https://")
        async with secure_client(up, old.ca_file) as kept:
            assert (await kept.ask(get("/items/1"))).status == 200
            before = up.pids

            # Half a pair: what was in force stays, and the log says why.
            in_force.unlink()
            in_force.write_bytes(b"nonsense")
            up.signal(signal.SIGHUP)
            await until(lambda: up.output.read_text().count("certificate_refused") >= 2, "both workers refuse it")
            assert await asyncio.to_thread(is_served, up, old.ca_file)

            in_force.unlink()
            os.link(second / "server.pem", in_force)
            up.signal(signal.SIGHUP)
            await until_async(lambda: asyncio.to_thread(is_served, up, new.ca_file), "the new certificate is served")
            async with secure_client(up, new.ca_file) as fresh:
                assert (await fresh.ask(get("/items/1"))).status == 200
            assert (await kept.ask(get("/items/1"))).status == 200
            assert up.pids == before
        protos = {field for side in sides.values() for r in side.requests for field in r.field(b"x-forwarded-proto")}
        assert protos == {b"https"}

        # Plain HTTP, silence instead of a handshake: an end, and nobody else is hurt.
        reader, writer = await asyncio.open_connection("127.0.0.1", up.port("gateway"))
        writer.write(get("/items/1"))
        assert not (await reader.read()).startswith(b"HTTP/1.1 2")
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", up.port("gateway"))
        assert await reader.read() == b""
        writer.close()
        async with secure_client(up, new.ca_file) as fresh:
            assert (await fresh.ask(get("/items/1"))).status == 200


def test_a_certificate_that_cannot_be_used_is_named_before_anything_starts(tmp_path: Path) -> None:
    named = {f"CROSSFADE_TLS__{part}": str(tmp_path / "none.pem") for part in ("CERT_FILE", "KEY_FILE")}
    ended = run_to_end(["up", "--data-dir", str(tmp_path / "data")], named)
    assert ended.returncode == 1
    assert "CROSSFADE_TLS__CERT_FILE" in ended.stderr
    assert "No such file" in ended.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("missing", ["cert_file", "key_file"])
def test_a_certificate_needs_its_key_and_a_key_its_certificate(tmp_path: Path, missing: str) -> None:
    given = {"cert_file": "KEY_FILE", "key_file": "CERT_FILE"}[missing]
    ended = run_to_end(
        ["up", "--data-dir", str(tmp_path / "data")], {f"CROSSFADE_TLS__{given}": str(tmp_path / "a.pem")}
    )
    assert ended.returncode == 1
    assert f"tls.{missing} is missing" in ended.stderr
