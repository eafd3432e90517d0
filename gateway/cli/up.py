"""`crossfade up`, `gateway`, `control` and `restart`: the commands that run or renew parts on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.machine import Wanted, prepare_machine
from gateway.core.model import Definition
from gateway.errors import CrossfadeError
from gateway.local.errors import StartError
from gateway.local.run import Machine, run_machine
from gateway.local.runtime_file import read_runtime
from gateway.settings import SettingsError
from gateway.telemetry.logs import configure_logs

if TYPE_CHECKING:
    import httpx

_FAILED: Final = 1
_DATA_DIR: Final = ".crossfade"
_POLL_S: Final = 0.1
_OPS_TIMEOUT_S: Final = 5.0


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


Migration = Annotated[Path | None, typer.Option("--migration", help="The migration file.", show_default=False)]
Config = Annotated[Path | None, typer.Option("--config", help="The gateway's own file.", show_default=False)]
DataDirectory = Annotated[Path | None, typer.Option("--data-dir", help="Default: .crossfade", show_default=False)]
Port = Annotated[int | None, typer.Option(help="Data port; 0 = a free one. Default: 8080", show_default=False)]
ControlPort = Annotated[int | None, typer.Option(help="Default: 8081", show_default=False)]
OpsPort = Annotated[int | None, typer.Option(help="Default: 8082", show_default=False)]
Workers = Annotated[int | None, typer.Option(help="Gateway processes. Default: 2", show_default=False)]
HostOption = Annotated[
    str | None, typer.Option(help="Address of the data port. Default: 127.0.0.1", show_default=False)
]
ControlHost = Annotated[str | None, typer.Option(help="Address of control. Default: 127.0.0.1", show_default=False)]
InsecureControl = Annotated[
    bool | None, typer.Option("--insecure-control", help="Let control leave this machine without TLS.")
]
Express = Annotated[
    Switch | None, typer.Option(help="The express lane for bounded exchanges. Default: on", show_default=False)
]


def up_command(
    migration: Migration = None,
    port: Port = None,
    control_port: ControlPort = None,
    ops_port: OpsPort = None,
    data_dir: DataDirectory = None,
    workers: Workers = None,
    host: HostOption = None,
    control_host: ControlHost = None,
    insecure_control: InsecureControl = None,
    config: Config = None,
    express: Express = None,
) -> None:
    """Runs everything on this machine: Redis, bundled services, control, gateway workers."""
    overrides = {
        "port": port,
        "control_port": control_port,
        "ops_port": ops_port,
        "data_dir": str(data_dir) if data_dir else None,
        "workers": workers,
        "host": host,
        "control_host": control_host,
        "insecure_control": insecure_control,
        "express": express.value if express else None,
    }
    _run(Wanted(migration=migration, config=config, overrides=overrides))


def gateway_command(
    migration: Migration = None,
    port: Port = None,
    ops_port: OpsPort = None,
    data_dir: DataDirectory = None,
    workers: Workers = None,
    host: HostOption = None,
    config: Config = None,
    express: Express = None,
) -> None:
    """Runs gateway workers alone; Redis, control and the services are elsewhere."""
    overrides = {
        "port": port,
        "ops_port": ops_port,
        "data_dir": str(data_dir) if data_dir else None,
        "workers": workers,
        "host": host,
        "express": express.value if express else None,
    }
    _run(Wanted(control=False, services=False, migration=migration, config=config, overrides=overrides))


def control_command(
    migration: Migration = None,
    control_port: ControlPort = None,
    ops_port: OpsPort = None,
    data_dir: DataDirectory = None,
    control_host: ControlHost = None,
    insecure_control: InsecureControl = None,
    config: Config = None,
) -> None:
    """Runs the control process alone; Redis is elsewhere."""
    overrides = {
        "control_port": control_port,
        "ops_port": ops_port,
        "data_dir": str(data_dir) if data_dir else None,
        "control_host": control_host,
        "insecure_control": insecure_control,
    }
    _run(Wanted(gateway=False, services=False, migration=migration, config=config, overrides=overrides))


def restart_command(
    data_dir: DataDirectory = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Replaces the gateway workers one at a time; no client notices."""
    directory = data_dir or Path(os.environ.get("CROSSFADE_DATA_DIR") or _DATA_DIR)
    try:
        outcome = _roll(directory)
    except StartError as exc:
        outcome = {"state": "failed", "why": str(exc)}
    is_done = outcome["state"] == "done"
    if as_json:
        sys.stdout.write(json.dumps({"restarted": is_done, "why": outcome["why"]}) + "\n")
    if is_done and not as_json:
        sys.stdout.write("every gateway worker was replaced\n")
    if not is_done:
        sys.stderr.write(f"crossfade: {outcome['why']}\n")
        raise typer.Exit(_FAILED)


