"""The lock that keeps a second Redis off a data directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.local.errors import StartError
from gateway.local.redis_lock import wait_for_predecessor


def test_it_is_given_up_with_the_last_descriptor(tmp_path: Path) -> None:
    first = wait_for_predecessor(tmp_path)
    inherited = os.dup(first)
    os.close(first)
    with pytest.raises(StartError, match="Redis of an earlier run"):
        wait_for_predecessor(tmp_path, patience_s=0.0)
    os.close(inherited)
    os.close(wait_for_predecessor(tmp_path, patience_s=0.0))


def test_it_is_private(tmp_path: Path) -> None:
    os.close(wait_for_predecessor(tmp_path))
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
