"""`crossfade demo`: agents work through a gateway of their own while the share of their workspaces moves."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from gateway.cli.command import shows
from gateway.cli.shown import CommandError, ExitCode, Shown
from gateway.demo.check import Check
from gateway.demo.director import Director, wait_for_runtime
from gateway.demo.repository import DemoError, make_repository

_STOP_S: Final = 30.0


@shows
def demo_command(
    url: Annotated[str | None, typer.Option(help="A repository to copy; else this project's own history.")] = None,
    agents: Annotated[int, typer.Option(min=1, max=100, help="How many agents work.")] = 12,
    tasks: Annotated[int, typer.Option(min=1, max=50, help="How many workspaces each of them has.")] = 4,
) -> Shown:
    """Watch a dozen agents work while shares move."""
    out = Console(stderr=True, highlight=False, soft_wrap=True)
    place = Path(tempfile.mkdtemp(prefix="crossfade-demo-"))
    # Sandboxes of a root service run as users of their own and must reach what lies below.
    place.chmod(0o711)
    for name, mode in (("remotes", 0o755), ("sandboxes", 0o711)):
        (place / name).mkdir(mode=mode)
    try:
        checks = asyncio.run(_perform(place, url, agents, tasks, out))
    except (DemoError, OSError) as exc:
        raise CommandError("failed", str(exc)) from exc
    finally:
        shutil.rmtree(place, ignore_errors=True)
    passed = all(check.held for check in checks)
    content: dict[str, Any] = {
        "passed": passed,
        "checks": [{"claim": check.claim, "held": check.held, "seen": check.seen} for check in checks],
    }
    return Shown(content, lambda screen: _print(screen, checks), ExitCode.OK if passed else ExitCode.FAILED)


async def _perform(place: Path, url: str | None, agents: int, tasks: int, out: Console) -> list[Check]:
    remotes, sandboxes = place / "remotes", place / "sandboxes"
    bare = await asyncio.to_thread(make_repository, remotes, url)
    env = {
        **{name: value for name, value in os.environ.items() if _is_kept(name)},
        "CROSSFADE_ALLOWED_LOCAL_REMOTES": str(remotes),
        "CROSSFADE_SANDBOX_ROOT": str(sandboxes),
        "CROSSFADE_LOG__LEVEL": "warning",
    }
    if "CROSSFADE_REDIS_SERVER" in os.environ:
        env["CROSSFADE_REDIS_SERVER"] = os.environ["CROSSFADE_REDIS_SERVER"]
    command = [sys.executable, "-P", "-m", "gateway.cli.main", "up", "--data-dir", str(place / "data")]
    command += ["--port", "0", "--control-port", "0", "--ops-port", "0"]
    up = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)  # noqa: ASYNC220, S603
    try:
        runtime_file = await wait_for_runtime(place / "data", lambda: up.poll() is None)
        runtime = json.loads(await asyncio.to_thread(runtime_file.read_text))
        out.print(f"crossfade is up: gateway {runtime['gateway']}, control {runtime['control']}")
        return await Director(runtime, bare, agents, tasks, out).run()
    finally:
        up.terminate()
        try:
            await asyncio.to_thread(up.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            up.kill()


def _is_kept(name: str) -> bool:
    """Where sandboxes come from is the operator's choice; all else of a gateway is the demo's own."""
    return (
        not name.startswith("CROSSFADE_") or name.startswith("CROSSFADE_E2B_") or name == "CROSSFADE_SANDBOX_PROVIDER"
    )


def _print(screen: Console, checks: list[Check]) -> None:
    for check in checks:
        screen.print(f"{'ok    ' if check.held else 'FAILED'} {check.claim}: {check.seen}")
    screen.print("the demo passed" if all(check.held for check in checks) else "the demo did not pass")
