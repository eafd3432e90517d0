"""TLS to a side: verified, against the side's own authority where it has one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import ErrorCode, Instance, Side, SideDefinition
from gateway.errors import Phase, UpstreamError
from gateway.ports import StreamedBody
from gateway.upstream import SideUpstream
from tests.integration.upstream.harness import fetch, post, side_of
from tests.support.certificates import make_authority
from tests.support.raw_upstream import answer


@contextlib.asynccontextmanager
async def tls_echo(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Answers every request with its body, of declared length; yields the port."""
    sessions: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        sessions.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                writer.write(answer(await reader.readexactly(length)))
                await writer.drain()
        writer.transport.abort()
        sessions.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for session in tuple(sessions):
            session.cancel()
        if sessions:
            await asyncio.wait(tuple(sessions))


def tls(host: str, port: int) -> Instance:
    return Instance(f"https://{host}:{port}", host, port, tls=True)


async def test_a_side_with_its_own_authority_is_reached_and_its_connection_kept(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    authority = make_authority(tmp_path, "127.0.0.1")
    async with (
        tls_echo(authority.server) as port,
        side_of(tls("127.0.0.1", port), ca_file=str(authority.ca_file)) as side,
    ):
        assert [await fetch(side, post(body)) for body in (b"one", b"two")] == [b"one", b"two"]
        assert await fetch(side, post(StreamedBody(4 << 20, chunks()))) == b"x" * (4 << 20)
        assert side.stats().idle == 1
        assert side.stats().drops == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "other.test"], ids=["unknown-authority", "other-name"])
async def test_a_certificate_that_does_not_verify_is_a_refusal(host: str, tmp_path: Path) -> None:
    authority = make_authority(tmp_path, host)
    ca_file = str(authority.ca_file) if host == "other.test" else None
    async with tls_echo(authority.server) as port, side_of(tls("127.0.0.1", port), ca_file=ca_file) as side:
        with pytest.raises(UpstreamError) as caught:
            await fetch(side, post(b"secret"))
        assert (caught.value.code, caught.value.phase) == (ErrorCode.UPSTREAM_REFUSED, Phase.CONNECT)
        assert not caught.value.sent
        assert "certificate" in caught.value.detail.lower()


async def test_a_side_that_does_not_speak_tls_is_a_refusal(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer(b"plain"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, side_of(tls("127.0.0.1", server.sockets[0].getsockname()[1])) as side:
        with pytest.raises(UpstreamError) as caught:
            await fetch(side)
        assert caught.value.code is ErrorCode.UPSTREAM_REFUSED
        assert not caught.value.sent


async def test_an_authority_that_cannot_be_read_is_an_error_at_once(tmp_path: Path) -> None:
    definition = SideDefinition(Side.OLD, (tls("127.0.0.1", 1),), ca_file=str(tmp_path / "missing.pem"))
    with pytest.raises(OSError, match=r"No such file"):
        SideUpstream(definition)
