"""Members' names in paths: shown where they belong to a schema, hidden where they may be somebody's data.

A hidden name has a step of its own, `.{}`: a rule for it fits no member whose name would be shown.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

ITEMS: Final = "[*]"
"""Any item of an array."""
ANY: Final = "*"
"""Any member."""
DATA: Final = "{}"
"""Any member whose name may be data."""

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_WORDS: Final = re.compile(r"[a-z]{1,16}(?:[_-][a-z]{1,16}){1,7}")
_LONG: Final = 24
_NUMBERED: Final = re.compile(r"\d{6,}|[0-9a-fA-F-]{16,}")
_MIXED: Final = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])")
_TOKEN: Final = re.compile(
    # Of GitHub, GitLab, Slack, AWS, Google, npm, Hugging Face, Stripe, Docker, OpenAI, Crossfade; and JSON Web Tokens.
    r"gh[oprsu]_|github_pat_|glpat-|xox[abeoprs]-|A[KS]IA[A-Z0-9]{4}|AIza|npm_[A-Za-z0-9]{8}|hf_[A-Za-z]{8}|[prs]k_(?:live|test)_"
    r"|whsec_|dckr_|sk-|cf_[A-Za-z0-9_-]{16}|eyJ"
)
_REMEMBERED: Final = 4096


@lru_cache(_REMEMBERED)
def is_data_name(name: str) -> bool:
    """Whether a member's name may be data: an address, an id, a token, a text of a person."""
    if not _PLAIN.fullmatch(name) or _NUMBERED.search(name) or _TOKEN.match(name):
        return True
    if _MIXED.match(name):
        return True
    return len(name) > _LONG and not _WORDS.fullmatch(name)


def shown(name: str) -> str:
    """A member's name as a path says it."""
    return DATA if is_data_name(name) else name
