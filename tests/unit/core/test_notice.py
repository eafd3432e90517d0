"""What is told of an act, and what is not."""

from __future__ import annotations

import pytest

from gateway.core.notice import Notice, NoticeKind, notice_of


def entry(action: str, **more: object) -> dict[str, object]:
    return {"id": "1-0", "action": action, "target": "group:a", "by": "ann", "reason": "r", "at": "now", **more}


@pytest.mark.parametrize(
    ("action", "more", "wanted"),
    [
        ("trip", {}, NoticeKind.TRIP),
        ("trip", {"by": "drill:d1:detector:gateway-0"}, NoticeKind.DRILL),
        ("rearm", {"by": "drill:d1"}, NoticeKind.DRILL),
        ("trip_disarmed", {}, NoticeKind.DISARMED),
        ("kill", {}, NoticeKind.KILL),
        ("rearm", {}, NoticeKind.REARM),
        ("drill_failed", {"reason": ""}, NoticeKind.DRILL),
        ("notify_test", {}, NoticeKind.TEST),
        ("kill", {"outcome": "role_required"}, None),
        ("share", {}, None),
        ("refused", {}, None),
    ],
)
def test_what_is_told(action: str, more: dict[str, object], wanted: NoticeKind | None) -> None:
    notice = notice_of("git", entry(action, **more))
    assert (None if notice is None else notice.kind) == wanted


def test_a_damaged_entry_is_no_reason_to_fail() -> None:
    assert notice_of("git", {"id": "1-0"}) is None
    notice = notice_of("git", {"id": "1-0", "action": "trip"})
    assert notice is not None
    assert notice.document()["target"] == ""


def test_words_say_what_to_do_and_are_bounded() -> None:
    notice = Notice("1-0", NoticeKind.TRIP, "git", "now", "group:a", "detector:gateway-0", "errors: 9 of 10")
    assert "crossfade rearm group:a" in notice.text()
    assert len(Notice("1-0", NoticeKind.KILL, "git", "now", "all", "x", "r" * 9000).text()) == 2000


@pytest.mark.parametrize("kind", NoticeKind)
def test_every_kind_has_words(kind: NoticeKind) -> None:
    document = Notice("1-0", kind, "git", "now", "all", "ann", "why").document()
    assert "why" in document["text"]
    assert document["kind"] == kind
