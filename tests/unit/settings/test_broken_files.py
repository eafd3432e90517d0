"""Every fault of a migration file is found, with its line and what would be right; all faults at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import SettingsError, load_migration

GOOD = """\
migration: shop
mcp: {path: /mcp}
sides:
  old: {instances: ["http://127.0.0.1:9001"]}
  new: {instances: ["http://127.0.0.1:9002"]}
groups:
  cart:
    writes: none
    key: [[header:x-user-id]]
operations:
  cart.read: {class: read, group: cart, match: {rest: "GET /carts/{id}", mcp: cart_read}}
  cart.change: {class: write, group: cart, match: {rest: "PUT /carts/{id}"}}
"""

Case = tuple[str, str, int, str, str]
"""What is replaced, by what, the line and the path of the fault, a piece of its message."""

CASES: dict[str, Case] = {
    "unknown key": ("migration: shop", "migration: shop\nmigrate: x", 2, "migrate", "migration"),
    "unknown key inside": ("writes: none", "write: none", 8, "groups.cart.write", "writes"),
    "duplicate key": ("  cart:\n", "  cart: {key: [[header:a]]}\n  cart:\n", 8, "groups.cart", "7"),
    "no name": ("migration: shop\n", "", 1, "migration", "missing"),
    "bad name": ("migration: shop", "migration: 'a b'", 1, "migration", ""),
    "yes is a word": ("class: read,", "strict: yes, class: read,", 11, "operations.cart.read.strict", "true"),
    "unknown class": ("class: read", "class: reads", 11, "operations.cart.read.class", "read"),
    "unknown group": (
        'group: cart, match: {rest: "PUT',
        'group: card, match: {rest: "PUT',
        12,
        "operations.cart.change.group",
        "cart",
    ),
    "unknown writes": ("writes: none", "writes: maybe", 8, "groups.cart.writes", "dual"),
    "unknown stage": ("class: read,", "stage: lives, class: read,", 11, "operations.cart.read.stage", "live"),
    "stage as boolean": ("class: read,", "stage: false, class: read,", 11, "operations.cart.read.stage", ""),
    "percent below": (
        "class: read,",
        "stage: live, percent: -1, class: read,",
        11,
        "operations.cart.read.percent",
        "0",
    ),
    "percent above": (
        "class: read,",
        "stage: live, percent: 101, class: read,",
        11,
        "operations.cart.read.percent",
        "100",
    ),
    "percent as text": (
        "class: read,",
        "stage: live, percent: '10', class: read,",
        11,
        "operations.cart.read.percent",
        "",
    ),
    "percent too fine": (
        "class: read,",
        "stage: live, percent: 33.33333, class: read,",
        11,
        "operations.cart.read.percent",
        "4",
    ),
    "percent NaN": ("class: read,", "stage: live, percent: .nan, class: read,", 11, "operations.cart.read.percent", ""),
    "percent as boolean": (
        "class: read,",
        "stage: live, percent: true, class: read,",
        11,
        "operations.cart.read.percent",
        "",
    ),
    "share outside live": (
        "writes: none",
        "writes: none\n    stage: off\n    percent: 10",
        10,
        "groups.cart.percent",
        "live",
    ),
    "members disagree": (
        "  cart.read: {class: read, group: cart,",
        "  cart.add: {class: write, group: cart, stage: live, percent: 20, match: {rest: POST /carts}}\n"
        "  cart.read: {stage: live, percent: 10, class: read, group: cart,",
        12,
        "operations.cart.read.percent",
        "cart",
    ),
    "dual share without dual": (
        "writes: none",
        "writes: none\n    dual_percent: 10",
        9,
        "groups.cart.dual_percent",
        "dual",
    ),
    "dual stage without dual": ("writes: none", "writes: none\n    stage: dual_write", 9, "groups.cart.stage", "dual"),
    "independent without dual": (
        "writes: none",
        "writes: none\n    independent: true",
        9,
        "groups.cart.independent",
        "dual",
    ),
    "no instances": (
        'old: {instances: ["http://127.0.0.1:9001"]}',
        "old: {instances: []}",
        4,
        "sides.old.instances",
        "at least one",
    ),
    "no scheme": ("http://127.0.0.1:9001", "127.0.0.1:9001", 4, "sides.old.instances[0]", "http://"),
    "no port": ("http://127.0.0.1:9001", "http://127.0.0.1", 4, "sides.old.instances[0]", "port"),
    "path in an instance": ("http://127.0.0.1:9001", "http://127.0.0.1:9001/v1", 4, "sides.old.instances[0]", "path"),
    "user info": ("http://127.0.0.1:9001", "http://me:secret@127.0.0.1:9001", 4, "sides.old.instances[0]", ""),
    "unknown bundled service": ("http://127.0.0.1:9001", "bundled:approach3", 4, "sides.old.instances[0]", "approach1"),
    "relative socket": ("http://127.0.0.1:9001", "unix:run/a.sock", 4, "sides.old.instances[0]", "unix:/"),
    "one instance on both sides": ("9002", "9001", 5, "sides.new.instances", "old"),
    "unknown balance": ("old: {", "old: {balance: random, ", 4, "sides.old.balance", "p2c"),
    "unknown key source": ("header:x-user-id", "headr:x-user-id", 9, "groups.cart.key[0][0]", "header"),
    "a secret as key": ("header:x-user-id", "header:authorization", 9, "groups.cart.key[0][0]", ""),
    "path source that a route lacks": ("header:x-user-id", "path:user", 9, "groups.cart.key[0]", "user"),
    "empty recipe": ("[[header:x-user-id]]", "[[]]", 9, "groups.cart.key[0]", ""),
    "no key": ("    key: [[header:x-user-id]]\n", "", 7, "groups.cart.key", "missing"),
    "group without operations": (
        "operations:\n",
        "  order: {writes: none, key: [[header:a]]}\noperations:\n",
        10,
        "groups.order",
        "",
    ),
    "no match": ('match: {rest: "PUT /carts/{id}"}', "match: {}", 12, "operations.cart.change.match", ""),
    "route without method": ("PUT /carts/{id}", "/carts/{id}", 12, "operations.cart.change.match.rest", ""),
    "route that is not absolute": ("PUT /carts/{id}", "PUT carts/{id}", 12, "operations.cart.change.match.rest", "/"),
    "route with dots": ("PUT /carts/{id}", "PUT /a/../b", 12, "operations.cart.change.match.rest", ""),
    "route with a double slash": ("PUT /carts/{id}", "PUT /a//b", 12, "operations.cart.change.match.rest", ""),
    "route with a query": ("PUT /carts/{id}", "PUT /a?x=1", 12, "operations.cart.change.match.rest", ""),
    "route with a name twice": ("PUT /carts/{id}", "PUT /a/{id}/{id}", 12, "operations.cart.change.match.rest", "id"),
    "route with half a name": ("PUT /carts/{id}", "PUT /a/{id", 12, "operations.cart.change.match.rest", ""),
    "two operations, one route": (
        "PUT /carts/{id}",
        "GET /carts/{key}",
        12,
        "operations.cart.change.match.rest",
        "cart.read",
    ),
    "two operations, one tool": (
        '"PUT /carts/{id}"',
        '"PUT /carts/{id}", mcp: cart_read',
        12,
        "operations.cart.change.match.mcp",
        "cart.read",
    ),
    "tool without a path": ("mcp: {path: /mcp}\n", "", 10, "operations.cart.read.match.mcp", "mcp"),
    "deadline of nothing": ("class: read,", "deadline_s: 0, class: read,", 11, "operations.cart.read.deadline_s", "0"),
    "body limit below": ("class: read,", "body_limit: -1, class: read,", 11, "operations.cart.read.body_limit", ""),
    "mirrored write": (
        "class: write,",
        "mirror_percent: 10, class: write,",
        12,
        "operations.cart.change.mirror_percent",
        "read",
    ),
    "proxy that is none": (
        "migration: shop",
        "migration: shop\ntrusted_proxies: [everybody]",
        2,
        "trusted_proxies[0]",
        "",
    ),
    "proxy network with host bits": (
        "migration: shop",
        "migration: shop\ntrusted_proxies: [10.0.0.1/8]",
        2,
        "trusted_proxies[0]",
        "10.0.0.0/8",
    ),
    "denied path that is none": ("migration: shop", "migration: shop\ndeny_paths: [internal]", 2, "deny_paths[0]", "/"),
    "threshold above one": (
        "migration: shop",
        "migration: shop\nthresholds: {error_rate: 5}",
        2,
        "thresholds.error_rate",
        "1",
    ),
    "text for a mapping": ("mcp: {path: /mcp}", "mcp: /mcp", 2, "mcp", ""),
    "list for a text": ("migration: shop", "migration: [shop]", 1, "migration", ""),
    "not YAML": ("migration: shop", "migration: [shop", 2, "", ""),
    "two documents": ("migration: shop", "---\na: 1\n---\nmigration: shop", 3, "", ""),
    "a tag": ("migration: shop", "migration: !!str shop", 1, "", "tag"),
    "a merge bomb": ("migration: shop", "x: &a [1,1]\ny: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nmigration: shop", 1, "x", ""),
    "a reserved name": ("  cart.change:", "  all:", 12, "operations.all", ""),
    "default that is no side": ("migration: shop", "migration: shop\ndefault: {side: newer}", 2, "default.side", "new"),
}


def problems(directory: Path, text: str) -> SettingsError:
    file = directory / "migration.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_migration(file)
    return caught.value


def test_the_file_that_is_broken_below_is_right(tmp_path: Path) -> None:
    (tmp_path / "migration.yaml").write_text(GOOD)
    assert load_migration(tmp_path / "migration.yaml").warnings == []


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found_where_it_is(tmp_path: Path, name: str) -> None:
    before, after, line, path, text = CASES[name]
    assert GOOD.count(before) >= 1
    error = problems(tmp_path, GOOD.replace(before, after, 1))
    found = [(p.line, p.path, p.message) for p in error.problems]
    assert any(at == line and where == path and text in message for at, where, message in found), found
    assert f"migration.yaml:{line}: " in str(error)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("class: read", "class: reads").replace("9001", "x").replace("writes: none", "writes: maybe")
    assert {p.path for p in problems(tmp_path, text).problems} >= {
        "operations.cart.read.class",
        "sides.old.instances[0]",
        "groups.cart.writes",
    }


def test_a_password_in_an_address_is_not_repeated(tmp_path: Path) -> None:
    assert "hunter2" not in str(problems(tmp_path, GOOD.replace("http://127", "http://me:hunter2@127", 1)))


@pytest.mark.parametrize("text", ["", "# nothing\n", "[]", "text", "\xff", "a: *b", "{" * 500])
def test_what_is_no_mapping_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "migration.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError):
        load_migration(tmp_path / "migration.yaml")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml"):
        load_migration(tmp_path / "none.yaml")
