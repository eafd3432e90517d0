"""The fingerprint of a definition: equal for equal content, however the file wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256

from gateway.core.model import Definition


def digest_of(definition: Definition) -> str:
    """SHA-256, hex, over the canonical JSON of everything but the digest itself.

    Comments and the order of entries do not count; the order inside a list that the file writes does.
    """
    # The members of a group are in the order of the file.
    groups = {
        name: replace(group, operations=tuple(sorted(group.operations))) for name, group in definition.groups.items()
    }
    content = _plain(replace(definition, groups=groups))
    assert isinstance(content, dict)
    del content["digest"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
