"""The control API, as an operator uses it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from gateway.demo.repository import DemoError

GROUP: Final = "workspace"
_REASON: Final = "crossfade demo"


class Operator:
    """The control API, as an operator uses it."""

    def __init__(self, runtime: Mapping[str, Any]) -> None:
        token = Path(runtime["token_file"]).read_text().strip()
        self._http = httpx.AsyncClient(
            base_url=runtime["control"], headers={"authorization": f"Bearer {token}"}, timeout=15.0, trust_env=False
        )

    async def status(self) -> dict[str, Any]:
        """`GET /v1/status`."""
        return await self._ask("GET", "/v1/status")

    async def change_group(self, **fields: object) -> int:
        """Changes the group; returns the epoch."""
        answer = await self._ask("PATCH", f"/v1/groups/{GROUP}", {**fields, "reason": _REASON})
        return int(answer["epoch"])

    async def kill(self) -> int:
        """Kills everything; returns the epoch."""
        return int((await self._ask("POST", "/v1/kills", {"scope": "all", "reason": _REASON}))["epoch"])

    async def comparisons(self, operation: str) -> list[dict[str, Any]]:
        """The differences that are kept of an operation."""
        found: list[dict[str, Any]] = (await self._ask("GET", f"/v1/comparisons?operation={operation}"))["items"]
        return found

    async def not_compared(self, why: str) -> int:
        """Reads of the group that could not be compared, for one reason."""
        items = (await self._ask("GET", "/v1/consistency"))["items"]
        found: list[int] = [item["incomparable"].get(why, 0) for item in items if item["target"] == f"group {GROUP}"]
        return sum(found)

    async def accept_noise(self) -> int:
        """Accepts whatever is proposed; returns how much that was."""
        count = 0
        for item in (await self._ask("GET", "/v1/noise"))["items"]:
            paths = [found["path"] for found in item["proposals"] if found["relax"] and not found["is_held"]]
            if paths:
                await self._ask("PATCH", f"/v1/noise/{item['operation']}", {"accept": paths, "reason": _REASON})
                count += len(paths)
        return count

    async def aclose(self) -> None:
        """Disconnects."""
        await self._http.aclose()

    async def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        answer = await self._http.request(method, path, json=body)
        content: dict[str, Any] = answer.json()
        if answer.is_error:
            raise DemoError(
                f"{method} {path}: {content.get('code')}: {content.get('message') or content.get('detail')}"
            )
        return content
