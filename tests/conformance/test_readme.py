"""The table of behaviours names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
NAMED = re.compile(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`")


def test_every_named_test_exists() -> None:
    named = NAMED.findall((HERE / "README.md").read_text())
    roots = [HERE.parent, HERE.parent / "integration"]
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not any((root / file).exists() and f"def {test}(" in (root / file).read_text() for root in roots)
    ]
    assert len(named) > 30
    assert missing == []
