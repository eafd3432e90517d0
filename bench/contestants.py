"""Who is measured: proxies that do the same job, each as its users would set it up, on one core.

The job: split GETs by a hash of `X-Key` between two names of one backend, keep connections alive on both ends, tell the
backend the client's address. Crossfade does all it does in production besides: header rules, request ids, counters,
histograms, policy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.load import LARGE_BYTES, SMALL_BYTES
from bench.processes import LOAD_CORE, PROXY_CORE, children_of, free_port, pin, running

_START_S: Final = 60.0

_NGINX: Final = """
{user}worker_processes 1; daemon off; pid {home}/{name}.pid; error_log stderr crit;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; client_body_temp_path {home}/{name}-body;
  proxy_temp_path {home}/{name}-proxy; fastcgi_temp_path {home}/{name}-f; uwsgi_temp_path {home}/{name}-u;
  scgi_temp_path {home}/{name}-s;
  {http}
}}
"""

BACKEND_ADDRESSES: Final = tuple(f"127.0.0.{last}" for last in range(1, 7))
"""Of the one backend: enough to pass for several instances of two sides."""

_USER: Final = "user root; " if os.geteuid() == 0 else ""
"""nginx would give its privileges up, and could not read the directory of the run any more."""

_BACKEND: Final = """
  server {{ {listen} default_type application/json; root {home}/files;
    location /items/small {{ return 200 "{small}"; }}
    location /mcp {{ return 200 "{small}"; }}
    location /items/large {{ return 200 "{large}"; }} }}
"""

_SPLIT: Final = """
  split_clients "$http_x_key" $side {{ 50% new; * old; }}
  upstream old {{ server 127.0.0.1:{backend}; keepalive 512; keepalive_requests 1000000000; }}
  upstream new {{ server localhost:{backend}; keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://$side; {mirror} {fields} }}
    {mirror_location} }}
"""

_FIELDS: Final = (
    'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; '
    "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Request-Id $request_id;"
)

_HAPROXY: Final = """
global
  nbthread 1
  maxconn 20000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind 127.0.0.1:{port}
  option forwardfor
  http-request set-header X-Request-Id %[uuid]
  use_backend new if {{ req.hdr(x-key),crc32(1),mod(100) lt 50 }}
  default_backend old
backend old
  server a 127.0.0.1:{backend}
