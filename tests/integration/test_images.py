"""The image and the compose file, as far as they go without an engine.

Every `RUN` of the build stage runs in a clean directory, with the image's paths put below it; then every service of the
compose file that runs the image is started by its own command and environment, with the names of other services
replaced by addresses of this machine, and is asked by its own health check.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from tests.support.postgres_process import running_postgres
from tests.support.redis_process import running_redis
from tests.support.services import sandbox_home
from tests.support.waiting import until, until_async

ROOT = Path(__file__).parents[2]
SECRETS = {"internal_token": "token-of-compose", "database_password": "password-of-compose"}
_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|API_KEY|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True)
class Instruction:
    """A line of a Dockerfile, continued lines joined."""

    name: str
    text: str


def stages() -> list[list[Instruction]]:
    """The stages of the Dockerfile, each from its FROM on."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[list[Instruction]] = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, text = line.strip().partition(" ")
            if name == "FROM":
                found.append([])
            found[-1].append(Instruction(name, text.strip()))
    return found


def of(stage: list[Instruction], name: str) -> list[str]:
    return [instruction.text for instruction in stage if instruction.name == name]


# --- what the files say --------------------------------------------------------------------------------------------


def test_the_image_is_slim_without_privileges_and_without_secrets() -> None:
    build, final = stages()
    assert [of(stage, "FROM")[0].split()[0] for stage in (build, final)] == ["python:3.12-slim"] * 2
    assert of(final, "USER") == ["crossfade"]
    assert len(of(final, "HEALTHCHECK")) == 1
    assert json.loads(of(final, "ENTRYPOINT")[0]) == ["crossfade"]
    # What a layer keeps is of the build stage's virtual environment alone.
    assert of(final, "COPY") == ["--from=build /opt/crossfade /opt/crossfade"]
    for stage in (build, final):
        assert of(stage, "ARG") == []
        assert not any(_SECRET_NAME.search(text) for text in of(stage, "ENV"))
        assert of(stage, "ADD") == []


def test_what_is_copied_into_the_build_is_let_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for text in of(stages()[0], "COPY") for source in text.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)


def compose() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())
    return content


def ours() -> dict[str, Any]:
    """The services that run the image."""
    return {name: service for name, service in compose()["services"].items() if "build" in service}


def test_every_role_runs_and_only_the_gateway_is_published() -> None:
    content = compose()
    assert set(ours()) == {"approach1", "approach2", "control", "gateway"}
    assert ours()["approach2"]["deploy"]["replicas"] == 2
    assert ours()["gateway"]["environment"]["CROSSFADE_WORKERS"] == "2"
    assert [name for name, service in content["services"].items() if "ports" in service] == ["gateway"]
    for service in content["services"].values():
        assert set(service.get("depends_on", [])) <= set(content["services"])
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in content["volumes"]
        assert "restart" in service
        # What is waited for to be healthy says when it is; of ours, each has a check of its own or the image's.
        for dependency, how in dict.items(service["depends_on"] if isinstance(service.get("depends_on"), dict) else {}):
            assert how["condition"] == "service_healthy"
            assert "healthcheck" in content["services"][dependency] or "build" in content["services"][dependency]
    assert re.search(r"--appendonly.*yes", str(content["services"]["redis"]["command"]))


def test_secrets_are_files_of_the_containers_that_need_them_alone() -> None:
    content = compose()
    assert content["secrets"].keys() == SECRETS.keys()
    assert all(secret.keys() == {"environment"} for secret in content["secrets"].values())
    for service in content["services"].values():
        for name, value in service.get("environment", {}).items():
            assert "password@" not in str(value)
            if _SECRET_NAME.search(name):
                assert name.endswith("_FILE")
                assert Path(value).parent == Path("/run/secrets")
                assert Path(value).name in service["secrets"]


