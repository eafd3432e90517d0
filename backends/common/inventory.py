"""What a service says of its workspaces to those who keep the two sides equal: a list, and digests over ranges of it.

Versions and times are the service's own; the fingerprint of a workspace is made of what both sides must agree on. Range
digests are free of order (a sum of fingerprints), so each side can keep them as it likes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, Protocol

from backends.common.workspace import WorkspaceId

PAGE: Final = 500
"""Workspaces on a page, unless less is asked for; also the most."""
_MODULUS: Final = 1 << 128
_CREDENTIALS: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class State:
    """What a survey found.

    Attributes:
        branch: The one checked out, or None.
        head: Its commit, or None before the first.
        digest: Over index and files, in hex.
    """

    branch: str | None
    head: str | None
    digest: str


@dataclass(frozen=True)
class Record:
    """One workspace.

    Attributes:
        workspace: Which.
        repository: URL of what was cloned, without credentials.
        version: Grows with every write.
        updated_at: Of the last write; aware.
        state: Of this version; None while it is not surveyed.
    """

    workspace: WorkspaceId
    repository: str
    version: int
    updated_at: datetime
    state: State | None = None

    @cached_property
    def fingerprint(self) -> int:
        """128 bits over what both sides must agree on; 0 while it is not known."""
        if self.state is None:
            return 0
        agreed = [self.repository, self.state.branch, self.state.head, self.state.digest]
        text = f"{self.workspace}\0{json.dumps(agreed, separators=(',', ':'))}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")

    def content(self) -> dict[str, Any]:
        """For JSON."""
        state = self.state
        return {
            "id": str(self.workspace),
            "agent_id": self.workspace.agent_id,
            "task_id": self.workspace.task_id,
            "hash": self.workspace.digest,
            "repository": self.repository,
            "branch": state.branch if state else None,
            "head": state.head if state else None,
            "digest": state.digest if state else None,
            "version": self.version,
            "updated_at": self.updated_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }


@dataclass(frozen=True, slots=True)
class RangeDigest:
    """Of the workspaces whose hash begins with a prefix.

    Attributes:
        prefix: Hex digits.
        count: How many there are.
        total: Sum of their fingerprints, modulo 2^128.
    """

    prefix: str
    count: int
    total: int

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return {"prefix": self.prefix, "count": self.count, "digest": f"{self.total:032x}"}


class Inventory(Protocol):
    """Where records are kept. All methods raise `ServiceError`."""

    async def changed(self, workspace: WorkspaceId, repository: str) -> int:
        """A write has ended, well or not; returns the new version. Its state is not known until it is surveyed."""
        ...

    async def surveyed(self, workspace: WorkspaceId, version: int, state: State) -> None:
        """The state of a version; ignored when there is a newer one."""
        ...

    async def get(self, workspace: WorkspaceId) -> Record | None:
        """One record, or None."""
        ...

    async def page(self, prefix: str, after: str, since: datetime | None, limit: int) -> list[Record]:
        """Records in the order of their hashes.

        Args:
            prefix: Of the hash.
            after: Hash of the last record of the page before; empty for the first.
            since: Only those updated then or later.
            limit: At most so many.
        """
        ...

    async def unsurveyed(self, prefix: str) -> list[Record]:
        """Records of a range whose state is not known."""
        ...

    async def digests(self, prefix: str) -> list[RangeDigest]:
        """Of the up to 16 ranges below a prefix; empty ones are left out."""
        ...


def without_credentials(url: str) -> str:
    """A URL as others may see it."""
    return _CREDENTIALS.sub(r"\1", url)


def sum_of(prefix: str, parts: Iterable[RangeDigest]) -> RangeDigest:
    """The digest of a range from those below it."""
    listed = list(parts)
    return RangeDigest(prefix, sum(part.count for part in listed), sum(part.total for part in listed) % _MODULUS)