backend new
  server b 127.0.0.1:{backend}
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that runs.

    Attributes:
        port: Where it listens.
        pids: The processes that do the work.
    """

    port: int
    pids: Sequence[int]


Start = Callable[[Path, int], contextlib.AbstractContextManager[Running]]
"""Starts one in a directory, in front of a backend's port."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do the job.

    Attributes:
        name: For tables.
        start: Starts it.
        needs: Programs or modules, with how to install each.
        is_extra: Only in the full run.
    """

    name: str
    start: Start
    needs: dict[str, str]
    is_extra: bool = False

    def missing(self) -> list[str]:
        """How to install what is not there."""
        return [how for what, how in self.needs.items() if not _is_there(what)]


def _is_there(what: str) -> bool:
    if what.startswith("python:"):
        return importlib.util.find_spec(what.removeprefix("python:")) is not None
    return shutil.which(what) is not None or Path("/usr/sbin", what).exists()


def _program(name: str) -> str:
    return shutil.which(name) or f"/usr/sbin/{name}"


@contextlib.contextmanager
def backend(home: Path) -> Iterator[int]:
    """The service behind all of them: nginx with answers in memory. Gives its port."""
    port = free_port()
    listen = "".join(f"listen {address}:{port} backlog=4096; " for address in BACKEND_ADDRESSES)
    http = _BACKEND.format(listen=listen, home=home, small="x" * SMALL_BYTES, large="x" * 4000)
    # A literal of 64 KiB is too long for nginx's configuration; a file in the page cache is as good.
    files = home / "files" / "items"
    files.mkdir(parents=True, exist_ok=True)
    (files / "large").write_text("x" * LARGE_BYTES)
    http = http.replace(f'return 200 "{"x" * 4000}";', "sendfile on; open_file_cache max=10;")
    config = home / "backend.conf"
    config.write_text(_NGINX.format(user=_USER, home=home, name="backend", http=http))
    with running([_program("nginx"), "-p", str(home), "-c", str(config)], port, LOAD_CORE, home):
        yield port


@contextlib.contextmanager
def _direct(_: Path, backend_port: int) -> Iterator[Running]:
    yield Running(backend_port, ())


def _nginx(*, mirrors: bool) -> Start:
    @contextlib.contextmanager
    def start(home: Path, backend_port: int) -> Iterator[Running]:
        name, port = ("mirror" if mirrors else "split"), free_port()
        http = _SPLIT.format(
            port=port,
            backend=backend_port,
            fields=_FIELDS,
            mirror="mirror /mirror; mirror_request_body off;" if mirrors else "",
            mirror_location=f"location = /mirror {{ internal; proxy_pass http://new$request_uri; {_FIELDS} }}"
            if mirrors
            else "",
        )
        config = home / f"{name}.conf"
        config.write_text(_NGINX.format(user=_USER, home=home, name=name, http=http))
        with running([_program("nginx"), "-p", str(home), "-c", str(config)], port, PROXY_CORE, home) as process:
            yield Running(port, children_of(process.pid))

    return start


@contextlib.contextmanager
def _haproxy(home: Path, backend_port: int) -> Iterator[Running]:
    port = free_port()
    config = home / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, backend=backend_port))
    with running([_program("haproxy"), "-f", str(config), "-db"], port, PROXY_CORE, home) as process:
        yield Running(port, [process.pid])


def crossfade(express: str, content: Callable[[int], dict[str, Any]] | None = None) -> Start:
    """How Crossfade is started.

    Args:
        express: `on` or `off`.
        content: The migration file for a backend's port; `migration`, unless told.
    """

    @contextlib.contextmanager
    def start(home: Path, backend_port: int) -> Iterator[Running]:
        port, data_dir, file = free_port(), Path(tempfile.mkdtemp(dir=home)), home / "migration.yaml"
        file.write_text(json.dumps((content or migration)(backend_port), separators=(",", ":")))
        command = [
            *(str(Path(sys.executable).parent / "crossfade"), "up", "--workers", "1", "--express", express),
            *("--migration", str(file), "--data-dir", str(data_dir), "--port", str(port)),
            *("--control-port", "0", "--ops-port", "0"),
        ]
        with running(command, port, LOAD_CORE, home):
            worker = _worker_pid(data_dir / "runtime.json")
            pin(worker, PROXY_CORE)
            yield Running(port, [worker])

    return start


def _worker_pid(runtime: Path) -> int:
    deadline = time.monotonic() + _START_S
    while not runtime.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("crossfade is not ready")
        time.sleep(0.05)
    pid: int = json.loads(runtime.read_text())["pids"]["gateway-0"]
    return pid


def migration(backend_port: int, operations: int = 10) -> dict[str, Any]:
    """A migration file: one read, live at half, among others that are never asked."""
    item = {"class": "read", "group": "items", "stage": "live", "percent": 50}
    others = {
        f"other.{number}": {**item, "match": {"rest": f"GET /other/{number}/{{id}}"}}
        for number in range(operations - 1)
    }
    return {
        "migration": "bench",
        "mcp": {"path": "/mcp"},
        "sides": {
            "old": {"instances": [f"http://127.0.0.1:{backend_port}"]},
            "new": {"instances": [f"http://localhost:{backend_port}"]},
        },
        "groups": {"items": {"writes": "shared", "key": [["header:x-key"]]}},
        "operations": {"item.get": {**item, "match": {"rest": "GET /items/{id}", "mcp": "item_get"}}, **others},
    }


def _python(module: str) -> Start:
    @contextlib.contextmanager
    def start(home: Path, backend_port: int) -> Iterator[Running]:
        port = free_port()
        command = [sys.executable, "-m", module, str(port), str(backend_port)]
        with running(command, port, PROXY_CORE, home) as process:
            yield Running(port, [process.pid])

    return start


_WEB: Final = {"nginx": "apt-get install nginx-light"}
CONTESTANTS: Final = (
    Contestant("direct", _direct, {}),
    Contestant("nginx split_clients", _nginx(mirrors=False), _WEB),
    Contestant("crossfade, express lane", crossfade("on"), {}),
    Contestant("crossfade, general lane", crossfade("off"), {}),
    Contestant("nginx mirror", _nginx(mirrors=True), _WEB, is_extra=True),
    Contestant("HAProxy", _haproxy, {"haproxy": "apt-get install haproxy"}, is_extra=True),
    Contestant(
        "Starlette + aiohttp",
        _python("bench.gateway_aiohttp"),
        {"python:aiohttp": "pip install aiohttp"},
        is_extra=True,
    ),
    Contestant(
        "Starlette + httpx", _python("bench.gateway_httpx"), {"python:httpx": "pip install httpx"}, is_extra=True
    ),
)
BASELINE: Final = "nginx split_clients"
