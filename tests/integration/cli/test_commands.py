from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from gateway.core.force import verify
from gateway.core.model import Side
from tests.integration.cli.conftest import Crossfade, crossfade
from tests.support.control import migration
from tests.support.up import Up

REASON = ("--reason", "test")


def operations(run: Crossfade) -> dict[str, tuple[str, float]]:
    status = run("status", "--json").document["operations"]
    return {name: (operation["stage"], operation["effective_percent"]) for name, operation in status.items()}


@pytest.fixture
def live(run: Crossfade) -> Crossfade:
    """`workspace` in live at 10 %."""
    run("stage", "workspace", "live", *REASON)
    assert run("share", "workspace", "10", *REASON).code == 0
    return run


def test_the_first_steps_are_four_commands(run: Crossfade) -> None:
    assert "epoch" in run("status").out
    assert run("stage", "workspace", "live", *REASON).code == 0
    shared = run("share", "workspace", "33.3333", *REASON)
    assert "33.3333" in shared.out
    assert operations(run)["work.write"] == ("live", 33.3333)
    rolled = run("rollback", "workspace", *REASON, "--json")
    assert rolled.document["changed"]["stage"] == {"before": "live", "after": "shadow_read"}
    assert operations(run)["work.write"] == ("shadow_read", 0)
    assert run("rollback", "workspace", *REASON, "--json").document["changed"] == {}


def test_a_target_may_be_an_operation_or_a_group_and_be_said_so(run: Crossfade) -> None:
    assert run("stage", "operation:alone", "live", *REASON).code == 0
    assert run("share", "alone", "5", *REASON).code == 0
    assert operations(run)["alone"] == ("live", 5)
    assert run("rollback", "operation:alone", *REASON).code == 0
    assert run("share", "group:alone", "5", *REASON).code == 1
    refused = run("share", "nothing", "5", *REASON, "--json")
    assert (refused.code, refused.document["code"]) == (1, "unknown_operation")


def test_a_kill_does_not_fail_on_its_reason(live: Crossfade) -> None:
    killed = live("kill", "operation:alone", "--reason", "h\udcfclle", "--json")
    assert killed.code == 0
    assert [kill["reason"] for kill in live("status", "--json").document["kills"]] == ["h\ufffdlle"]


def test_a_kill_stays_until_it_is_re_armed(live: Crossfade) -> None:
    killed = live("kill", "operation:work.read", *REASON)
    assert "group:workspace" in killed.out
    assert operations(live)["work.write"] == ("live", 0)
    assert "KILL operation:work.read" in live("status").out
    again = live("kill", "operation:work.read", *REASON, "--json")
    assert (again.code, again.document["changed"]) == (0, {})
    rearmed = live("rearm", "operation:work.read", "--percent", "5", *REASON)
    assert rearmed.code == 0
    assert operations(live)["work.write"] == ("live", 5)
    live("rollback", "workspace", *REASON)


def test_a_kill_without_a_scope_kills_all(run: Crossfade) -> None:
    assert run("kill", *REASON, "--json").document["scope"] == "all"
    assert run("rearm", "all", *REASON).code == 0


def test_a_refusal_names_the_legal_command_on_standard_error(live: Crossfade) -> None:
    refused = live("share", "work.read", "20", *REASON)
    assert (refused.code, refused.out) == (1, "")
    assert "legal would be: crossfade share workspace 20 --reason …" in refused.err
    document = live("share", "work.read", "20", *REASON, "--json").document
    assert (document["code"], document["status"]) == ("group_share", 422)
    live("rollback", "workspace", *REASON)


def test_a_stale_epoch_is_refused(live: Crossfade) -> None:
    refused = live("share", "workspace", "20", *REASON, "--epoch", "0", "--json")
    assert (refused.code, refused.document["code"]) == (1, "stale_epoch")
    epoch = str(refused.document["current"])
    assert live("share", "workspace", "20", *REASON, "--epoch", epoch).code == 0
    live("rollback", "workspace", *REASON)