# --- the build -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the build stage makes: the directory that is `/opt/crossfade` in the image."""
    with sandbox_home() as home:
        paths = {"/opt/crossfade": str(home / "opt" / "crossfade"), "/src": str(home / "src")}
        cwd = home
        for step in stages()[0]:
            text = replaced(step.text, paths)
            if step.name == "WORKDIR":
                cwd = Path(text)
                cwd.mkdir(parents=True)
            elif step.name == "COPY":
                *sources, target = text.split()
                for source in sources:
                    copy(ROOT / source, cwd / target if len(sources) == 1 else cwd / target / Path(source).name)
            elif step.name == "RUN":
                run_step(text.replace("python -m venv", f"{sys.executable} -m venv"), cwd, home)
        yield home / "opt" / "crossfade"


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def run_step(command: str, cwd: Path, home: Path) -> None:
    # Whatever finds a package index for the machine; the rest of the test's environment is not the image's.
    env = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "proxy" in name.lower()}
    env |= {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", str(home))}
    # The cache that the image has no use for spares this machine the downloads.
    command = command.replace("--no-cache-dir ", "")
    done = subprocess.run(["sh", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def replaced(text: str, replacements: Mapping[str, str]) -> str:
    for before, after in replacements.items():
        text = text.replace(before, after)
    return text


# --- the services --------------------------------------------------------------------------------------------------


@dataclass
class Container:
    """A service of the compose file, and this machine in place of the engine's network and file system.

    Attributes:
        name: Of the service.
        image: What the build made.
        home: Its working directory.
        elsewhere: What stands for names of services, ports and paths.
        ports: Settings of the ports that are the image's defaults.
    """

    name: str
    image: Path
    home: Path
    elsewhere: dict[str, str]
    ports: dict[str, str]

    def of(self, value: object) -> str:
        """A value of the files as it is here."""
        return replaced(str(value), self.elsewhere)

    @contextmanager
    def running(self, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Its command, with its environment and no other."""
        service = ours()[self.name]
        program, *arguments = json.loads(of(stages()[1], "ENTRYPOINT")[0]) + service["command"]
        path = f"{self.image / 'bin'}{os.pathsep}{os.environ['PATH']}"
        declared = {name: self.of(value) for name, value in service["environment"].items()}
        self.home.mkdir(exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.image / "bin" / program, *map(self.of, arguments)],
                cwd=self.home,
                env={"PATH": path, "CROSSFADE_SANDBOX_ROOT": str(self.home / "sandboxes"), **self.ports, **declared},
                stdout=output,
                stderr=output,
            )
        try:
            yield process
            process.terminate()
            assert process.wait(30) == 0, tail(log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    async def is_healthy(self) -> bool:
        """By the service's own check, else by the image's."""
        declared = ours()[self.name].get("healthcheck", {"test": None})["test"]
        check = declared[1:] if declared else shlex.split(of(stages()[1], "HEALTHCHECK")[0].partition("CMD")[2])
        program, *arguments = map(self.of, check)
        process = await asyncio.create_subprocess_exec(
            self.image / "bin" / program, *arguments, stderr=asyncio.subprocess.DEVNULL
        )
        return await process.wait() == 0


def tail(log: Path) -> str:
    return log.read_text()[-2000:]


def free_ports(count: int) -> list[int]:
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


async def test_every_service_starts_by_its_command_and_is_healthy(image: Path, tmp_path: Path) -> None:
    """In the order of the file, with a database that is not there yet, as on a fresh volume."""
    redis, old, new, other_new, data, control, ops, other_ops, database = map(str, free_ports(9))
    async with AsyncExitStack() as stack:
        home = stack.enter_context(sandbox_home())
        for name, value in SECRETS.items():
            (home / name).write_text(value)
        stack.enter_context(running_redis("--port", redis))
        elsewhere = {
            "postgresql://crossfade@postgres/": f"postgresql://tester@127.0.0.1:{database}/",
            "redis:6379": f"127.0.0.1:{redis}",
            "approach1:9001": f"127.0.0.1:{old}",
            "approach2:9002": f"127.0.0.1:{new}",
            "9001": old,
            "8081": control,
            "8082": ops,
            "0.0.0.0": "127.0.0.1",
            "/config/": f"{home}/",
            "/run/secrets/": f"{home}/",
        }
        migration = (ROOT / "config" / "compose" / "migration.yaml").read_text()
        (home / "migration.yaml").write_text(replaced(migration, {**elsewhere, "9002": new}))
        started: dict[str, list[tuple[Container, subprocess.Popen[bytes], Path]]] = {}

        def start(name: str, **more: str) -> None:
            ports = {
                "CROSSFADE_PORT": data,
                "CROSSFADE_CONTROL_PORT": control,
                "CROSSFADE_OPS_PORT": ops if name == "gateway" else other_ops,
            }
            here = {**elsewhere, **more, "/var/lib/crossfade": str(home / name)}
            container = Container(name, image, home / name, here, ports)
            log = tmp_path / f"{name}-{len(started.get(name, []))}.log"
            started.setdefault(name, []).append((container, stack.enter_context(container.running(log)), log))

        async def are_healthy(name: str) -> bool:
            for container, process, log in started[name]:
                assert process.poll() is None, tail(log)
                if not await container.is_healthy():
                    return False
            return True

        for name in in_order():
            if name == "approach2":
                for port in (new, other_new):
                    start(name, **{"9002": port})
                for _, _, log in started[name]:
                    await until(partial(says, log, "database_not_there"), "it waits", limit_s=90)
                stack.enter_context(running_postgres(int(database))).new_database("approach2")
            else:
                start(name)
            await until_async(partial(are_healthy, name), f"{name} is healthy", limit_s=90)
        async with httpx.AsyncClient(timeout=60) as client:
            for port in (old, new, other_new):

                async def is_ready(port: str = port) -> bool:
                    return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200

                await until_async(is_ready, "it is ready", limit_s=60)
                await scrape(client, port)
            headers = {"X-Agent-Id": "ada", "X-Task-Id": "t"}

            async def is_answered() -> bool:
                try:
                    answer = await client.post(f"http://127.0.0.1:{data}/v1/git/status", json={}, headers=headers)
                except httpx.ConnectError:
                    # Healthy is whoever lives; the workers may still be starting.
                    return False
                return answer.status_code == 404 and answer.json()["code"] == "unknown_workspace"

            await until_async(is_answered, "approach 1 answers through the gateway", limit_s=60)


def says(log: Path, event: str) -> bool:
    return event in log.read_text()


def in_order() -> list[str]:
    """The services that run the image, each after those that it depends on."""
    services, found = ours(), list[str]()
    while len(found) < len(services):
        ready = [
            name
            for name, service in services.items()
            if name not in found and not set(service.get("depends_on", [])) & services.keys() - set(found)
        ]
        found += ready
    return found


async def scrape(client: httpx.AsyncClient, port: str) -> None:
    """Asks a service for its metrics as Prometheus does, by what its configuration says."""
    address = f"http://127.0.0.1:{port}/metrics"
    assert (await client.get(address)).status_code == 403
    for job in scraped("approach1", "approach2"):
        [(header, how)] = job["http_headers"].items()
        [file] = how["files"]
        answer = await client.get(address, headers={header: SECRETS[Path(file).name]})
        assert answer.status_code == 200
        assert "crossfade_service_operations" in answer.text


def scraped(*names: str) -> list[dict[str, Any]]:
    content = YAML(typ="safe").load((ROOT / "config" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in content["scrape_configs"]}
    return [jobs[name] for name in names]
