"""A data plane on which everything is live at 50 %."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from tests.integration.edge.scene import Edge, edge
from tests.support.sides import StubSide, live, migration, stub_sides


@pytest.fixture
async def sides() -> AsyncIterator[dict[Side, StubSide]]:
    async with stub_sides() as both:
        yield both


@pytest.fixture
async def plane(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Edge]:
    async with edge(tmp_path, sides, live(migration(sides), 50)) as running:
        yield running