@pytest.mark.parametrize("percent", ["-1", "101", "abc", "33.33333", "nan", "true"])
def test_a_bad_percent_changes_nothing(live: Crossfade, percent: str) -> None:
    refused = live("share", "workspace", percent, *REASON, "--json")
    assert (refused.code, refused.document["code"]) == (2, "usage")
    assert operations(live)["work.read"] == ("live", 10)
    live("rollback", "workspace", *REASON)


def test_a_change_needs_a_reason(run: Crossfade) -> None:
    for arguments in (("share", "workspace", "1"), ("stage", "workspace", "live"), ("kill",), ("rearm", "all")):
        refused = run(*arguments)
        assert refused.code == 2
        assert "--reason" in refused.err


def test_a_decision_is_explained(live: Crossfade) -> None:
    by_parts = live("explain", "work.read", "agent", "a/b", "--json").document
    whole = live("explain", "work.read", "--key", "agent/a%2Fb", "--json").document
    assert by_parts == whole
    assert (by_parts["key"], by_parts["reason"]) == ("agent/a%2Fb", "percent")
    assert "because of percent" in live("explain", "work.read", "agent", "a/b").out
    live("rollback", "workspace", *REASON)


def test_the_audit_tells_who_did_what(run: Crossfade) -> None:
    run("mirror", "store.read", "7")
    run("mirror", "store.read", "0")
    page = run("audit", "--limit", "2", "--json").document
    assert [item["changed"]["mirror_percent"] for item in page["items"]] == [[7, 0], [0, 7]]
    assert page["items"][0]["by"].startswith("up-")
    assert "mirror_percent: 7 -> 0" in run("audit", "--limit", "1").out


def test_tokens_are_made_into_files_used_and_revoked(run: Crossfade, up: Up, tmp_path: Path) -> None:
    file = tmp_path / "viewer"
    made = run("token", "create", "vera", "--role", "viewer", "--ttl", "1h", "--out", str(file), "--json")
    assert made.code == 0, made.err
    assert "token" not in made.document
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("status", "--json", "--token-file", str(file)).code == 0
    refused = run("kill", *REASON, "--json", CROSSFADE_TOKEN_FILE=str(file))
    assert (refused.code, refused.document["code"]) == (1, "role_required")
    elsewhere = crossfade("status", "--json", "--control", up.runtime["control"], "--token-file", str(file))
    assert elsewhere.code == 0
    unnamed = crossfade("status", "--json", "--control", up.runtime["control"])
    assert (unnamed.code, unnamed.document["code"]) == (1, "token_required")
    assert "vera" in run("token", "list").out
    again = run("token", "create", "vera", "--role", "viewer", "--out", str(tmp_path / "again"))
    assert again.code == 1
    assert not (tmp_path / "again").exists()
    assert run("token", "create", "x", "--role", "viewer", "--out", str(file)).code == 1
    assert run("token", "revoke", "vera").code == 0
    assert run("status", "--json", "--token-file", str(file)).document["code"] == "token_required"
    assert run("token", "revoke", "vera").code == 1
    assert run("token", "create", "x", "--role", "root").code == 2


def test_a_token_on_standard_output_is_all_that_stands_there(run: Crossfade) -> None:
    made = run("token", "create", "otto", "--role", "operator")
    assert made.out.startswith("cf_")
    assert len(made.out.split()) == 1
    assert "otto" in made.err
    run("token", "revoke", "otto")


def test_a_forced_side_is_signed_as_the_gateways_check_it(run: Crossfade, up: Up) -> None:
    forced = run("force", "new", "--ttl", "15m", "--json").document
    parts = json.loads((up.data_dir / "parts.json").read_text())
    secret = Path(parts["force_secret_file"]).read_bytes().strip()
    assert verify(secret, "git", forced["value"].encode(), time.time()) is Side.NEW
    assert verify(secret, "git", forced["value"].encode(), time.time() + 1000) is None
    assert secret.decode() not in str(forced)
    assert run("force", "new", "--ttl", "8d").code == 2
    assert run("force", "left").code == 2


