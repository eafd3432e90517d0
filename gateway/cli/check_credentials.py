"""`crossfade check-credentials`: whether each side's own credential opens a remote, asked of every instance.

The instances and the internal token are those of this machine: both are found by its data directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.command import DataDirOption, shows
from gateway.cli.connection import Place
from gateway.cli.shown import CommandError, ExitCode, Shown, plain
from gateway.parts import Parts, PartsFileError, read_secret

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

_PATH: Final = "/v1/remotes/check"
_TOKEN: Final = "CROSSFADE_INTERNAL_TOKEN"  # noqa: S105 - name of a variable
_CONNECT_S: Final = 3.0
_ANSWER_S: Final = 120.0
"""A sandbox may have to be made first."""

Document = dict[str, Any]


@shows
def check_credentials_command(
    urls: Annotated[list[str], typer.Argument(help="Remotes, such as https://github.com/you/project.", metavar="URL…")],
    data_dir: DataDirOption = None,
) -> Shown:
    """Ask every instance of both sides to list remotes with its own credential."""
    place = Place(data_dir=data_dir)
    runtime = place.runtime()
    if runtime is None:
        raise CommandError("unreachable", f"crossfade does not run on {place.directory}; start it with `crossfade up`")
    token = _internal_token(place.directory)
    rows = [
        {"side": side, "instance": instance, "url": url, **_ask(instance, url, token)}
        for url in urls
        for side, instances in runtime["instances"].items()
        for instance in instances
    ]
    is_well = all(row["code"] == "ok" for row in rows)
    return Shown({"checks": rows}, lambda out: _print(out, rows), ExitCode.OK if is_well else ExitCode.FAILED)


def _internal_token(directory: Path) -> str:
    try:
        if given := os.environ.get(_TOKEN):
            return given
        file = os.environ.get(f"{_TOKEN}_FILE") or Parts.read(directory / "parts.json").internal_token_file
        secret = read_secret(file)
    except PartsFileError as exc:
        raise CommandError("token_required", str(exc)) from exc
    if secret is None:
        raise CommandError("token_required", f"the services' internal token is not known here; set {_TOKEN}_FILE")
    return secret.decode("latin-1")


def _ask(instance: str, url: str, token: str) -> Document:
    """`{"code", "message", "branches", "credential"}` of one instance."""
    import httpx

    unknown = {"branches": None, "credential": None}
    timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
    try:
        # A proxy of the environment must not see the token.
        with httpx.Client(transport=_transport(instance), timeout=timeout, trust_env=False) as client:
            base = "http://localhost" if instance.startswith("unix:") else instance
            answer = client.post(f"{base}{_PATH}", json={"url": url}, headers={"Crossfade-Auth": token})
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return {"code": "unreachable", "message": f"the instance does not answer ({type(exc).__name__})", **unknown}
    found = _content(answer)
    if answer.status_code == httpx.codes.OK and "branches" in found:
        return {"code": "ok", "message": "", "branches": found["branches"], "credential": found.get("credential")}
    if "code" not in found and answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
        return {"code": "not_offered", "message": f"the instance has no {_PATH}", **unknown}
    code, message = found.get("code") or f"status {answer.status_code}", found.get("message") or "it did not say why"
    return {"code": str(code), "message": str(message), **unknown}


def _transport(instance: str) -> httpx.HTTPTransport | None:
    import httpx

    return httpx.HTTPTransport(uds=instance.removeprefix("unix:")) if instance.startswith("unix:") else None


def _content(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _print(out: Console, rows: list[Document]) -> None:
    from rich.table import Table

    table = Table("side", "instance", "remote", "credential", "outcome", box=None)
    for row in rows:
        sent = {True: "sent", False: "none for this host", None: None}[row["credential"]]
        outcome = f"ok, {row['branches']} branches" if row["code"] == "ok" else f"{row['code']}: {row['message']}"
        table.add_row(*map(plain, (row["side"], row["instance"], row["url"], sent, outcome)))
    out.print(table)
