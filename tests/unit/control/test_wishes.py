from __future__ import annotations

from gateway.control.bodies import PolicyWishes
from gateway.control.wishes import complete_wishes, wishes_of
from gateway.core.model import GroupPolicy, Ppm, Stage, Writes
from tests.unit.core.migrations import at, everywhere, workspace

DEFINITION = workspace(Writes.SHARED)


def test_what_is_not_said_is_as_stored() -> None:
    stored = everywhere(at(Stage.LIVE, 40), DEFINITION, groups={"workspace": GroupPolicy(deny=frozenset({"a"}))})
    body = PolicyWishes.model_validate({"operations": {"git.push": {"percent": 5}}})
    wishes = complete_wishes(DEFINITION, stored, wishes_of(DEFINITION, body))
    assert wishes.operations["git.push"] == at(Stage.LIVE, 5)
    assert wishes.operations["git.log"] == at(Stage.LIVE, 40)
    assert wishes.groups["workspace"] == GroupPolicy(deny=frozenset({"a"}))


def test_a_stage_that_is_entered_brings_its_own_percent() -> None:
    body = PolicyWishes.model_validate(
        {"operations": {"git.push": {"stage": "off"}, "git.log": {"stage": "rampdown"}, "ping": {"stage": "live"}}}
    )
    stored = everywhere(at(Stage.LIVE, 40), DEFINITION)
    wishes = complete_wishes(DEFINITION, stored, wishes_of(DEFINITION, body))
    assert wishes.operations["git.push"].percent == Ppm(0)
    assert wishes.operations["git.log"].percent == Ppm(1_000_000)
    assert wishes.operations["ping"].percent == Ppm(400_000)


def test_what_is_said_empty_is_emptied() -> None:
    stored = everywhere(at(Stage.OFF), DEFINITION, groups={"workspace": GroupPolicy(deny=frozenset({"a"}))})
    body = PolicyWishes.model_validate({"groups": {"workspace": {"deny": []}}})
    wishes = complete_wishes(DEFINITION, stored, wishes_of(DEFINITION, body))
    assert wishes.groups["workspace"].deny == frozenset()
