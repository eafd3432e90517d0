"""The E2B provider from the environment of a service."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

from backends.common.e2b_provider import E2BProvider, E2BSettings

_LIFE_S: Final = 1800


def e2b_provider(name: str, env: MutableMapping[str, str], *, is_logged: bool = False) -> E2BProvider:
    """Reads the environment, and removes the key from it.

    `E2B_API_KEY[_FILE]`, `E2B_API_URL`, `E2B_SANDBOX_URL`, `CROSSFADE_E2B_TEMPLATE`, `CROSSFADE_E2B_LIFE_S`,
    `CROSSFADE_E2B_NETWORK` (JSON), `CROSSFADE_E2B_OWNER`.

    Args:
        name: Of the service.
        env: The environment.
        is_logged: Who writes, says so in the sandbox (`fencing`).

    Raises:
        ValueError: Something is missing or wrong.
        OSError: The file of the key cannot be read.
    """
    key, file = env.pop("E2B_API_KEY", ""), env.pop("E2B_API_KEY_FILE", "")
    if not key and file:
        key = Path(file).read_text().strip()
    if not key:
        raise ValueError("CROSSFADE_SANDBOX_PROVIDER=e2b needs E2B_API_KEY or E2B_API_KEY_FILE")
    return E2BProvider(
        E2BSettings(
            service=name,
            owner=env.get("CROSSFADE_E2B_OWNER") or None,
            api_key=key,
            template=env.get("CROSSFADE_E2B_TEMPLATE") or None,
            life_s=_life_s(env.get("CROSSFADE_E2B_LIFE_S")),
            api_url=env.get("E2B_API_URL") or None,
            sandbox_url=env.get("E2B_SANDBOX_URL") or None,
            network=_network(env.get("CROSSFADE_E2B_NETWORK")),
            is_logged=is_logged,
        )
    )


def _life_s(text: str | None) -> int:
    if not text:
        return _LIFE_S
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise ValueError(f"CROSSFADE_E2B_LIFE_S={text} is no number of seconds above 0")
    return int(text)


def _network(text: str | None) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        # Not shown: it may name secrets.
        raise ValueError("CROSSFADE_E2B_NETWORK is no JSON object")  # noqa: TRY004 - of the operator's making
    return content