def test_a_file_is_applied_definition_and_policy(run: Crossfade, up: Up, tmp_path: Path) -> None:
    before = run("status", "--json").document
    original = (up.data_dir / "migration.path").read_text()
    content = migration()
    content["operations"]["store.read"].update({"stage": "live", "percent": 5, "deadline_s": 7})
    content["operations"]["added"] = {
        "class": "read",
        "match": {"rest": "POST /added"},
        "key": [["header:x-key"]],
        "stage": "live",
        "percent": 3,
    }
    file = tmp_path / "next.yaml"
    file.write_text(json.dumps(content))
    shown = run("apply", str(file), "--dry-run", "--json").document
    assert shown["applied"] is False
    assert shown["changed"]["operation store.read: stage"] == {"before": "off", "after": "live"}
    assert shown["definition"]["new_operations"] == ["added"]
    assert run("status", "--json").document["definition"] == before["definition"]
    unasked = run("apply", str(file))
    assert unasked.code == 2
    applied = run("apply", str(file), "--yes", *REASON, "--json")
    assert applied.code == 0, applied.err
    after = run("status", "--json").document
    assert after["definition"] == applied.document["definition"]["after"] != before["definition"]
    assert {worker["definition"] for worker in after["workers"]} == {after["definition"]}
    assert (after["operations"]["added"]["percent"], after["operations"]["store.read"]["percent"]) == (3, 5)
    assert (up.data_dir / "migration.path").read_text().strip() == str(file)
    back = run("apply", original.strip(), "--yes", "--json")
    assert back.code == 0, back.err
    run("rollback", "store.read", *REASON)
    assert run("status", "--json").document["definition"] == before["definition"]


@pytest.mark.parametrize(
    "text", ["{", "migration: git", json.dumps(migration(migration="other")), "a: 1\na: 2"], ids=str.__len__
)
def test_a_file_that_does_not_work_changes_nothing(run: Crossfade, up: Up, tmp_path: Path, text: str) -> None:
    before = run("status", "--json").document
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    refused = run("apply", str(file), "--yes", "--json")
    assert refused.code == 1
    assert refused.document["code"] in ("invalid_file", "failed")
    after = run("status", "--json").document
    assert (after["epoch"], after["definition"]) == (before["epoch"], before["definition"])
    assert "broken" not in (up.data_dir / "migration.path").read_text()


def test_a_policy_that_breaks_a_rule_leaves_the_definition_too(run: Crossfade, up: Up, tmp_path: Path) -> None:
    run("kill", "operation:alone", *REASON)
    before = run("status", "--json").document
    content = migration()
    content["operations"]["alone"].update({"stage": "live", "deadline_s": 9})
    file = tmp_path / "early.yaml"
    file.write_text(json.dumps(content))
    refused = run("apply", str(file), "--yes", "--json")
    assert (refused.code, refused.document["rule"]) == (1, "killed")
    after = run("status", "--json").document
    assert (after["epoch"], after["definition"]) == (before["epoch"], before["definition"])
    run("rearm", "operation:alone", *REASON)


def test_there_is_nothing_to_restore_where_nothing_is_lost(run: Crossfade) -> None:
    refused = run("apply", "--restore", "--yes", "--json")
    assert (refused.code, refused.document["rule"]) == (1, "nothing_to_restore")


def test_where_nothing_runs_a_command_says_how_to_kill(tmp_path: Path) -> None:
    refused = crossfade("kill", *REASON, "--json", data_dir=tmp_path)
    assert (refused.code, refused.document["code"]) == (1, "unreachable")
    assert str(tmp_path / "KILL") in refused.err
