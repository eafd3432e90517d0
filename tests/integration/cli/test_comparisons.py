"""What mirrored reads have shown, by commands: lists, export, replay, noise, agreement."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.compare.evidence import Finding, Found
from gateway.core.compare.noise import NoiseCounts
from gateway.core.compare.tree import Difference, Kind
from gateway.state.connect import RedisClient, connect
from gateway.state.counters import CounterStore
from gateway.state.evidence import EvidenceStore
from gateway.telemetry.counters import RequestCounters
from tests.integration.cli.conftest import Crossfade
from tests.support.up import Up
from tests.support.waiting import until

REASON = ("--reason", "test")
AT = Difference("$.at", Kind.VALUE, "string:time", "string:time", "aa", "bb")
COUNT = Difference("$.count", Kind.VALUE, "integer", "integer", "aa", "bb")
OPERATIONS = ("work.read", "store.read")


@pytest.fixture
async def redis(up: Up) -> AsyncIterator[RedisClient]:
    parts = json.loads((up.data_dir / "parts.json").read_text())
    async with connect(up.runtime["redis"], Path(parts["redis_password_file"])) as client:
        yield client


def found(difference: Difference, finding: Finding, request_id: str, at: float, operation: str = "work.read") -> Found:
    return Found(operation, finding, (difference,), request_id, "old", "v1", at)


@pytest.fixture
async def kept(redis: RedisClient) -> None:
    """Three groups: a time and a count of one operation, a count of another."""
    async for name in redis.scan_iter("cf:git:evidence*"):
        await redis.delete(name)
    store = EvidenceStore(redis, "git")
    for n in range(3):
        store.note(found(AT, Finding.SUSPECTED, f"clock-{n}", 1000.0 + n))
    store.note(found(COUNT, Finding.SUSPECTED, "count-1", 2000.0))
    store.note(found(COUNT, Finding.MISMATCH, "count-1", 2015.0))
    store.note(found(COUNT, Finding.SUSPECTED, "other-1", 1500.0, "store.read"))
    await store.flush()
    assert store.held == 0


@pytest.mark.usefixtures("kept")
def test_groups_are_listed_last_seen_first(run: Crossfade) -> None:
    listed = run("comparisons", "--json")
    assert listed.code == 0, listed.err
    groups = listed.document["items"]
    assert [(group["operation"], group["differences"][0]["path"]) for group in groups] == [
        ("work.read", "$.count"),
        ("store.read", "$.count"),
        ("work.read", "$.at"),
    ]
    assert (groups[0]["suspected"], groups[0]["mismatch"], groups[2]["suspected"]) == (1, 1, 3)
    text = run("comparisons").out
    assert "$.count value" in text
    assert "1970-01-01T00:33:35+00:00" in text


@pytest.mark.usefixtures("kept")
def test_groups_are_listed_in_pages_and_of_one_operation(run: Crossfade) -> None:
    first = run("comparisons", "--limit", "2", "--json").document
    assert first["next"] is not None
    assert f"crossfade comparisons --cursor {first['next']}" in run("comparisons", "--limit", "2").out
    rest = run("comparisons", "--cursor", first["next"], "--json").document
    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (2, 1, None)
    alone = run("comparisons", "--operation", "store.read", "--json").document["items"]
    assert [group["operation"] for group in alone] == ["store.read"]
    assert "no difference is kept" in run("comparisons", "--operation", "alone").out


@pytest.mark.usefixtures("kept")
def test_an_export_holds_every_group_last_seen_first_for_its_owner_alone(run: Crossfade, tmp_path: Path) -> None:
    file = tmp_path / "found.jsonl"
    file.write_text("of yesterday, and longer than what comes now\n" * 1000)
    file.chmod(0o644)
    before = file.stat().st_ino
    done = run("comparisons", "--export", str(file), "--json")
    assert (done.code, done.document) == (0, {"file": str(file), "groups": 3}), done.err
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == run("comparisons", "--json").document["items"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # Another file has taken its place: nobody has read half of one.
    assert file.stat().st_ino != before
    assert list(tmp_path.iterdir()) == [file]
    assert run("comparisons", "--export", str(file), "--operation", "store.read").out.startswith("1 groups in")


@pytest.mark.usefixtures("kept")
def test_an_export_through_a_link_or_into_a_pipe_leaves_them_what_they_are(run: Crossfade, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "found.jsonl", tmp_path / "link"
    target.touch()
    link.symlink_to(target)
    assert run("comparisons", "--export", str(link)).code == 0
    assert link.is_symlink()
    assert len(target.read_text().splitlines()) == 3
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        assert run("comparisons", "--export", str(pipe)).code == 0
        assert os.read(descriptor, 1 << 16).count(b"\n") == 3
        assert pipe.is_fifo()
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("kept")
def test_an_export_that_cannot_be_written_says_so_and_leaves_nothing(run: Crossfade, tmp_path: Path) -> None:
    absent = run("comparisons", "--export", str(tmp_path / "absent" / "file"), "--json")
    assert (absent.code, absent.document["code"]) == (1, "failed")
    (tmp_path / "a-directory").mkdir()
    assert run("comparisons", "--export", str(tmp_path / "a-directory")).code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a-directory"]


@pytest.mark.usefixtures("kept")
def test_an_export_whose_control_is_away_keeps_the_file_that_is_there(run: Crossfade, tmp_path: Path) -> None:
    file = tmp_path / "found.jsonl"
    file.write_text("of yesterday\n")
    assert run("comparisons", "--export", str(file), "--control", "http://127.0.0.1:9").code == 1
    assert file.read_text() == "of yesterday\n"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.usefixtures("kept")
def test_a_replay_says_which_groups_a_relaxation_would_let_pass(run: Crossfade) -> None:
    replayed = run("comparisons", "replay", "work.read", "$.at=shape", "--json")
    assert replayed.code == 0, replayed.err
    passes = {tuple(group["left"]): group["passes"] for group in replayed.document["items"]}
    assert passes == {(): True, ("$.count value",): False}
    text = run("comparisons", "replay", "work.read", "$.at=shape").out
    assert "$.count value" in text
    # It only tried: nothing is accepted.
    noise = {item["operation"]: item["accepted"] for item in run("noise", "--json").document["items"]}
    assert noise["work.read"] == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "work.read"),
        ("replay", "work.read", "$.at"),
        ("replay", "work.read", "$.at=everything"),
        ("replay", "work.read", "at=shape"),
        ("repeat", "work.read", "$.at=shape"),
    ],
)
def test_a_replay_that_cannot_be_meant_is_a_usage_error(run: Crossfade, arguments: tuple[str, ...]) -> None:
    refused = run("comparisons", *arguments, "--json")
    assert (refused.code, refused.document["code"]) == (2, "usage")


def said_rules(run: Crossfade) -> bool:
    items = run("consistency", "--json").document["items"]
    return any(item["target"] == "operation work.read" and item["rules"] for item in items)


def rules_in_force(run: Crossfade) -> str:
    """The version of an operation's rules, as the workers say it."""
    found = {item["target"]: item["rules"] for item in run("consistency", "--json").document["items"]}
    rules: str = found["operation work.read"]
    assert rules
    return rules


