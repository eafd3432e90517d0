"""What a service is put together from, by its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.common.serving import surroundings


@pytest.mark.parametrize("provider", ["local", "e2b"])
def test_a_switch_is_true_or_false(provider: str, tmp_path: Path) -> None:
    env = {"CROSSFADE_SANDBOX_PROVIDER": provider, "E2B_API_KEY": "key", "CROSSFADE_SANDBOX_ROOT": str(tmp_path / "s")}
    for text in ("", "true", "false"):
        surroundings("approach1", tmp_path / "data", {**env, "CROSSFADE_SANDBOX_WRITERS_LOG": text})
    with pytest.raises(ValueError, match="CROSSFADE_SANDBOX_WRITERS_LOG=on is none of true, false"):
        surroundings("approach1", tmp_path / "data", {**env, "CROSSFADE_SANDBOX_WRITERS_LOG": "on"})
