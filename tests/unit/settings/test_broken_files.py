"""A fault of form in a migration file, such as an unknown key or a wrong type: its line, and what would be right.

The rules of meaning have their tests by module: `test_collisions`, `test_compile`, `test_policy_rules` and so on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import SettingsError, load_migration
from tests.unit.settings.scene import (
    READ,
    SHOP,
    Break,
    assert_only_fault,
    change,
    edited,
    faults_of,
    group,
    load,
    read,
    top,
)

STAGES = "must be one of off, shadow_read, dual_write, shadow, live, rampdown, complete, not "

CASES: dict[str, Break] = {
    "unknown key": top("migrate: x", "migrate", "is not known here; did you mean migration?"),
    "unknown key unlike any": top("x: 1", "x", "write one of migration, sides, operations, mcp, groups, default,"),
    "unknown key inside": Break("writes: none", "write: none", 8, "groups.cart.write", "did you mean writes?"),
    "unknown key of an entry": read("clas: read", "clas", "did you mean class?"),
    "unknown deadline": read("deadlines: {total_s: 9}", "deadlines.total_s", "write one of connect_s, send_s,"),
    "default takes no policy": top("default: {stage: off}", "default.stage", "write one of class, side, deadline_s"),
    "no name": Break("migration: shop\n", "", 1, "migration", "is missing; write it"),
    "no key": Break("    key: [[header:x-user-id]]\n", "", 7, "groups.cart.key", "is missing; write it"),
    "no class": Break("{class: read,", "{", 11, "operations.cart.read.class", "is missing; write it"),
    "no match": Break(', match: {rest: "PUT /carts/{id}"}', "", 12, "operations.cart.change.match", "is missing"),
    "no side": Break('  new: {instances: ["http://127.0.0.1:9002"]}\n', "", 3, "sides.new", "is missing; write it"),
    "yes is a word": read("strict: yes", "strict", 'must be true or false, not "yes"'),
    "one is no boolean": read("strict: 1", "strict", "must be true or false, not 1"),
    "unknown class": Break("read, group", "reads, group", 11, "operations.cart.read.class", "did you mean read?"),
    "unknown writes": Break("writes: none", "writes: maybe", 8, "groups.cart.writes", "one of dual, shared, none"),
    "unknown form": read('compare: {parts: {"$.a": {form: uid}}}', "compare.parts.$.a.form", 'not "uid"'),
    "nothing to normalise": read(
        'compare: {parts: {"$.a": {normalise: []}}}', "compare.parts.$.a.normalise", "at least 1"
    ),
    "unknown token": read(
        'compare: {parts: {"$.a": {normalise: [sha1]}}}', "compare.parts.$.a.normalise[0]", 'not "sha1"'
    ),
    "two ways to pair": read(
        'compare: {parts: {"$.a": {unordered: true, keyed: id}}}', "compare.parts.$.a", "is unordered and keyed"
    ),
    "a form with a bound": read(
        'compare: {parts: {"$.a": {form: hex, within_s: 5}}}',
        "compare.parts.$.a.within_s",
        "has no effect: form: hex",
    ),
    "unknown stage": read("stage: lives", "stage", f'{STAGES}"lives"; did you mean live?'),
    "stage as boolean": read("stage: false", "stage", f"{STAGES}false; write off"),
    "stage as number": read("stage: 3", "stage", f"{STAGES}3"),
    "unknown balance": Break("old: {", "old: {balance: random, ", 4, "sides.old.balance", "must be one of key, p2c"),
    "default that is no side": top("default: {side: newer}", "default.side", "must be one of old, new"),
    "percent below": read("stage: live, percent: -1", "percent", "-1 is not between 0 and 100"),
    "percent above": read("stage: live, percent: 101", "percent", "101 is not between 0 and 100"),
    "percent as text": read("stage: live, percent: '10'", "percent", "write the number without quotes"),
    "percent that is no number": read("stage: live, percent: abc", "percent", '"abc" is text'),
    "percent too fine": read("stage: live, percent: 33.33333", "percent", "more than 4 decimals; write 33.3333"),
    "percent NaN": read("stage: live, percent: .nan", "percent", "nan is no share"),
    "percent infinite": read("stage: live, percent: .inf", "percent", "inf is no share"),
    "percent as boolean": read("stage: live, percent: true", "percent", "true is no number"),
    "mirror percent above": read("mirror_percent: 100.1", "mirror_percent", "100.1 is not between 0 and 100"),
    "dual percent as text": group("writes: dual\n    dual_percent: all", ".dual_percent", '"all" is text'),
    "step as boolean": top("steps_percent: [1, true]", "steps_percent[1]", "true is no number"),
    "deadline of nothing": read("deadline_s: 0", "deadline_s", "must be greater than 0, not 0"),
    "deadline beyond a day": read("deadline_s: 86401", "deadline_s", "must be less than or equal to 86400"),
    "deadline as text": read("deadline_s: '15'", "deadline_s", 'must be a number, not "15"; write it without quotes'),
    "deadline NaN": read("deadline_s: .nan", "deadline_s", "must be a finite number, not nan"),
    "body limit below": read("body_limit: -1", "body_limit", "must be greater than or equal to 0, not -1"),
    "body limit with a fraction": read("body_limit: 1.5", "body_limit", "must be a whole number, not 1.5"),
    "body limit as text": read("body_limit: '15'", "body_limit", "write it without quotes"),
    "body limit with a unit": read("body_limit: 1MiB", "body_limit", 'must be a whole number, not "1MiB"'),
    "health that never asks": Break(
        "old: {",
        "old: {health: {path: /h, interval_s: 0}, ",
        4,
        "sides.old.health.interval_s",
        "must be greater than 0",
    ),
    "error rate above one": top("thresholds: {error_rate: 5}", "thresholds.error_rate", "less than or equal to 1"),
    "error rate infinite": top("thresholds: {error_rate: .inf}", "thresholds.error_rate", "a finite number"),
    "ratio of one": top("thresholds: {p95_ratio: 1}", "thresholds.p95_ratio", "must be greater than 1"),
    "window of few": top("thresholds: {min_samples: 20}", "thresholds.min_samples", "greater than or equal to 200"),
    "profile unknown": top("thresholds: {profile: literal}", "thresholds.profile", "strict, window"),
    "consistency of nothing": top("thresholds: {consistency: 0}", "thresholds.consistency", "must be greater than 0"),
    "text for a mapping": Break(
        "mcp: {path: /mcp}", "mcp: /mcp", 2, "mcp", 'must be a mapping (key: value), not "/mcp"'
    ),
    "list for a text": Break("migration: shop", "migration: [shop]", 1, "migration", "must be text, not a list"),
    "number for a text": Break("migration: shop", "migration: 12", 1, "migration", 'write "12" in quotes'),
    "text for a list": Break(
        'old: {instances: ["http://127.0.0.1:9001"]}',
        'old: {instances: "http://a:1"}',
        4,
        "sides.old.instances",
        'must be a list, not "http://a:1"; write [http://a:1]',
    ),
    "text for a recipe": Break("[[header:x-user-id]]", "[header:x-user-id]", 9, "groups.cart.key[0]", "must be a list"),
    "a mapping among routes": change("failure_codes: [{a: 1}]", "failure_codes[0]", "must be text, not a mapping"),
    "stateless in words": Break("/mcp}", "/mcp, stateless: no}", 2, "mcp.stateless", 'must be true or false, not "no"'),
    "a key twice": Break("  cart:\n", "  cart: {}\n  cart:\n", 8, "groups.cart", "is written twice, first on line 7"),
}


def test_the_file_that_is_broken_below_is_right(tmp_path: Path) -> None:
    assert load(tmp_path, SHOP).warnings == []


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found_where_it_is_and_alone(tmp_path: Path, name: str) -> None:
    assert_only_fault(tmp_path, CASES[name])


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = edited(
        ("migration: shop", "migration: 'a b'\nshops: 1"),
        ("http://127.0.0.1:9001", "x"),
        ("writes: none", "writes: maybe"),
        ("header:x-user-id", "headr:x"),
        ("class: read", "class: reads"),
        ("PUT /carts", "GET /carts"),
    )
    assert [(p.line, p.path) for p in faults_of(tmp_path, text)] == [
        (1, "migration"),
        (2, "shops"),
        (5, "sides.old.instances[0]"),
        (9, "groups.cart.writes"),
        (10, "groups.cart.key[0][0]"),
        (12, "operations.cart.read.class"),
    ]


def test_what_could_not_be_read_is_not_held_against_the_rest(tmp_path: Path) -> None:
    # The group and the tool's endpoint are there; that they are faulty is one mistake, not three.
    text = edited(("writes: none", "writes: maybe"), ("mcp: {path: /mcp}", "mcp: {path: 5}"))
    assert [p.path for p in faults_of(tmp_path, text)] == ["mcp.path", "groups.cart.writes"]


def test_a_line_of_the_message_is_file_line_path_fault_and_remedy(tmp_path: Path) -> None:
    (problem,) = faults_of(tmp_path, edited((READ, f"{READ}strict: yes, ")))
    file = tmp_path / "migration.yaml"
    assert str(problem) == f'{file}:11: operations.cart.read.strict: must be true or false, not "yes"'


def test_a_value_in_a_message_is_bounded_and_printable(tmp_path: Path) -> None:
    (problem,) = faults_of(tmp_path, edited((READ, f'{READ}stage: "\\e[31m{"x" * 1000}", ')))
    assert problem.message.isprintable()
    assert len(problem.message) < 250


@pytest.mark.parametrize("name", [r"a\e[31mb", r"a\nb", r"a\ud800b"])
def test_a_name_cannot_write_to_a_terminal_or_begin_a_line(tmp_path: Path, name: str) -> None:
    text = edited(("migration: shop", f'migration: "{name}"'), ("  cart.change:", f'  "{name}":'))
    lines = [str(problem) for problem in faults_of(tmp_path, text)]
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_a_password_in_an_address_is_not_repeated(tmp_path: Path) -> None:
    problems = faults_of(tmp_path, edited(("http://127", "http://me:hunter2@127")))
    assert "hunter2" not in repr(problems)
    assert "user info" in problems[0].message


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read"):
        load_migration(tmp_path / "none.yaml")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_migration(tmp_path)
