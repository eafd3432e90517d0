"""Text from elsewhere, made fit for a log, a terminal and the audit. Pure."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Text on one line without characters that a terminal or a log would act on."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
