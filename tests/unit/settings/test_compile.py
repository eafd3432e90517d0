"""From the shape of a migration file to core's definition: values, lists, deadlines, bundled services, the digest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.compare.rules import Rule
from gateway.core.model import Balance, Deadlines, HealthProbe, Instance, OperationClass, Side, Writes
from gateway.settings import load_migration
from gateway.settings.addresses import is_placeholder
from tests.unit.settings.scene import CHANGE, READ, SHOP, Break, assert_only_fault, change, edited, load, read, top

ONE = 'old: {instances: ["http://127.0.0.1:9001"]}'

CASES: dict[str, Break] = {
    "no instances": Break(ONE, "old: {instances: []}", 4, "sides.old.instances", "is empty; write at least one"),
    "an instance twice": Break(
        ONE,
        'old: {instances: ["http://a:1", "http://A:1"]}',
        4,
        "sides.old.instances[1]",
        "http://A:1 stands in this list",
    ),
    "a Host that is a URL": Break("old: {", "old: {host: 'http://x', ", 4, "sides.old.host", "write host or host:port"),
    "a probe that is no path": Break(
        "old: {", "old: {health: {path: healthz}, ", 4, "sides.old.health.path", 'write "/healthz"'
    ),
    "an endpoint that is no path": Break("path: /mcp", "path: mcp/", 2, "mcp.path", 'must start with /; write "/mcp"'),
    "no match at all": Break('{rest: "PUT /carts/{id}"}', "{}", 12, "operations.cart.change.match", "matches nothing"),
    "a route twice": Break(
        '"PUT /carts/{id}"',
        '["PUT /a", "PUT /a"]',
        12,
        "operations.cart.change.match.rest[1]",
        "PUT /a stands in this list",
    ),
    "a phase beyond the whole": read(
        "deadline_s: 10, deadlines: {first_byte_s: 20}", "deadlines.first_byte_s", "20 s exceeds the 10 s of the whole"
    ),
    "a phase beyond the whole of the default": top(
        "default: {deadline_s: 1, deadlines: {send_s: 2}}", "default.deadlines.send_s", "2 s exceeds the 1 s"
    ),
    "a failure status of success": change(
        "failure_statuses: [200]", "failure_statuses[0]", "greater than or equal to 400"
    ),
    "a failure code in capitals": change("failure_codes: [Gone]", "failure_codes[0]", '"Gone" is no problem code'),
    "a failure code twice": change("failure_codes: [a, b, a]", "failure_codes[2]", "a stands in this list already"),
    "everything denied": top("deny_paths: [/]", "deny_paths[0]", "denies every path"),
    "a denied path that is none": top("deny_paths: [internal]", "deny_paths[0]", 'write "/internal"'),
    "a denied path twice": top("deny_paths: [/a, /a]", "deny_paths[1]", "/a stands in this list already"),
    "a proxy twice": top(
        "trusted_proxies: [10.0.0.1, 10.0.0.1/32]", "trusted_proxies[1]", "10.0.0.1/32 stands in this"
    ),
    "a key without recipes": Break("[[header:x-user-id]]", "[]", 9, "groups.cart.key", "write at least one list of"),
    "a recipe without sources": Break("[[header:x-user-id]]", "[[]]", 9, "groups.cart.key[0]", "at least one source"),
    "a recipe twice": Break(
        "[[header:x-user-id]]", "[[header:a], [header:A]]", 9, "groups.cart.key[1]", "stands in this key already"
    ),
    "a source twice": Break(
        "[[header:x-user-id]]", "[[header:a, header:A]]", 9, "groups.cart.key[0][1]", "header:A stands in this list"
    ),
    "steps that fall": top("steps_percent: [5, 1]", "steps_percent", "5 %, 1 % does not rise from above 0"),
    "steps that stand": top("steps_percent: [5, 5]", "steps_percent", "does not rise"),
    "steps from nothing": top("steps_percent: [0, 1]", "steps_percent", "does not rise from above 0"),
    "no steps": top("steps_percent: []", "steps_percent", "write such as [1, 5, 25, 50, 100]"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found_where_it_is_and_alone(tmp_path: Path, name: str) -> None:
    assert_only_fault(tmp_path, CASES[name])


def test_what_the_file_leaves_out_has_the_defaults_of_the_contract(tmp_path: Path) -> None:
    definition = load(tmp_path, SHOP).definition
    old = definition.sides[Side.OLD]
    assert (old.balance, old.host, old.ca_file, old.health) == (Balance.KEY, None, None, None)
    assert (definition.default.op_class, definition.default.side) == (OperationClass.WRITE, Side.OLD)
    assert definition.deny_paths == ("/v1/workspaces",)
    assert definition.trusted_proxies == ()
    assert (definition.thresholds.error_rate, definition.thresholds.p95_ratio) == (0.05, 2.0)
    assert definition.thresholds.consistency == 0.9999
    assert definition.steps == (10_000, 50_000, 250_000, 500_000, 1_000_000)
    operation = definition.operations["cart.read"]
    assert (operation.body_limit_bytes, operation.strict, operation.failure_codes) == (1 << 20, False, frozenset())


def test_a_group_is_dual_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, edited(("    writes: none\n", ""))).definition.groups["cart"].writes is Writes.DUAL


def test_an_operation_without_a_group_is_its_own_over_one_store(tmp_path: Path) -> None:
    alone = ('group: cart, match: {rest: "PUT', 'key: [[header:a]], match: {rest: "PUT')
    definition = load(tmp_path, edited(alone)).definition
    own = definition.groups["cart.change"]
    assert (own.writes, own.salt, own.operations, own.implicit) == (
        Writes.SHARED,
        "shop:cart.change",
        ("cart.change",),
        True,
    )
    assert definition.groups["cart"].operations == ("cart.read",)
    assert definition.groups["cart"].salt == "shop:cart"


def test_everything_that_a_side_can_say_arrives(tmp_path: Path) -> None:
    side = (
        'old: {instances: ["https://b.test:443", "unix:/run/b.sock"], balance: p2c, host: "b.test:1", ca_file: ca.pem,'
        " health: {path: /up, interval_s: 2.5}}"
    )
    old = load(tmp_path, edited((ONE, side))).definition.sides[Side.OLD]
    assert [i.name for i in old.instances] == ["https://b.test:443", "unix:/run/b.sock"]
    assert (old.balance, old.host, old.ca_file, old.health) == (
        Balance.P2C,
        "b.test:1",
        "ca.pem",
        HealthProbe("/up", 2.5),
    )


class TestDeadlines:
    def test_one_number_bounds_the_whole_and_the_first_byte(self, tmp_path: Path) -> None:
        found = load(tmp_path, edited((READ, f"{READ}deadline_s: 7, "))).definition.operations["cart.read"].deadlines
        assert found == replace(Deadlines(), total_s=7, first_byte_s=7)

    def test_a_phase_of_its_own_comes_first(self, tmp_path: Path) -> None:
        fields = "deadline_s: 7, deadlines: {first_byte_s: 3, connect_s: 1}"
        found = load(tmp_path, edited((READ, f"{READ}{fields}, "))).definition.operations["cart.read"].deadlines
        assert found == replace(Deadlines(), total_s=7, first_byte_s=3, connect_s=1)

    def test_what_is_not_said_comes_from_the_gateway(self, tmp_path: Path) -> None:
        (tmp_path / "m.yaml").write_text(edited((READ, f"{READ}deadlines: {{send_s: 1}}, ")))
        gateway = Deadlines(connect_s=2, send_s=3, first_byte_s=4, between_bytes_s=5, total_s=6)
        definition = load_migration(tmp_path / "m.yaml", deadlines=gateway).definition
        assert definition.operations["cart.read"].deadlines == replace(gateway, send_s=1)
        assert definition.operations["cart.change"].deadlines == gateway
        assert definition.default.deadlines == gateway


class TestBundledServices:
    TEXT = edited((ONE, 'old: {instances: ["bundled:approach1", "http://127.0.0.1:9001"]}'))

    def test_without_an_address_a_service_stays_a_placeholder(self, tmp_path: Path) -> None:
        first, second = load(tmp_path, self.TEXT).definition.sides[Side.OLD].instances
        assert first.name == "bundled:approach1"
        assert is_placeholder(first)
        assert not is_placeholder(second)

    def test_with_addresses_it_becomes_all_of_them(self, tmp_path: Path) -> None:
        (tmp_path / "m.yaml").write_text(self.TEXT)
        two = (Instance("http://127.0.0.1:1", "127.0.0.1", 1), Instance("unix:/a", "", 0, unix_path="/a"))
        found = load_migration(tmp_path / "m.yaml", {"approach1": two}).definition.sides[Side.OLD].instances
        assert found[:2] == two
        assert len(found) == 3

    def test_a_service_that_does_not_exist_is_a_mistake_of_the_caller(self, tmp_path: Path) -> None:
        (tmp_path / "m.yaml").write_text(self.TEXT)
        with pytest.raises(ValueError, match="approach1, approach2, not approach3"):
            load_migration(tmp_path / "m.yaml", {"approach3": ()})


class TestDigest:
    def digest(self, directory: Path, *edits: tuple[str, str]) -> str:
        return load(directory, edited(*edits)).definition.digest

    def test_comments_order_and_spelling_do_not_count(self, tmp_path: Path) -> None:
        first, second = SHOP.splitlines()[-2:]
        same = SHOP.replace(f"{first}\n{second}", f"{second}\n{first}  # turned round").replace(
            "x-user-id", "X-User-Id"
        )
        assert load(tmp_path, same).definition.digest == self.digest(tmp_path)

    def test_policy_does_not_count(self, tmp_path: Path) -> None:
        moved = ("writes: none", "writes: none\n    stage: live\n    percent: 10\n    allow: [a]")
        assert self.digest(tmp_path, moved) == self.digest(tmp_path)

    @pytest.mark.parametrize(
        "edit",
        [
            ("9002", "9003"),
            ("/mcp}", "/mcp, stateless: false}"),
            ("x-user-id", "x-user"),
            ("writes: none", "writes: shared"),
            ("PUT /carts", "PATCH /carts"),
            (CHANGE, f"{CHANGE}deadline_s: 5, "),
            (CHANGE, f"{CHANGE}failure_codes: [internal], "),
            ("migration: shop", "migration: shop\ntrusted_proxies: [10.0.0.0/8]"),
        ],
    )
    def test_any_other_change_does(self, tmp_path: Path, edit: tuple[str, str]) -> None:
        assert self.digest(tmp_path, edit) != self.digest(tmp_path)


def test_parts_say_how_they_are_compared(tmp_path: Path) -> None:
    parts = '{"$.a": {form: uuid}, "$.b": {normalise: [sha, time]}, "$.{}": {nullable: true, any_length: true}}'
    text = edited((READ, f"{READ}compare: {{parts: {parts}}}, "))
    rules = load(tmp_path, text).definition.operations["cart.read"].comparison
    assert rules.by_path == {
        "$.a": Rule(form="uuid"),
        "$.b": Rule(normalise=("sha", "time")),
        "$.{}": Rule(nullable=True, any_length=True),
    }
    assert "etag" in rules.headers


def test_the_example_in_the_docs_can_be_loaded(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "comparison.md").read_text(encoding="utf-8")
    [example] = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]
    lines = "".join(f"    {line}\n" for line in example.splitlines())
    text = edited(
        (f'{READ}class: read, group: cart, match: {{rest: "GET /carts/{{id}}", mcp: cart_read}}}}\n', _SPREAD + lines)
    )
    assert len(load(tmp_path, text).definition.operations["cart.read"].comparison.by_path) == example.count('"$')


_SPREAD = """\
  cart.read:
    class: read
    group: cart
    match: {rest: "GET /carts/{id}", mcp: cart_read}
"""