def _run(wanted: Wanted) -> None:
    begun = time.monotonic()
    configure_logs("info", "console" if sys.stderr.isatty() else "json", part="supervisor")
    try:
        machine, definition = prepare_machine(wanted, os.environ)
        asyncio.run(run_machine(machine, lambda: _announce(machine, definition, time.monotonic() - begun)))
    except (CrossfadeError, SettingsError, FileNotFoundError) as exc:
        sys.stderr.write(f"crossfade: {exc}\n")
        raise typer.Exit(_FAILED) from exc


def _announce(machine: Machine, definition: Definition, seconds: float) -> None:
    """Says where everything is, and what to type next."""
    facts = machine.facts
    said = {
        "gateway": "clients talk to this",
        "control": f"operators; token in {facts.get('token_file')}",
        "ops": "/healthz /readyz /metrics",
        "old": "the old side",
        "new": "the new side",
    }
    lines = [f"crossfade is ready after {seconds:.1f} s; migration {facts['migration']}"]
    lines += [f"  {name:<8} {facts[name]:<28} {what}" for name, what in said.items() if name in facts]
    if "control" in facts:
        group = next(iter(definition.groups), "GROUP")
        where = "" if machine.data_dir.path == Path(_DATA_DIR).absolute() else f" --data-dir {machine.data_dir.path}"
        lines += [
            "next, in another terminal:",
            f"  crossfade status{where}",
            f'  crossfade stage {group} live --reason "first steps"{where}',
            f'  crossfade share {group} 10 --reason "first steps"{where}',
        ]
    sys.stdout.write("\n".join([*lines, "Ctrl-C stops everything.\n"]))
    sys.stdout.flush()


def _send_to_supervisor(runtime: Mapping[str, Any], sign: signal.Signals) -> None:
    pid = int(runtime["pids"]["supervisor"])
    try:
        os.kill(pid, sign)
    except ProcessLookupError as exc:
        raise StartError(f"crossfade (pid {pid}) does not run any more") from exc
    except PermissionError as exc:
        raise StartError(f"crossfade (pid {pid}) belongs to another user") from exc


def _roll(data_dir: Path) -> dict[str, Any]:
    """Has every worker replaced and waits for it; the outcome as /readyz shows it.

    Raises:
        StartError: There is no supervisor, or it does not answer.
    """
    import httpx  # `up` starts sooner without

    runtime = read_runtime(data_dir)
    with httpx.Client(base_url=runtime["ops"], timeout=_OPS_TIMEOUT_S, trust_env=False) as ops:
        try:
            before = _last_roll(ops)
            if before["state"] != "running":
                _send_to_supervisor(runtime, signal.SIGUSR2)
            while (shown := _last_roll(ops)) == before or shown["state"] == "running":
                time.sleep(_POLL_S)
        except (httpx.HTTPError, ValueError, KeyError) as exc:
            raise StartError(f"the supervisor does not answer on {runtime['ops']}: {exc}") from exc
    return shown


def _last_roll(ops: httpx.Client) -> dict[str, Any]:
    shown: dict[str, Any] = ops.get("/readyz").json()["rolling_restart"]
    return shown
