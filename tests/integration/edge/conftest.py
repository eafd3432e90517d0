"""A data plane on which everything is live at 50 %. Every test of this folder runs on both lanes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.core.model import Side
from gateway.edge.lane_choice import Lane
from tests.integration.edge.scene import EXPRESS, Edge, edge
from tests.support.sides import StubSide, live, migration, stub_sides


@pytest.fixture(params=list(Lane), autouse=True)
def lane(request: pytest.FixtureRequest) -> Iterator[Lane]:
    """Which lane carries bounded exchanges."""
    lane: Lane = request.param
    token = EXPRESS.set(lane is Lane.EXPRESS)
    yield lane
    EXPRESS.reset(token)


@pytest.fixture
async def sides() -> AsyncIterator[dict[Side, StubSide]]:
    async with stub_sides() as both:
        yield both


@pytest.fixture
async def plane(tmp_path: Path, sides: dict[Side, StubSide]) -> AsyncIterator[Edge]:
    async with edge(tmp_path, sides, live(migration(sides), 50)) as running:
        yield running
