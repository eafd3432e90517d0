"""Every test of this folder runs on both lanes, but for the one that compares them."""

from __future__ import annotations

from tests.integration.edge.conftest import lane, plane, sides

__all__ = ["lane", "plane", "sides"]
