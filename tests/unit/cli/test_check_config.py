"""`crossfade check-config`: tables or a document for a file that is right, every fault at once for one that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.main import main

SHOP = """\
migration: shop
mcp: {path: /mcp, stateless: false}
sides:
  old: {instances: ["http://127.0.0.1:9001"], host: old.test}
  new: {instances: ["http://127.0.0.1:9002", "unix:/run/new.sock"], balance: p2c, health: {path: /up}}
groups:
  cart:
    writes: shared
    key: [[header:x-user-id], [cookie:visitor, client_address]]
    stage: live
    percent: 12.5
    allow: [b, a]
operations:
  cart.read: {class: read, group: cart, match: {rest: "GET /carts/{id}", mcp: cart_read}, mirror_percent: 5,
              deadline_s: 7}
  cart.change: {class: write, group: cart, match: {rest: ["PUT /carts/{id}", "PATCH /carts/{id}"]}, strict: true}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP)
    return path


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_document_says_everything_that_was_compiled(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", str(file), "--json"]) == 0
    found = document(capsys)
    assert len(found.pop("digest")) == 64
    (warning,) = found.pop("warnings")
    assert "operations.cart.change.strict" in warning
    phases = {"connect_s": 5.0, "send_s": 30.0, "first_byte_s": 60.0, "between_bytes_s": 300.0, "total_s": None}
    assert found == {
        "file": str(file),
        "migration": "shop",
        "mcp": {"path": "/mcp", "stateless": False},
        "sides": {
            "old": {
                "instances": ["http://127.0.0.1:9001"],
                "balance": "key",
                "host": "old.test",
                "ca_file": None,
                "health": None,
            },
            "new": {
                "instances": ["http://127.0.0.1:9002", "unix:/run/new.sock"],
                "balance": "p2c",
                "host": None,
                "ca_file": None,
                "health": {"path": "/up", "interval_s": 1.0},
            },
        },
        "groups": {
            "cart": {
                "writes": "shared",
                "independent": False,
                "salt": "shop:cart",
                "key": [["header:x-user-id"], ["cookie:visitor", "client_address"]],
                "dual_percent": 0,
                "allow": ["a", "b"],
                "deny": [],
                "operations": ["cart.read", "cart.change"],
            }
        },
        "operations": {
            "cart.read": {
                "class": "read",
                "group": "cart",
                "rest": ["GET /carts/{id}"],
                "mcp": "cart_read",
                "deadlines": {**phases, "first_byte_s": 7.0, "total_s": 7.0},
                "body_limit": 1048576,
                "strict": False,
                "failure_codes": [],
                "failure_statuses": None,
                "stage": "live",
                "percent": 12.5,
                "mirror_percent": 5,
            },
            "cart.change": {
                "class": "write",
                "group": "cart",
                "rest": ["PUT /carts/{id}", "PATCH /carts/{id}"],
                "mcp": None,
                "deadlines": phases,
                "body_limit": 1048576,
                "strict": True,
                "failure_codes": [],
                "failure_statuses": None,
                "stage": "live",
                "percent": 12.5,
                "mirror_percent": 0,
            },
        },
        "default": {"class": "write", "side": "old", "deadlines": phases, "body_limit": None},
        "deny_paths": ["/v1/workspaces"],
        "trusted_proxies": [],
        "thresholds": {
            "error_rate": 0.05,
            "p95_ratio": 2.0,
            "consistency": 0.9999,
            "profile": "balanced",
            "window_s": 60.0,
            "min_samples": 200,
        },
        "steps_percent": [1, 5, 25, 50, 100],
    }


def test_people_get_tables(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", str(file)]) == 0
    out, err = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == f"{file} is right: migration shop"
    assert "new http://127.0.0.1:9002, unix:/run/new.sock p2c" in lines
    assert "cart shared shop:cart header:x-user-id | cookie:visitor/client_address" in lines
    assert "cart.read read cart GET /carts/{id}, tool cart_read 7.0 live 12.5" in lines
    assert "cart.change write cart PUT /carts/{id}, PATCH /carts/{id} - live 12.5" in lines
    assert "whatever else: old" in lines
    assert any(line.startswith("warning: ") and "cart.change.strict" in line for line in lines)
    assert err == ""


def test_without_a_file_the_one_of_the_directory_is_checked(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").mkdir()
    file.rename(tmp_path / "config" / "migration.yaml")
    monkeypatch.chdir(tmp_path)
    assert main(["check-config", "--json"]) == 0
    assert document(capsys)["migration"] == "shop"


def test_without_any_the_packaged_one_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check-config", "--json"]) == 0
    assert document(capsys)["migration"] == "git"


def test_every_fault_is_told_at_once_on_standard_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(SHOP.replace("class: read", "class: reads").replace("percent: 12.5", "percent: 101"))
    assert main(["check-config", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{file}:11: groups.cart.percent: 101 is not between 0 and 100" in err
    assert f"{file}:14: operations.cart.read.class: must be one of read, write" in err


def test_every_fault_stands_in_the_document_with_its_place(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(SHOP.replace("class: read", "class: reads").replace("percent: 12.5", "percent: 101"))
    assert main(["check-config", str(file), "--json"]) == 1
    found = document(capsys)
    assert found["code"] == "invalid_configuration"
    assert [(p["file"], p["line"], p["path"]) for p in found["problems"]] == [
        (str(file), 11, "groups.cart.percent"),
        (str(file), 14, "operations.cart.read.class"),
    ]
    assert all(p["message"] in found["detail"] for p in found["problems"])


def test_a_file_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml: cannot be read" in capsys.readouterr().err
