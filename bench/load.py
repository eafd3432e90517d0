"""What is asked: requests of several shapes, by wrk, and what came of it."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import LOAD_CORE

SMALL_BYTES: Final = 300
LARGE_BYTES: Final = 64 * 1024
_TIMES: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_AGENTS: Final = 997
"""Clients have different keys, so both sides get their share."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of request.

    Attributes:
        name: For tables.
        method: Of the request.
        path: Of the request; the backend answers /small and /large below it.
        headers: Besides the key.
        body: Of the request.
    """

    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: str = ""

    def script(self) -> str:
        """The request for wrk, in Lua."""
        headers = {"Accept": "*/*", "User-Agent": "bench/1.0", **self.headers}
        fields = "".join(f"[{json.dumps(name)}]={json.dumps(value)}," for name, value in headers.items())
        return f"""
local n = 0
local body = {json.dumps(self.body)}
request = function()
  n = n + 1
  local headers = {{{fields}["X-Key"]="agent-" .. (n % {_AGENTS})}}
  return wrk.format("{self.method}", "{self.path}", headers, body ~= "" and body or nil)
end
"""


def _tool_call() -> str:
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "item_get", "arguments": {"text": "x" * 840}},
    }
    return json.dumps(message)


_MCP: Final = {"Content-Type": "application/json"}
GET_SMALL: Final = Shape("GET, 300 B", "GET", "/items/small", {})
GET_LARGE: Final = Shape("GET, 64 KiB", "GET", "/items/large", {})
MCP_HEADER: Final = Shape(
    "MCP tools/call by header, 1 KiB",
    "POST",
    "/mcp",
    {**_MCP, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "item_get"},
    _tool_call(),
)
MCP_BODY: Final = Shape("MCP tools/call by body, 1 KiB", "POST", "/mcp", _MCP, _tool_call())


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk measured.

    Attributes:
        requests: Answered.
        seconds: It took.
        p50_s: Median latency.
        p99_s: Latency that one in a hundred exceeds.
        errors: Lines that tell of errors; empty when all went well.
    """

    requests: int
    seconds: float
    p50_s: float
    p99_s: float
    errors: tuple[str, ...]


def run_wrk(port: int, shape: Shape, connections: int, seconds: int, directory: Path) -> Load:
    """Asks as fast as answers come.

    Raises:
        RuntimeError: wrk failed.
    """
    script = directory / "request.lua"
    script.write_text(shape.script())
    command = [
        *("taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"),
        *("-s", str(script), f"http://127.0.0.1:{port}{shape.path}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    found = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m),", done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"wrk failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    errors = tuple(line.strip() for line in done.stdout.splitlines() if "Non-2xx" in line or "Socket errors" in line)
    return Load(
        int(found[1]),
        float(found[2]) * _TIMES[found[3]],
        _latency(done.stdout, "50%"),
        _latency(done.stdout, "99%"),
        errors,
    )


def _latency(output: str, share: str) -> float:
    found = re.search(rf"^\s+{share}\s+([\d.]+)(us|ms|s|m)\s*$", output, re.MULTILINE)
    return float(found[1]) * _TIMES[found[2]] if found else float("nan")
