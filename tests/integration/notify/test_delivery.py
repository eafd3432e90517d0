"""Real targets: raw sockets that misbehave, and real programs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
from pathlib import Path

import pytest

from gateway.core.notice import Notice, NoticeKind, NoticeTarget, TargetKind
from gateway.notify import delivery
from gateway.notify.delivery import NotDeliveredError, deliver
from tests.support.raw_upstream import Peer, RawRequest, RawUpstream, answer
from tests.support.waiting import until

NOTICE = Notice("7-0", NoticeKind.TRIP, "git", "now", "all", "detector:gateway-0", "errors: 9 of 10", {"id": "t1"})


def webhook(tmp_path: Path, server: RawUpstream, kind: TargetKind = TargetKind.WEBHOOK) -> NoticeTarget:
    url, secret = tmp_path / "url", tmp_path / "secret"
    url.write_text(f"http://127.0.0.1:{server.port}/canary?token=canary\n")
    secret.write_text("s" * 20)
    return NoticeTarget(kind, str(url), str(secret) if kind is TargetKind.WEBHOOK else None)


async def test_a_webhook_gets_the_document_signed(tmp_path: Path) -> None:
    seen: list[RawRequest] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.receive_request())
        await peer.send(answer(b"x" * 100_000))

    async with RawUpstream(script) as server:
        await deliver(webhook(tmp_path, server), NOTICE, lambda: 1700000000.5)
    (request,) = seen
    assert request.line == b"POST /canary?token=canary HTTP/1.1"
    document = json.loads(request.body)
    assert (document["id"], document["kind"], document["evidence"]) == ("7-0", "trip", {"id": "t1"})
    wanted = hmac.new(b"s" * 20, b"1700000000." + request.body, hashlib.sha256).hexdigest()
    assert request.field(b"crossfade-signature") == [f"t=1700000000,v1={wanted}".encode()]


async def test_slack_gets_words_alone(tmp_path: Path) -> None:
    seen: list[RawRequest] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.receive_request())
        await peer.send(answer(b"ok"))

    async with RawUpstream(script) as server:
        await deliver(webhook(tmp_path, server, TargetKind.SLACK), NOTICE)
    assert json.loads(seen[0].body) == {"text": NOTICE.text()}


@pytest.mark.parametrize(
    ("response", "said", "is_final", "retry_after_s"),
    [
        (answer(b"", status=b"500 x"), "it answered 500", False, None),
        (answer(b"", b"retry-after: 7", status=b"429 x"), "it answered 429", False, 7.0),
        (answer(b"", b"retry-after: 999999", status=b"503 x"), "it answered 503", False, 300.0),
        (answer(b"", b"retry-after: soon", status=b"503 x"), "it answered 503", False, None),
        (answer(b"", status=b"404 x"), "it answered 404", True, None),
        (answer(b"", b"location: http://127.0.0.1:1/", status=b"302 x"), "it answered 302", True, None),
        (b"nonsense\r\n\r\n", "could not be asked", False, None),
        (b"", "could not be asked", False, None),
    ],
)
async def test_what_is_not_taken_is_told_without_the_url(
    tmp_path: Path, response: bytes, said: str, is_final: bool, retry_after_s: float | None
) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(response)

    async with RawUpstream(script) as server:
        with pytest.raises(NotDeliveredError, match=said) as caught:
            await deliver(webhook(tmp_path, server), NOTICE)
    error = caught.value
    assert (error.is_final, error.retry_after_s) == (is_final, retry_after_s)
    assert "canary" not in f"{error!r} {error.__cause__} {error}"
    assert error.__suppress_context__ or error.__context__ is None


async def test_one_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "ATTEMPT_S", 0.05)

    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.receive()

    async with RawUpstream(script) as server:
        with pytest.raises(NotDeliveredError, match="could not be asked"):
            await deliver(webhook(tmp_path, server), NOTICE)


@pytest.mark.parametrize("content", [None, "", "no url", "http://[", "ftp://127.0.0.1/x", "http://127.0.0.1:1/\x01"])
async def test_a_url_that_is_none_is_told_without_it(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_text(content)
    with pytest.raises(NotDeliveredError) as caught:
        await deliver(NoticeTarget(TargetKind.SLACK, str(file)), NOTICE)
    assert not content or content not in str(caught.value)


def program(tmp_path: Path, text: str) -> NoticeTarget:
    file = tmp_path / "program.py"
    file.write_text(text)
    return NoticeTarget(TargetKind.COMMAND, argv=(sys.executable, str(file), str(tmp_path / "out")))


async def test_a_program_gets_the_document_and_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFADE_INTERNAL_TOKEN", "canary")
    text = "import json, os, sys\nopen(sys.argv[1], 'w').write(json.dumps([json.load(sys.stdin), dict(os.environ)]))"
    await deliver(program(tmp_path, text), NOTICE)
    document, environment = json.loads((tmp_path / "out").read_text())
    assert document == json.loads(json.dumps(NOTICE.document()))
    assert "canary" not in json.dumps(environment)


async def test_a_program_that_fails_or_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotDeliveredError, match="ended with 3"):
        await deliver(program(tmp_path, "raise SystemExit(3)"), NOTICE)
    with pytest.raises(NotDeliveredError, match="cannot be run"):
        await deliver(NoticeTarget(TargetKind.COMMAND, argv=(str(tmp_path / "none"),)), NOTICE)


@pytest.mark.parametrize("how", ["late", "cancelled"])
async def test_a_program_that_does_not_end_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    out = tmp_path / "out"
    text = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(sys.argv[1] + '.new', 'w').write(str(child.pid))\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "time.sleep(600)\n"
    )
    if how == "late":
        monkeypatch.setattr(delivery, "COMMAND_S", 3.0)
    telling = asyncio.create_task(deliver(program(tmp_path, text), NOTICE))
    await until(out.exists)
    if how == "cancelled":
        telling.cancel()
    with pytest.raises((NotDeliveredError, asyncio.CancelledError)):
        await telling
    child = Path(f"/proc/{out.read_text()}/stat")
    await until(lambda: not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z", "it is gone")
