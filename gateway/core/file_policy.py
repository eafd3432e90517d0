"""What the file wishes the policy to be: stages, shares and pinned keys, and which of them it really said.

The policy in force comes from the store; the file's wishes count at the first boot, for operations that the store does
not know yet, and when an operator applies the file. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.core.model import GroupPolicy, OperationPolicy


class PolicyField(StrEnum):
    """The fields that operators move, by their names in the file and in the control API."""

    STAGE = "stage"
    PERCENT = "percent"
    MIRROR_PERCENT = "mirror_percent"
    DUAL_PERCENT = "dual_percent"
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """The policy that a file asks for.

    Attributes:
        operations: For every operation of the definition, defaults applied.
        groups: For every group of the definition, implicit ones included, defaults applied.
        said_of_operations: By operation, the fields that the file says, on the operation itself or on its group; the
            rest are defaults and must not overrule a stored policy.
        said_of_groups: Likewise by group: `dual_percent`, `allow`, `deny`.
    """

    operations: Mapping[str, OperationPolicy] = field(default_factory=dict)
    groups: Mapping[str, GroupPolicy] = field(default_factory=dict)
    said_of_operations: Mapping[str, frozenset[PolicyField]] = field(default_factory=dict)
    said_of_groups: Mapping[str, frozenset[PolicyField]] = field(default_factory=dict)
