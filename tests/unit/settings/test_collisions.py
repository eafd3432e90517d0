"""What entries of a migration file do to each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.settings.scene import (
    CHANGE,
    SHOP,
    Break,
    assert_only_fault,
    change,
    edited,
    faults_of,
    group,
    load,
    top,
)

PUT = "PUT /carts/{id}"
AT_CHANGE = (12, "operations.cart.change.match.rest")
RENAMED = "  cart.change:"

CASES: dict[str, Break] = {
    "a name with a space": Break("migration: shop", "migration: 'a b'", 1, "migration", '"a b" is no name'),
    "a name that begins with a dot": Break(RENAMED, "  .change:", 12, "operations..change", "a letter or digit first"),
    "a name too long": Break(RENAMED, f"  {'x' * 65}:", 12, f"operations.{'x' * 65}", "write 1-64 letters"),
    "a reserved name": Break(RENAMED, "  all:", 12, "operations.all", '"all" is reserved'),
    "a reserved name in capitals": Break(RENAMED, "  Default:", 12, "operations.Default", "is reserved"),
    "two names that differ in case": Break(
        RENAMED, "  Cart.Read:", 12, "operations.Cart.Read", "the name of operations.cart.read on line 11"
    ),
    "an operation with the name of a group": Break(
        RENAMED, "  cart:", 12, "operations.cart", "has the name of groups.cart on line 7"
    ),
    "an unknown group": Break(
        'group: cart, match: {rest: "PUT',
        'group: card, match: {rest: "PUT',
        12,
        "operations.cart.change.group",
        'there is no group "card"; did you mean cart?',
    ),
    "a key beside a group": change("key: [[header:a]]", "key", "operations of cart share one key; remove it here"),
    "a group without operations": Break(
        "operations:\n", "  order: {key: [[header:a]]}\noperations:\n", 10, "groups.order", "has no operations"
    ),
    "an instance on both sides": Break("9002", "9001", 5, "sides.new.instances", "is an instance of old as well"),
    "a tool without an endpoint": Break(
        "mcp: {path: /mcp}\n", "", 10, "operations.cart.read.match.mcp", "needs the path of the MCP endpoint"
    ),
    "a tool that no call can name": Break(
        "mcp: cart_read", "mcp: cart read", 11, "operations.cart.read.match.mcp", '"cart read" is no tool name'
    ),
    "two operations, one tool": Break(
        f'"{PUT}"', f'"{PUT}", mcp: cart_read', 12, "operations.cart.change.match.mcp", "tool of cart.read on line 11"
    ),
    "two operations, one route": Break(
        PUT, "GET /carts/{id}", *AT_CHANGE, "GET /carts/{id} of cart.read on line 11 match the same request"
    ),
    "a parameter of another name": Break(PUT, "GET /carts/{key}", *AT_CHANGE, "match the same request"),
    "a text where the other has a parameter": Break(PUT, "GET /carts/all", *AT_CHANGE, "match the same request"),
    "texts and parameters crosswise": Break(PUT, "GET /{x}/7", *AT_CHANGE, "match the same request"),
    "a route of two that meets": Break(
        f'"{PUT}"', f'["{PUT}", "GET /{{a}}/{{b}}"]', *AT_CHANGE, "GET /{a}/{b} and GET /carts/{id}"
    ),
    "a route on the MCP path": Break(PUT, "POST /mcp", *AT_CHANGE, "POST /mcp matches the MCP path /mcp"),
    "a parameter on the MCP path": Break(PUT, "POST /{any}", *AT_CHANGE, "matches the MCP path /mcp"),
    "a route that is denied": Break(
        PUT, "PUT /v1/workspaces/{id}", *AT_CHANGE, "can never be reached: deny_paths holds /v1/workspaces"
    ),
    "an endpoint that is denied": top(
        "deny_paths: [/mcp]", "mcp.path", "can never be reached: deny_paths holds /mcp"
    )._replace(line=3),
}


@pytest.mark.parametrize("name", CASES)
def test_a_collision_is_found_where_it_is_and_alone(tmp_path: Path, name: str) -> None:
    assert_only_fault(tmp_path, CASES[name])


@pytest.mark.parametrize(
    "route", ["PUT /carts/{id}", "GET /cart/{id}", "GET /carts", "GET /carts/{id}/items", "GET /v1/workspace/{id}"]
)
def test_routes_that_no_request_has_in_common_stand_side_by_side(tmp_path: Path, route: str) -> None:
    assert load(tmp_path, edited((PUT, route))).warnings == []


def test_one_operation_may_not_match_a_request_twice(tmp_path: Path) -> None:
    (problem,) = faults_of(tmp_path, edited((f'"{PUT}"', f'["{PUT}", "PUT /{{a}}/{{b}}"]')))
    assert "match the same request" in problem.message


def test_a_path_source_must_be_in_every_route_of_its_operations(tmp_path: Path) -> None:
    problems = faults_of(tmp_path, edited(("[[header:x-user-id]]", "[[header:a], [path:user]]")))
    assert {(p.line, p.path) for p in problems} == {(9, "groups.cart.key[1]")}
    assert [p.message for p in problems] == [
        "path:user is no parameter of GET /carts/{id} of cart.read; add it there",
        "path:user is no parameter of PUT /carts/{id} of cart.change; add it there",
    ]


def test_a_path_source_of_an_operation_without_a_group_is_looked_for_in_its_own_routes(tmp_path: Path) -> None:
    alone = ('group: cart, match: {rest: "PUT /carts/{id}"}', 'key: [[path:no]], match: {rest: "PUT /carts/{id}"}')
    (problem,) = faults_of(tmp_path, edited(alone))
    assert (problem.line, problem.path) == (12, "operations.cart.change.key[0]")
    (tmp_path / "right").mkdir()
    assert load(tmp_path / "right", edited((alone[0], alone[1].replace("path:no", "path:id")))).warnings == []


def test_no_operation_at_all_is_no_migration(tmp_path: Path) -> None:
    head = SHOP[: SHOP.index("groups:")]
    (problem,) = faults_of(tmp_path, head + "operations: {}\n")
    assert (problem.line, problem.path) == (6, "operations")
    assert problem.message == "is empty; write at least one operation"


@pytest.mark.parametrize(
    ("edit", "warning"),
    [
        (
            ('group: cart, match: {rest: "PUT', 'match: {rest: "PUT'),
            "12: operations.cart.change: has neither group nor key, so no percent can move it; write a key",
        ),
        ((CHANGE, f"{CHANGE}strict: true, "), "12: operations.cart.change.strict: has no effect: it is for reads"),
        (("header:x-user-id", "path:id"), "9: groups.cart.key: MCP calls of cart.read have no path parameters"),
        (
            ("old: {", "old: {ca_file: /ca.pem, "),
            "4: sides.old.ca_file: has no effect: no instance of this side is https",
        ),
    ],
)
def test_what_is_allowed_and_probably_not_meant_is_warned_of(
    tmp_path: Path, edit: tuple[str, str], warning: str
) -> None:
    (found,) = load(tmp_path, edited(edit)).warnings
    assert found.startswith(f"{tmp_path / 'migration.yaml'}:{warning}")


def test_warnings_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    warnings = load(tmp_path, edited((CHANGE, f"{CHANGE}strict: true, "), ("header:x-user-id", "path:id"))).warnings
    assert [warning.split(": ")[1] for warning in warnings] == ["groups.cart.key", "operations.cart.change.strict"]


def test_a_fault_in_a_group_does_not_make_its_members_strangers(tmp_path: Path) -> None:
    assert_only_fault(tmp_path, group("writes: none\n    independent: 5", ".independent", "must be true or false"))
