"""Compiles the targets of notifications. What cannot be read now is a warning: telling must not keep a gateway down."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from gateway.core.notice import NoticeTarget, TargetKind
from gateway.settings.findings import Findings
from gateway.settings.migration_file import NotificationShape
from gateway.settings.problems import KeyPath


def notice_targets(shapes: Sequence[NotificationShape], findings: Findings) -> tuple[NoticeTarget, ...]:
    """The targets, in the order of the file. Everything wrong is reported to `findings`."""
    found: list[NoticeTarget] = []
    for index, shape in enumerate(shapes):
        here: KeyPath = ("notifications", index)
        target = _target(shape, here, findings)
        if target is None:
            continue
        if target in found:
            findings.error(here, "stands in this list already; remove one")
        else:
            found.append(target)
    return tuple(found)


def _target(shape: NotificationShape, here: KeyPath, findings: Findings) -> NoticeTarget | None:
    given = [name for name in ("webhook", "slack", "command") if getattr(shape, name) is not None]
    if len(given) != 1:
        findings.error(here, "write exactly one of webhook, slack and command")
        return None
    kinds = frozenset(shape.events)
    if not kinds:
        findings.warn((*here, "events"), "is empty: it is told of nothing")
    if shape.command is not None:
        if not shape.command or not all(shape.command) or any("\0" in part for part in shape.command):
            findings.error((*here, "command"), "write the program and its arguments, each a text of its own")
            return None
        if shutil.which(shape.command[0]) is None:
            findings.warn((*here, "command"), f"there is no program {shape.command[0]} here")
        return NoticeTarget(TargetKind.COMMAND, argv=tuple(shape.command), kinds=kinds)
    if shape.slack is not None:
        _check_url((*here, "slack", "url_file"), shape.slack.url_file, findings)
        return NoticeTarget(TargetKind.SLACK, shape.slack.url_file, kinds=kinds)
    assert shape.webhook is not None
    _check_url((*here, "webhook", "url_file"), shape.webhook.url_file, findings)
    secret_file = shape.webhook.secret_file
    if secret_file is not None:
        _read((*here, "webhook", "secret_file"), secret_file, findings)
    return NoticeTarget(TargetKind.WEBHOOK, shape.webhook.url_file, secret_file, kinds=kinds)


def _check_url(path: KeyPath, file: str, findings: Findings) -> None:
    text = _read(path, file, findings)
    if text is None:
        return
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_good = False
    if not is_good:
        # The text may be a secret that was put there by mistake: it is not shown.
        findings.warn(path, f"{file} does not hold a URL that begins with https:// or http://")


def _read(path: KeyPath, file: str, findings: Findings) -> str | None:
    """What a file holds, or None; it may still be put there, and is read anew for each notice."""
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
        is_open = bool(Path(file).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except (OSError, ValueError) as exc:
        findings.warn(path, f"{file} cannot be read ({type(exc).__name__})")
        return None
    if is_open:
        findings.warn(path, f"{file} holds a secret and can be read by everybody; chmod 600 {file}")
    return text
