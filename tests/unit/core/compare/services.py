"""Two services that answer alike, with noise; learning that lets the noise pass; and changes that mean something."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.compare.answers import Answer, Comparer, Pairing, Result, Verdict
from gateway.core.compare.noise import Learnt, NoiseCounts, learn
from gateway.core.compare.rules import ComparisonRules, Relax

_HEADERS: Final = [(b"content-type", b"application/json")]
_SECRET: Final = b"secret"
_CHANGES: Final = ("value", "type", "missing", "extra", "order", "drift", "noisy")

Document = dict[str, Any]


def document(rng: random.Random) -> Document:
    """An answer with parts that change from call to call, among parts that do not."""
    answer: Document = {
        "id": _uuid(rng),
        "digest": f"{rng.getrandbits(160):040x}",
        "at": _time(rng),
        "total": 5,
        "price": 19.99,
        "paid": False,
        "note": None,
        "currency": "EUR",
        "owner": {"name": "ada", "age": 36, "tags": ["a", "b", "c"], "email": "ada@example.org"},
        "items": rng.sample([_item(n, rng) for n in range(5)], 5),
        "labels": rng.sample(["x", "y", "z", "u"], 4),
        "by_address": {
            "ada@example.org": {"visits": 3, "tier": "gold"},
            "bob@example.org": {"visits": 4, "tier": "new"},
        },
        "limits": {name: n * 10 for n, name in enumerate(("cpu", "memory", "disk", "network", "files", "users"))},
        "address": {"street": "1 Rue A", "city": "Paris", "zip": "75001", "lines": ["one", "two"]},
    }
    if rng.random() < 0.7:
        answer["hint"] = "a member that is not always there"
    return answer


def _item(n: int, rng: random.Random) -> Document:
    item: Document = {
        "sku": f"sku-{n}",
        "count": n,
        "size": 1.5,
        "seen_at": _time(rng),
        "tags": rng.sample(["red", "blue", f"tag-{n}"], 3),
        "steps": ["cut", "glue", "paint"],
        "is_new": n % 2 == 0,
    }
    if rng.random() < 0.5:
        item["offer"] = 5
    return item


def _uuid(rng: random.Random) -> str:
    return f"{rng.getrandbits(32):08x}-0000-4000-8000-{rng.getrandbits(48):012x}"


def _time(rng: random.Random) -> str:
    return f"2026-01-01T{rng.randrange(24):02}:00:{rng.randrange(60):02}.{rng.randrange(10**6):06}Z"


# --- learning ------------------------------------------------------------------------------------------------------


class Judge:
    """Compares answers as the gateway does: as bytes."""

    def __init__(self, rules: ComparisonRules) -> None:
        self._comparer = Comparer(rules, _SECRET)

    def judge(self, left: Document, right: Document, *, with_leaves: bool = False) -> Verdict:
        one, other = (Answer(200, _HEADERS, json.dumps(answer).encode()) for answer in (left, right))
        return self._comparer.compare(one, other, Pairing(), with_leaves=with_leaves)

    def differ(self, left: Document, right: Document) -> bool:
        return self.judge(left, right).result is Result.DIFFERS


def accept_all(
    make: Callable[[random.Random], Document], rng: random.Random, *, pairs: int = 100, rounds: int = 6
) -> tuple[dict[str, Relax], Learnt]:
    """Learns and accepts what is proposed, until nothing is; as an operator would, round by round."""
    accepted: dict[str, Relax] = {}
    counted = NoiseCounts()
    for _ in range(rounds):
        rules = ComparisonRules(relaxed=accepted)
        judge = Judge(rules)
        for _ in range(pairs):
            again = judge.judge(make(rng), make(rng), with_leaves=True)
            counted.note_pair(again.differences, again.leaves, rules.version)
            counted.note_raw(judge.judge(make(rng), make(rng)).differences, rules.version)
        learnt = learn(counted.blob(), accepted, rules.version)
        if not learnt.proposals:
            return accepted, learnt
        for found in learnt.proposals:
            assert found.relax is not None, f"{found.path} cannot be relaxed"
            assert not found.is_held, f"{found.path} is held though the services are the same"
            accepted[found.path] = accepted.get(found.path, Relax(0)) | found.relax
    raise AssertionError(f"something is proposed again and again: {learnt.proposals}")


# --- changes that mean something -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the new service, in all its answers.

    Attributes:
        kind: One of `_CHANGES`.
        place: Of the object that it is in: `top`, a member, or an item's number.
        name: Of the member.
    """

    kind: str
    place: str
    name: str

    def apply(self, answer: Document) -> None:
        """Makes it."""
        target = self._target(answer)
        match self.kind:
            case "value":
                target[self.name] = _other(target[self.name])
            case "type":
                target[self.name] = [target[self.name]]
            case "missing":
                del target[self.name]
            case "extra":
                target["more"] = 1
            case "order":
                (answer["owner"]["tags"] if self.place == "top" else target["steps"]).reverse()
            case "drift":
                target[self.name] += 0.01 if isinstance(target[self.name], float) else 7
            case _:
                target[self.name] = _NOISY[self.name]

    def _target(self, answer: Document) -> Document:
        if self.place == "top":
            return answer
        if self.place.isdigit():
            found: Document = next(item for item in answer["items"] if item.get("count") == int(self.place))
            return found
        target: Document = answer[self.place]
        return target


_NOISY: Final = {
    "id": "none",
    "digest": "f" * 64,
    "at": "1970-01-01T00:00:00Z",
    "seen_at": 1_767_225_600,
    "labels": ["x", "y", "z", "w"],
    "tags": ["red", "blue"],
    "hint": "a member that says something else",
    "offer": 6,
}
"""What noisy parts are not: whatever their value or order, not these."""


def change(rng: random.Random) -> Change:
    """One of many changes."""
    kind = rng.choice(_CHANGES)
    place = rng.choice(["top", "owner", "limits", "address", *map(str, range(5))])
    names: list[str]
    if kind == "order":
        return Change(kind, rng.choice(["top", *map(str, range(5))]), "")
    if kind == "noisy":
        place = rng.choice(["top", *map(str, range(5))])
        names = ["id", "digest", "at", "labels", "hint"] if place == "top" else ["seen_at", "tags", "offer"]
        return Change(kind, place, rng.choice(names))
    if kind == "drift":
        place = rng.choice(["top", "owner", "limits", *map(str, range(5))])
    answer = document(random.Random(0))
    target = Change(kind, place, "")._target(answer)
    noisy = (*_NOISY, "items", "owner", "limits", "address", "by_address", "steps", "lines")
    names = [name for name, value in target.items() if name not in noisy]
    if kind == "drift":
        names = [name for name in names if isinstance(target[name], int | float) and not isinstance(target[name], bool)]
    return Change(kind, place, rng.choice(names))


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 3 + 1
    return f"not {value}"
