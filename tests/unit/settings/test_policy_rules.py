"""The rules of stages and shares, held against a file."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.file_policy import FilePolicy, PolicyField
from gateway.core.model import GroupPolicy, OperationPolicy, Ppm, Stage
from gateway.core.percent import percent_of
from gateway.settings.load import compile_document
from gateway.settings.yaml_source import parse_yaml
from tests.unit.settings.scene import (
    CHANGE,
    READ,
    Break,
    assert_only_fault,
    change,
    edited,
    faults_of,
    group,
    load,
    read,
)

DUAL = ("writes: none", "writes: dual\n    dual_percent: 100")
INDEPENDENT = ("writes: none", "writes: dual\n    dual_percent: 100\n    independent: true")
SHARED = ("writes: none", "writes: shared")
ADD = f"  cart.add: {{class: write, stage: live, percent: 5, group: cart, match: {{rest: POST /carts}}}}\n{CHANGE}"

CASES: dict[str, Break] = {
    "share in off": read("percent: 10", "percent", "stage off has no share, so 10 % cannot act (stage_has_no_share)"),
    "share of a group in off": group(
        "writes: none\n    stage: off\n    percent: 10", ".percent", "write stage: live", 10
    ),
    "share of a group without a stage": group("writes: none\n    percent: 10", ".percent", "stage_has_no_share"),
    "dual share where nothing is copied": group(
        "writes: none\n    dual_percent: 10", ".dual_percent", "writes: none copies nothing"
    ),
    "dual share over one store": group(
        "writes: shared\n    dual_percent: 10", ".dual_percent", "writes: shared copies nothing"
    ),
    "dual_write where nothing is copied": group(
        "writes: none\n    stage: dual_write", ".stage", "dual_write exists for groups with writes: dual only"
    ),
    "shadow over one store": group(
        "writes: shared\n    stage: shadow", ".stage", "write one of off, shadow_read, live"
    ),
    "shadow of one operation": read("stage: shadow", "stage", "shadow exists for groups with writes: dual only"),
    "a stage of a later version": group(
        "writes: dual\n    stage: dual_write",
        ".stage",
        "is not available in this version; write one of off, shadow_read, live",
    ),
    "independent where nothing is copied": group(
        "writes: none\n    independent: true", ".independent", "for groups with writes: dual and dual_percent: 100 only"
    ),
    "independent with a part copied": group(
        "writes: dual\n    dual_percent: 99\n    independent: true", ".independent", "dual_percent: 100 only", 10
    ),
    "a key pinned to both": group(
        "writes: none\n    allow: [a, b]\n    deny: [b]", ".deny", 'names "b", which stands in allow as well', 10
    ),
    "a key with an empty part": group("writes: none\n    allow: [a/]", ".allow[0]", '"a/" is no key'),
    "a key with spaces around": group("writes: none\n    deny: [x, ' a']", ".deny[1]", '" a" is no key'),
    "a mirrored write": change("mirror_percent: 10", "mirror_percent", "a mirrored write is done twice"),
}


def policy(text: str) -> FilePolicy:
    return compile_document(parse_yaml(text.encode(), "x.yaml"), Path("x.yaml")).policy


@pytest.mark.parametrize("name", CASES)
def test_a_breach_is_found_where_it_is_and_alone(tmp_path: Path, name: str) -> None:
    assert_only_fault(tmp_path, CASES[name])


@pytest.mark.parametrize("stage", ["rampdown", "complete"])
def test_only_stages_that_are_built_can_be_written(tmp_path: Path, stage: str) -> None:
    assert_only_fault(tmp_path, group(f"writes: none\n    stage: {stage}", ".stage", "not available in this version"))


class TestMovingTogether:
    def test_all_operations_of_a_none_group_say_the_same(self, tmp_path: Path) -> None:
        text = edited((READ, f"{READ}stage: live, percent: 10, "), (CHANGE, f"{CHANGE}stage: live, percent: 20, "))
        (problem,) = faults_of(tmp_path, text)
        assert (problem.line, problem.path) == (12, "operations.cart.change.percent")
        assert "20 % differs from 10 % on line 11, but all operations of group cart" in problem.message
        assert problem.message.endswith("write it once, as groups.cart.percent")

    def test_an_operation_of_a_none_group_cannot_stay_behind_it(self, tmp_path: Path) -> None:
        edits = ("writes: none", "writes: none\n    stage: live\n    percent: 10"), (READ, f"{READ}stage: off, ")
        (problem,) = faults_of(tmp_path, edited(*edits))
        assert (problem.line, problem.path) == (13, "operations.cart.read.stage")
        assert "off differs from live on line 9" in problem.message

    def test_all_writes_of_a_dual_group_say_the_same(self, tmp_path: Path) -> None:
        (problem,) = faults_of(tmp_path, edited(DUAL, (CHANGE, f"{ADD}stage: live, percent: 10, ")))
        assert (problem.line, problem.path) == (14, "operations.cart.change.percent")
        assert "all writes of group cart (writes: dual) move together" in problem.message

    def test_what_one_says_stands_for_all_that_are_bound(self) -> None:
        wished = policy(edited((READ, f"{READ}stage: live, percent: 10, ")))
        assert set(wished.operations.values()) == {OperationPolicy(Stage.LIVE, Ppm(100_000))}

    def test_operations_over_one_store_are_free(self) -> None:
        wished = policy(edited(SHARED, (READ, f"{READ}stage: live, percent: 20, ")))
        assert wished.operations["cart.read"] == OperationPolicy(Stage.LIVE, Ppm(200_000))
        assert wished.operations["cart.change"] == OperationPolicy(Stage.OFF)

    def test_operations_of_an_independent_group_are_free(self) -> None:
        edits = (READ, f"{READ}stage: live, percent: 20, "), (CHANGE, f"{CHANGE}stage: live, percent: 10, ")
        wished = policy(edited(INDEPENDENT, *edits))
        assert [p.percent for p in wished.operations.values()] == [200_000, 100_000]


class TestReadsInDualGroups:
    def test_a_read_may_not_lead_in_stage(self, tmp_path: Path) -> None:
        (problem,) = faults_of(tmp_path, edited(DUAL, (READ, f"{READ}stage: live, percent: 10, ")))
        assert (problem.line, problem.path) == (12, "operations.cart.read.stage")
        assert "a read at live 10 % leads the writes of group cart at off" in problem.message

    def test_a_read_may_not_lead_in_share(self, tmp_path: Path) -> None:
        edits = (READ, f"{READ}stage: live, percent: 20, "), (CHANGE, f"{CHANGE}stage: live, percent: 10, ")
        (problem,) = faults_of(tmp_path, edited(DUAL, *edits))
        assert (problem.line, problem.path) == (12, "operations.cart.read.percent")
        assert "write at most live 10 %" in problem.message

    @pytest.mark.parametrize("behind", ["stage: off", "stage: live, percent: 5", "stage: live, percent: 10"])
    def test_a_read_may_lag_behind(self, tmp_path: Path, behind: str) -> None:
        edits = (READ, f"{READ}{behind}, "), (CHANGE, f"{CHANGE}stage: live, percent: 10, ")
        assert load(tmp_path, edited(DUAL, *edits)).warnings == []

    def test_writes_that_are_not_copied_back_are_warned_of(self, tmp_path: Path) -> None:
        edit = ("writes: none", "writes: dual\n    dual_percent: 5\n    stage: live\n    percent: 10")
        (warning,) = load(tmp_path, edited(edit)).warnings
        assert "migration.yaml:7: groups.cart: new answers 10 % of the keys and the writes of 5 % are copied" in warning


class TestWhatTheFileSays:
    def test_an_operation_follows_its_group_and_its_own_word_comes_first(self) -> None:
        edits = ("writes: none", "writes: shared\n    stage: live\n    percent: 30"), (READ, f"{READ}percent: 40, ")
        wished = policy(edited(*edits))
        assert wished.operations["cart.read"] == OperationPolicy(Stage.LIVE, Ppm(400_000))
        # Writes over one store are bound to nobody, but follow the group where they say nothing.
        assert wished.operations["cart.change"] == OperationPolicy(Stage.LIVE, Ppm(300_000))

    def test_only_what_is_written_is_said(self) -> None:
        wished = policy(edited(SHARED, (READ, f"{READ}stage: off, mirror_percent: 0, ")))
        assert wished.said_of_operations["cart.read"] == {PolicyField.STAGE, PolicyField.MIRROR_PERCENT}
        assert wished.said_of_operations["cart.change"] == frozenset()
        assert wished.said_of_groups["cart"] == frozenset()

    def test_an_empty_list_is_said(self) -> None:
        wished = policy(edited(("writes: none", "writes: none\n    allow: []\n    deny: [a]")))
        assert wished.said_of_groups["cart"] == {PolicyField.ALLOW, PolicyField.DENY}
        assert wished.groups["cart"] == GroupPolicy(deny=frozenset({"a"}))

    def test_a_key_of_another_form_than_the_groups_is_warned_of(self, tmp_path: Path) -> None:
        (warning,) = load(tmp_path, edited(("writes: none", "writes: none\n    allow: [a/b]"))).warnings
        assert 'groups.cart.allow[0]: "a/b" has 2 parts and keys of this group have 1' in warning

    def test_an_operation_without_a_group_has_a_policy_of_its_own(self) -> None:
        alone = ('group: cart, match: {rest: "PUT', 'key: [[header:a]], stage: live, percent: 1.5, match: {rest: "PUT')
        wished = policy(edited(alone))
        assert wished.operations["cart.change"] == OperationPolicy(Stage.LIVE, Ppm(15_000))
        assert wished.groups["cart.change"] == GroupPolicy()

    @given(st.decimals(0, 100, places=4))
    def test_every_percent_of_four_decimals_comes_out_as_it_was_written(self, percent: Decimal) -> None:
        wished = policy(edited((READ, f"{READ}stage: live, percent: {percent:f}, ")))
        assert Decimal(str(percent_of(wished.operations["cart.read"].percent))) == percent
