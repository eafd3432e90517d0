"""Finds the control API and talks to it.

By `--control` or CROSSFADE_CONTROL_URL, else by the `runtime.json` of the data directory. The token comes from a file,
never from the command line, and the token of this machine goes to the control of this machine only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.cli.shown import CommandError, warn
from gateway.local.errors import StartError
from gateway.local.runtime_file import read_runtime

CONTROL_URL: Final = "CROSSFADE_CONTROL_URL"
TOKEN_FILE: Final = "CROSSFADE_TOKEN_FILE"  # noqa: S105 - name of a variable
DATA_DIR: Final = "CROSSFADE_DATA_DIR"
_DEFAULT_DATA_DIR: Final = ".crossfade"
_CONNECT_S: Final = 3.0
_ANSWER_S: Final = 15.0
_LOOPBACK: Final = ("127.", "localhost", "::1")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look for control.

    Attributes:
        control: URL given by the operator, or None.
        token_file: Given by the operator, or None.
        data_dir: Given by the operator, or None.
    """

    control: str | None = None
    token_file: Path | None = None
    data_dir: Path | None = None

    @property
    def directory(self) -> Path:
        """The data directory in question."""
        return self.data_dir or Path(os.environ.get(DATA_DIR) or _DEFAULT_DATA_DIR)

    def runtime(self) -> Document | None:
        """What runs on the data directory, or None."""
        try:
            return read_runtime(self.directory)
        except StartError:
            return None


class Control:
    """The control API.

    Attributes:
        url: Its base.
        place: Where it was looked for.
        runtime: What runs on the data directory, if control was found by it; else None.
    """

    def __init__(self, place: Place) -> None:
        """Finds it; nothing is sent.

        Raises:
            CommandError: It, or the token, cannot be found.
        """
        self.place = place
        given = place.control or os.environ.get(CONTROL_URL)
        runtime = place.runtime()
        if given is None and (runtime is None or "control" not in runtime):
            raise CommandError("unreachable", _not_running(place, runtime))
        found = "" if runtime is None else str(runtime.get("control", ""))
        self.url = (given or found).rstrip("/")
        is_ours = bool(found) and self.url == found.rstrip("/")
        self.runtime = runtime if is_ours else None
        self._token = _read_token(_token_file(place, self.runtime))
        _check_url(self.url)

    def get(self, path: str, params: Mapping[str, str] | None = None) -> Document:
        """Asks.

        Raises:
            CommandError: Control refuses, or cannot be reached.
        """
        return self.send("GET", path, params=params)

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        epoch: int | None = None,
    ) -> Document:
        """Sends a request.

        Args:
            method: HTTP method.
            path: Below the base; its variable parts quoted.
            body: JSON.
            params: Query.
            epoch: Act only at this epoch.

        Raises:
            CommandError: Control refuses, or cannot be reached.
        """
        # Here, not above: `crossfade --help` has no use for an HTTP client.
        import httpx

        headers = {"Authorization": f"Bearer {self._token}"}
        if epoch is not None:
            headers["If-Match"] = f'"{epoch}"'
        timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
        try:
            # A proxy of the environment must not see the token.
            with httpx.Client(base_url=self.url, timeout=timeout, trust_env=False) as client:
                answer = client.request(method, path, json=body, params=params, headers=headers)
        except UnicodeError as exc:
            raise CommandError("usage", "an argument holds what is no text; write it in UTF-8") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise CommandError("unreachable", self._unreachable(type(exc).__name__)) from exc
        return _document(answer.status_code, answer.content, self.url)

    def _unreachable(self, what: str) -> str:
        lines = [f"control at {self.url} does not answer ({what})", *_ways_to_kill(self.place, self.runtime)]
        return "\n".join(lines)


def _document(status: int, content: bytes, url: str) -> Document:
    import json

    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CommandError("unreachable", f"{url} answered {status} and no JSON; is this Crossfade's control?")
    if status >= 300:
        raise CommandError(str(document.get("code", status)), str(document.get("detail", f"status {status}")), document)
    return document


def _token_file(place: Place, runtime: Document | None) -> Path:
    given = place.token_file or os.environ.get(TOKEN_FILE)
    if given:
        return Path(given)
    if runtime is not None and "token_file" in runtime:
        return Path(runtime["token_file"])
    raise CommandError("token_required", f"no token; name its file with --token-file or {TOKEN_FILE}")


def _read_token(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                warn(f"warning: {path} holds a token and is open to others; chmod 600 {path}")
            token = file.read(4096).strip()
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it holds no token"
        raise CommandError("token_required", f"{path} cannot be read: {why}") from exc
    if not token or not token.isprintable():
        raise CommandError("token_required", f"{path} holds no token")
    return token


def _check_url(url: str) -> None:
    parts = None
    with suppress(ValueError):
        parts = urlsplit(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise CommandError("unreachable", f"{url} is no URL of control; write http://host:port")
    if parts.scheme == "http" and not parts.hostname.startswith(_LOOPBACK):
        warn(f"warning: the token travels in the clear to {parts.hostname}")


def _not_running(place: Place, runtime: Document | None) -> str:
    if runtime is not None:
        what = f"crossfade on {place.directory} runs without control; name another with --control"
    else:
        what = (
            f"crossfade does not run on {place.directory}; start it with `crossfade up`, "
            f"or name control with --control or {CONTROL_URL}"
        )
    return "\n".join([what, *_ways_to_kill(place, runtime)])


def _ways_to_kill(place: Place, runtime: Document | None) -> list[str]:
    """How to kill without control, which may be what somebody is trying to do."""
    migration = "MIGRATION" if runtime is None else runtime.get("migration", "MIGRATION")
    redis = "" if runtime is None else str(runtime.get("redis", ""))
    server = f" -s {redis.removeprefix('unix://')}" if redis.startswith("unix://") else ""
    return [
        "to kill without control, on a machine of the gateways:",
        f"  echo all > {place.directory / 'KILL'}",
        f'  redis-cli{server} SET cf:{migration}:kill:all "reason"',
    ]
