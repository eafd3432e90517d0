"""A worker promises its listener no more connections than it has descriptors for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys
from gateway.settings.gateway_file import GatewaySettings
from gateway.worker import fitted
soft, hard, connections = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
few = {"upstream": {"connections": 10}, "shadow": {"concurrency": 10}}
settings = GatewaySettings.model_validate({"edge": {"connections": connections}, **few})
found = fitted(settings).edge.connections
print(json.dumps([found, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "connections", "limit"),
    [
        (256, 1024, 100, 100, 268),
        (256, 1024, 500, 500, 668),
        (256, 1024, 5000, 856, 1024),
        (100, 100, 5000, 1, 100),
    ],
)
def test_the_limit_is_raised_and_where_it_cannot_be_the_bound_is_lowered(
    soft: int, hard: int, wanted: int, connections: int, limit: int
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(soft), str(hard), str(wanted)]
    said = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True).stdout
    assert json.loads(said.splitlines()[-1]) == [connections, limit]
