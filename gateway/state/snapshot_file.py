"""The last known policy on disk, for a start without Redis.

Shared by all processes of one data directory. Written in one step, never over a newer epoch of the same lineage. A
damaged file is set aside and said; it never becomes a decision.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.core.model import Latch, Policy, Scope
from gateway.state.codec import CodecError, decode_latch, decode_policy, encode_latch, encode_policy

VERSION: Final = 1

_log = structlog.get_logger("crossfade.state")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a process knows of the policy.

    Attributes:
        policy: As it came from Redis.
        external: Kills that are in force and not yet in it.
    """

    policy: Policy
    external: Mapping[Scope, Latch] = field(default_factory=dict)


class SnapshotFile:
    """`<data-dir>/policy-<migration>.json`. All methods block: call them off the event loop.

    Attributes:
        path: The file.
    """

    def __init__(self, data_dir: Path, migration: str) -> None:
        self.path = data_dir / f"policy-{migration}.json"
        self._migration = migration

    def exists(self) -> bool:
        """Whether this data directory has ever known a policy of the migration, readable or not."""
        return self.path.exists() or any(self.path.parent.glob(self.path.name + ".damaged*"))

    def read(self) -> Remembered | None:
        """What is remembered, or None: there is no file, or it is damaged and was set aside.

        Raises:
            OSError: The file exists and cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _decode(content, self._migration)
        except CodecError as exc:
            aside = self.path.with_name(self.path.name + ".damaged")
            self.path.replace(aside)
            _log.error("policy_file_damaged", path=str(self.path), kept_as=aside.name, why=str(exc))
            return None

    def write(self, remembered: Remembered) -> bool:
        """Remembers; False when the file knows a newer epoch of the same lineage already.

        Raises:
            OSError: The disk refuses.
        """
        with self._locked():
            stored = self.read()
            if stored is not None and stored.policy.lineage == remembered.policy.lineage:
                if stored.policy.epoch > remembered.policy.epoch:
                    return False
                if stored.policy.epoch == remembered.policy.epoch:
                    # Another process may have seen a kill that this one has not.
                    external = {**stored.external, **remembered.external}
                    remembered = Remembered(remembered.policy, external)
                    if remembered == stored:
                        return True
            self._replace(_encode(remembered))
            return True

    def _replace(self, content: bytes) -> None:
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.path.with_name(self.path.name + ".lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _encode(remembered: Remembered) -> bytes:
    content: dict[str, Any] = {
        "version": VERSION,
        "policy": encode_policy(remembered.policy),
        "external": {str(scope): encode_latch(latch) for scope, latch in sorted(remembered.external.items())},
    }
    return json.dumps({**content, "sha256": _checksum(content)}, indent=1).encode() + b"\n"


def _decode(text: bytes, migration: str) -> Remembered:
    try:
        content = json.loads(text)
        if content["version"] != VERSION:
            raise CodecError(f"its format is {content['version']!r}, not {VERSION}")
        checksum = content.pop("sha256")
        if checksum != _checksum(content):
            raise CodecError("its checksum is wrong")
        latches = [decode_latch(name, latch) for name, latch in content["external"].items()]
        policy = decode_policy(content["policy"])
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise exc if isinstance(exc, CodecError) else CodecError(f"not a policy file: {exc!r}") from exc
    if policy.migration != migration:
        raise CodecError(f"it belongs to the migration {policy.migration}")
    return Remembered(policy, {latch.scope: latch for latch in latches})


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
