"""What comparison lets pass: rules by path. `rule_tree` says which of them count for a part.

A path is `$`, then `.name`, `.{}` (any member whose name may be data), `.*` (any member) or `[*]` (any item), such as
`$.commits[*].date`; `$..name` is that member at any depth.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Flag, auto
from typing import Any, Final, Self

from gateway.core.compare.names import ITEMS

DEEP: Final = ".."
_STEP: Final = re.compile(r"\.\.(?P<deep>[^.\[\]]+)$|\.(?P<member>[^.\[\]]+)|(?P<items>\[\*\])")
_LONGEST: Final = 512

DEFAULT_HEADERS: Final = ("content-type", "etag", "location", "cache-control", "content-language")


class PathError(ValueError):
    """A path cannot be read."""


class Relax(Flag):
    """What was learnt, and accepted, about a volatile part; several at once for one part.

    Nothing is ever left out: what is not relaxed must still agree.
    """

    SHAPE = auto()
    """The value differs from call to call: type and form must agree."""
    ORDER = auto()
    """Items come in any order."""
    PRESENCE = auto()
    """It may be missing on either side."""
    LENGTH = auto()
    """An array may have more items on one side."""
    NULL = auto()
    """It may be null on either side."""
    NUMBER = auto()
    """A number may be a whole one on one side, and a decimal one on the other."""

    @classmethod
    def _missing_(cls, value: object) -> Any:  # noqa: ANN401 - as `Flag` has it
        """`Relax("shape")`; several words are joined by `+`."""
        if not isinstance(value, str):
            return super()._missing_(value)
        return cls.of(value.split("+"))

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """All that the words name.

        Raises:
            ValueError: One names nothing.
        """
        found = cls(0)
        for word in words:
            relax = cls.__members__.get(word.upper()) if word.islower() else None
            if relax is None:
                raise ValueError(f"{word[:40]!r} is no relaxation; write one of {', '.join(cls(~0).words)}")
            found |= relax
        return found

    @property
    def words(self) -> list[str]:
        """Each by its name, in lower case."""
        return [str(relax.name).lower() for relax in self]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one part is compared.

    Attributes:
        ignore: Not at all. For operators alone; learning never proposes it.
        unordered: An array is a bag of items.
        keyed: An array's items are paired by this member.
        any_length: An array may have more items on one side; those of the other must stand in it.
        optional: It may be missing.
        nullable: It may be null on one side.
        loose_number: `1` equals `1.0`.
        shape: Type and form must agree, not the value.
        form: What it must be, whatever its value: one of `shapes.FORMS`.
        normalise: What is replaced in a text before it is compared: names of `shapes.TOKENS`.
        abs_tolerance: Numbers may differ by so much.
        rel_tolerance: Or by this share of the greater.
        within_s: Times may be so far apart, in seconds.
    """

    ignore: bool = False
    unordered: bool = False
    keyed: str | None = None
    any_length: bool = False
    optional: bool = False
    nullable: bool = False
    loose_number: bool = False
    shape: bool = False
    form: str | None = None
    normalise: tuple[str, ...] = ()
    abs_tolerance: str | None = None
    rel_tolerance: str | None = None
    within_s: float | None = None

    def joined(self, other: Rule) -> Rule:
        """Both at once; where both name a value, the other's."""
        mine, theirs = asdict(self), asdict(other)
        return Rule(**{name: mine[name] if _is_unsaid(theirs[name]) else theirs[name] for name in mine})

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Rule:
        """Reads what `asdict` made, out of JSON."""
        return cls(**{**document, "normalise": tuple(document.get("normalise", ()))})


def rule_of(relax: Relax) -> Rule:
    """A relaxation as a rule."""
    return Rule(
        shape=Relax.SHAPE in relax,
        unordered=Relax.ORDER in relax,
        optional=Relax.PRESENCE in relax,
        any_length=Relax.LENGTH in relax,
        nullable=Relax.NULL in relax,
        loose_number=Relax.NUMBER in relax,
    )


def relaxation_of(rule: Rule) -> Relax:
    """What of a rule could have been learnt."""
    granted = {
        Relax.SHAPE: rule.shape,
        Relax.ORDER: rule.unordered,
        Relax.PRESENCE: rule.optional,
        Relax.LENGTH: rule.any_length,
        Relax.NULL: rule.nullable,
        Relax.NUMBER: rule.loose_number,
    }
    found = Relax(0)
    for relax, is_granted in granted.items():
        found |= relax if is_granted else Relax(0)
    return found


def _is_unsaid(value: object) -> bool:
    return value is None or value is False or value == ()


@dataclass(frozen=True, slots=True)
class ComparisonRules:
    """How the answers of one operation are compared.

    Attributes:
        by_path: Rules of the migration file.
        headers: Names, lower-case, that must agree.
        equal_statuses: Sets of status codes that count as one.
        incomparable_codes: Codes of errors that only say that one side does not know what was asked for.
        loose_numbers: `1` equals `1.0`.
        is_comparable: False: the operation is declared not comparable.
        relaxed: What was learnt and accepted, by path.
    """

    by_path: Mapping[str, Rule] = field(default_factory=dict)
    headers: tuple[str, ...] = DEFAULT_HEADERS
    equal_statuses: tuple[frozenset[int], ...] = ()
    incomparable_codes: frozenset[str] = frozenset()
    loose_numbers: bool = False
    is_comparable: bool = True
    relaxed: Mapping[str, Relax] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For JSON; `from_document` reads it."""
        return {
            "by_path": {path: asdict(rule) for path, rule in self.by_path.items()},
            "headers": list(self.headers),
            "equal_statuses": [sorted(group) for group in self.equal_statuses],
            "incomparable_codes": sorted(self.incomparable_codes),
            "loose_numbers": self.loose_numbers,
            "is_comparable": self.is_comparable,
            "relaxed": {path: relax.words for path, relax in self.relaxed.items()},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Reads what `document` wrote."""
        return cls(
            by_path={path: Rule.from_document(rule) for path, rule in document["by_path"].items()},
            headers=tuple(document["headers"]),
            equal_statuses=tuple(frozenset(group) for group in document["equal_statuses"]),
            incomparable_codes=frozenset(document["incomparable_codes"]),
            loose_numbers=document["loose_numbers"],
            is_comparable=document["is_comparable"],
            relaxed={path: Relax.of(words) for path, words in document["relaxed"].items()},
        )

    def relaxed_by(self, learnt: Mapping[str, Relax]) -> Self:
        """The same with more relaxations."""
        none = Relax(0)
        return replace(
            self, relaxed={**self.relaxed, **{path: self.relaxed.get(path, none) | learnt[path] for path in learnt}}
        )

    @property
    def version(self) -> str:
        """Names these rules: a digest of all of them."""
        text = json.dumps(self.document(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def split_path(path: str) -> list[str]:
    """The steps of a path.

    Raises:
        PathError: It is none.
    """
    if not path.startswith("$") or len(path) > _LONGEST:
        raise PathError(f'"{path[:80]}" is no path; write such as $.commits[*].date or $..updated_at')
    steps: list[str] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or (found["deep"] and at != 1):
            raise PathError(f'"{path[:80]}" is no path; write such as $.commits[*].date or $..updated_at')
        steps.append(f"{DEEP}{found['deep']}" if found["deep"] else found["member"] or ITEMS)
        at = found.end()
    return steps
