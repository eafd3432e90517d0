"""Every test of the upstream client runs on both event loops that the gateway can run on.

Tests that need time to pass ask for the loop `skipping` instead, whose clock they move: no test sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.integration.upstream.harness import SkippingLoop

_BOTH: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    mark = item.get_closest_marker("asyncio")
    if mark is not None and mark.kwargs.get("loop_factories") == ["skipping"]:
        return {"skipping": SkippingLoop}
    return _BOTH
