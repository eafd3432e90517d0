"""Policies as JSON: canonical on the way out, strict on the way in.

A document that is not exactly what this version writes is refused, so that a damaged one never becomes a decision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gateway.core.model import (
    PPM_ALL,
    Epoch,
    GroupPolicy,
    Latch,
    LatchKind,
    OperationPolicy,
    Policy,
    Ppm,
    Scope,
    Stage,
)


class CodecError(ValueError):
    """A stored document cannot be read."""


def encode_body(policy: Policy) -> str:
    """Operations and groups; epoch, lineage and latches are fields of their own in Redis."""
    return _dump(_body(policy))


def encode_latch(latch: Latch) -> str:
    """One latch, without its scope."""
    content = {"kind": latch.kind, "reason": latch.reason, "by": latch.by, "at": latch.at.isoformat()}
    return _dump(content if latch.evidence is None else {**content, "evidence": latch.evidence})


def encode_policy(policy: Policy) -> str:
    """A whole policy in one document, for disk and offers."""
    return _dump(
        {
            "migration": policy.migration,
            "lineage": policy.lineage,
            "epoch": policy.epoch,
            "latches": {str(scope): json.loads(encode_latch(latch)) for scope, latch in policy.latches.items()},
            **_body(policy),
        }
    )


def decode_policy(text: str | bytes) -> Policy:
    """Reads what `encode_policy` wrote.

    Raises:
        CodecError: It is something else.
    """
    content = _load(text)
    try:
        return _policy(_text(content["migration"]), content["lineage"], content["epoch"], content, content["latches"])
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CodecError(f"not a policy: {exc!r}") from exc


def decode_fields(migration: str, fields: Mapping[bytes, bytes]) -> Policy:
    """Reads the policy hash.

    Raises:
        CodecError: A field is missing or damaged.
    """
    try:
        latches = {
            name.removeprefix(b"kill:").decode(): _load(value)
            for name, value in fields.items()
            if name.startswith(b"kill:")
        }
        return _policy(migration, fields[b"lineage"].decode(), int(fields[b"epoch"]), _load(fields[b"body"]), latches)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CodecError(f"the policy of {migration} in Redis is damaged: {exc!r}") from exc


def decode_latch(name: str, text: str | bytes) -> Latch:
    """Reads what `encode_latch` wrote about the scope `name`.

    Raises:
        CodecError: It is something else.
    """
    try:
        return _latch(name, _load(text))[1]
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CodecError(f"not a latch: {exc!r}") from exc


def _policy(migration: str, lineage: object, epoch: object, body: Any, latches: Mapping[str, Any]) -> Policy:  # noqa: ANN401 - parsed JSON
    if not isinstance(lineage, str) or not lineage:
        raise CodecError("no valid lineage")
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
        raise CodecError("no valid epoch")
    return Policy(
        migration=migration,
        lineage=lineage,
        epoch=Epoch(epoch),
        operations={name: _operation(item) for name, item in body["operations"].items()},
        groups={name: _group(item) for name, item in body["groups"].items()},
        latches=dict(_latch(name, item) for name, item in latches.items()),
    )


def _operation(item: Mapping[str, Any]) -> OperationPolicy:
    return OperationPolicy(Stage(item["stage"]), _ppm(item["ppm"]), _ppm(item["mirror_ppm"]))


def _group(item: Mapping[str, Any]) -> GroupPolicy:
    return GroupPolicy(
        _ppm(item["dual_ppm"]), frozenset(map(_text, item["allow"])), frozenset(map(_text, item["deny"]))
    )


def _latch(name: str, item: Mapping[str, Any]) -> tuple[Scope, Latch]:
    scope = Scope.parse(name)
    at = datetime.fromisoformat(item["at"])
    if at.tzinfo is None:
        raise CodecError("a latch without time zone")
    evidence = item.get("evidence")
    kind, reason, by = LatchKind(item["kind"]), _text(item["reason"]), _text(item["by"])
    return scope, Latch(scope, kind, reason, by, at, None if evidence is None else _text(evidence))


def _ppm(value: object) -> Ppm:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= PPM_ALL:
        raise CodecError(f"{value!r} is no share in ppm")
    return Ppm(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise CodecError(f"{value!r} is no text")
    return value


def _body(policy: Policy) -> dict[str, Any]:
    return {
        "operations": {
            name: {"stage": item.stage, "ppm": item.percent, "mirror_ppm": item.mirror}
            for name, item in policy.operations.items()
        },
        "groups": {
            name: {"dual_ppm": item.dual, "allow": sorted(item.allow), "deny": sorted(item.deny)}
            for name, item in policy.groups.items()
        },
    }


def _dump(content: Any) -> str:  # noqa: ANN401 - anything JSON
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _load(text: str | bytes) -> Any:  # noqa: ANN401 - parsed JSON
    try:
        content = json.loads(text)
    except ValueError as exc:
        raise CodecError("not JSON") from exc
    if not isinstance(content, dict):
        raise CodecError("not a JSON object")
    return content