@pytest.fixture
async def learnt(redis: RedisClient, run: Crossfade) -> None:
    """A worker that has seen a clock differ between two answers of one side, and compared a million reads."""
    noise, counters = NoiseCounts(), RequestCounters()
    for n in range(100):
        noise.note_pair([AT] if n % 2 else [], [f"$.leaf{leaf}" for leaf in range(30)])
        noise.note_raw([AT] if n % 2 else [])
    await until(lambda: said_rules(run), "a worker has said which rules are in force")
    counters.agreement.use({"work.read": rules_in_force(run)})
    counters.compared("work.read", "mismatch")
    for _ in range(999_999):
        counters.compared("work.read", "match")
    for _ in range(7):
        counters.compared("work.read", "incomparable:unknown_workspace")
    store = CounterStore(redis, "git")
    blob = {"worker": "of-a-test", "incarnation": "one", "at": time.time(), "epoch": 1, "age_s": 0}
    store.publish("of-a-test", {**blob, **counters.blob(), "noise": {"work.read": noise.blob()}})
    await store.aclose()
    await until(lambda: any(item["pairs"] for item in run("noise", "--json").document["items"]), "it is known")


@pytest.mark.usefixtures("learnt")
def test_noise_is_shown_accepted_and_taken_back(run: Crossfade) -> None:
    assert "proposed: shape" in run("noise").out
    accepted = run("noise", "accept", "work.read", "$.at", *REASON, "--json")
    assert (accepted.code, accepted.document["accepted"]) == (0, {"$.at": ["shape"]}), accepted.err
    assert "accepted: shape" in run("noise").out
    dropped = run("noise", "drop", "work.read", "$.at", *REASON)
    assert dropped.code == 0
    assert "proposed: shape" in dropped.out
    again = run("noise", "drop", "work.read", "$.at", *REASON, "--json")
    assert (again.code, again.document["rule"]) == (1, "not_accepted")


@pytest.mark.usefixtures("learnt")
@pytest.mark.parametrize(
    "arguments",
    [("accept", "work.read", "$.at"), ("accept", "work.read", *REASON), ("allow", "work.read", "$.at", *REASON)],
)
def test_a_change_of_noise_that_cannot_be_meant_is_a_usage_error(run: Crossfade, arguments: tuple[str, ...]) -> None:
    refused = run("noise", *arguments, "--json")
    assert (refused.code, refused.document["code"]) == (2, "usage")


@pytest.mark.usefixtures("learnt")
def test_agreement_is_never_shown_as_more_than_it_is(run: Crossfade) -> None:
    [line] = [line for line in run("consistency").out.splitlines() if line.strip().startswith("operation work.read")]
    assert "99.9999 %" in line
    assert "99.9995 %" in line
    assert "unknown_workspace: 7" in line
    found = {item["target"]: item for item in run("consistency", "--json").document["items"]}
    item = found["operation work.read"]
    assert (item["matches"], item["mismatches"], item["read_agreement"]) == (999_999, 1, 0.999999)
    # The bound is 0.99999525614… (qbeta(0.05, 999999, 2)).
    assert item["read_agreement_at_least"] == 0.99999525
    assert found["operation store.read"]["read_agreement"] is None
