from __future__ import annotations

import pytest

from gateway.cli.comparisons import percent_text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.9999999, "99.9999 %"),
        (0.99999999, "99.9999 %"),
        (0.9999, "99.9900 %"),
        (0.57, "57.0000 %"),
        (1.0, "100.0000 %"),
        (0.0, "0.0000 %"),
        (None, None),
    ],
)
def test_a_share_is_cut_and_never_rounded_up(share: float | None, text: str | None) -> None:
    assert percent_text(share) == text
