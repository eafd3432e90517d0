"""One attempt to tell a target. A URL is a secret: it stands in no log, no error and no argument list."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx

from gateway.core.notice import Notice, NoticeTarget, TargetKind
from gateway.errors import CrossfadeError

ATTEMPT_S: Final = 10.0
COMMAND_S: Final = 30.0
_PASSING: Final = frozenset({408, 425, 429})
_CLIENT_ERROR: Final = 400
_SERVER_ERROR: Final = 500
_REDIRECT: Final = 300
_RETRY_AFTER_LIMIT_S: Final = 300.0


class NotDeliveredError(CrossfadeError):
    """A target did not take a notice.

    Attributes:
        is_final: Whether another attempt is pointless.
        retry_after_s: When the target wants to be asked again, or None.
    """

    def __init__(self, why: str, *, is_final: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.is_final = is_final
        self.retry_after_s = retry_after_s


async def deliver(target: NoticeTarget, notice: Notice, unix: Callable[[], float] = time.time) -> None:
    """Tells a target, once.

    Args:
        target: Who.
        notice: What.
        unix: Seconds, for signatures.

    Raises:
        NotDeliveredError: It did not take it.
    """
    match target.kind:
        case TargetKind.COMMAND:
            await _run(target.argv, json.dumps(notice.document()).encode())
        case TargetKind.SLACK:
            await _post(target, json.dumps({"text": notice.text()}).encode(), unix)
        case TargetKind.WEBHOOK:
            await _post(target, json.dumps(notice.document()).encode(), unix)


async def _post(target: NoticeTarget, body: bytes, unix: Callable[[], float]) -> None:
    assert target.url_file is not None
    url = await asyncio.to_thread(_secret, target.url_file)
    headers = {"content-type": "application/json", "user-agent": "crossfade"}
    if target.secret_file is not None:
        headers["crossfade-signature"] = sign(await asyncio.to_thread(_secret, target.secret_file), int(unix()), body)
    try:
        async with (
            asyncio.timeout(ATTEMPT_S),
            # Neither redirects nor proxies of the environment: the URL alone says where it goes.
            httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=ATTEMPT_S) as client,
            # Streamed: what the target says is read by nobody.
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            status, retry_after = answer.status_code, answer.headers.get("retry-after", "")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, ValueError) as exc:
        # The kind alone: the texts hold the address.
        raise NotDeliveredError(f"it could not be asked ({type(exc).__name__})") from None
    if status < _REDIRECT:
        return
    is_final = status < _SERVER_ERROR and status not in _PASSING
    wait_s = (
        min(float(retry_after), _RETRY_AFTER_LIMIT_S) if retry_after.isascii() and retry_after.isdecimal() else None
    )
    raise NotDeliveredError(f"it answered {status}", is_final=is_final, retry_after_s=wait_s)


def sign(secret: str, unix: int, body: bytes) -> str:
    """A signature as `Crossfade-Signature` carries it, in both directions."""
    digest = hmac.new(secret.encode(), b"%d.%b" % (unix, body), hashlib.sha256).hexdigest()
    return f"t={unix},v1={digest}"


def _secret(file: str) -> str:
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        raise NotDeliveredError(f"{file} cannot be read ({type(exc).__name__})") from None
    if not text:
        raise NotDeliveredError(f"{file} is empty")
    return text


async def _run(argv: tuple[str, ...], content: bytes) -> None:
    # Nothing of our environment: it may name secrets.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    nowhere = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=nowhere,
            stderr=nowhere,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        raise NotDeliveredError(f"{argv[0]} cannot be run ({type(exc).__name__})") from None
    try:
        async with asyncio.timeout(COMMAND_S):
            await process.communicate(content)
    except TimeoutError:
        raise NotDeliveredError(f"{argv[0]} did not end within {COMMAND_S:g} s") from None
    finally:
        # Also what it left behind in its group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
    if process.returncode:
        raise NotDeliveredError(f"{argv[0]} ended with {process.returncode}")
