"""Settings in the environment: `CROSSFADE_PORT`, `CROSSFADE_EDGE__IN_FLIGHT`.

Owns which variables are settings, which belong to other parts, and which are mistakes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from gateway.settings.problems import KeyPath, Problem
from gateway.settings.redis_url import RedisUrl
from gateway.settings.validation import Leaf
from gateway.settings.yaml_source import resolve_plain

PREFIX: Final = "CROSSFADE_"
NESTING: Final = "__"
PLACE: Final = "environment"

OTHERS: Final = frozenset(
    {
        "CROSSFADE_CONTROL_URL",
        "CROSSFADE_DATABASE_PASSWORD_FILE",
        "CROSSFADE_DATABASE_URL",
        "CROSSFADE_FORCE_SECRET",
        "CROSSFADE_FORCE_SECRET_FILE",
        "CROSSFADE_IDLE_EXPIRY_S",
        "CROSSFADE_INTERNAL_TOKEN",
        "CROSSFADE_INTERNAL_TOKEN_FILE",
        "CROSSFADE_LIFELINE_FD",
        "CROSSFADE_LONGEST_OPERATION_S",
        "CROSSFADE_REDIS_PASSWORD_FILE",
        "CROSSFADE_REDIS_SERVER",
        "CROSSFADE_SHUTDOWN_GRACE_S",
        "CROSSFADE_TOKEN_FILE",
    }
)
"""Read by other parts, each where it is needed: secrets, and what concerns one process only."""
_FAMILIES: Final = (
    "CROSSFADE_ALLOWED_",
    "CROSSFADE_E2B_",
    "CROSSFADE_GIT_TOKEN",
    "CROSSFADE_POOL_",
    "CROSSFADE_SANDBOX_",
)
"""Settings of the bundled services, which run in the same environment."""
_TEXT_TYPES: Final = (str, Path, RedisUrl)


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """A setting that a variable gives.

    Attributes:
        name: Of the variable.
        path: Of the setting.
        value: As the file could have it.
    """

    name: str
    path: KeyPath
    value: object


def read_environment(env: Mapping[str, str], leaves: Iterable[Leaf]) -> tuple[list[FromEnvironment], list[Problem]]:
    """Finds the settings in an environment.

    Args:
        env: The environment.
        leaves: The settings that exist.

    Returns:
        What was found, and a problem for each variable that looks like a setting and is none.
    """
    known = {variable_name(leaf.path): leaf for leaf in leaves}
    found: list[FromEnvironment] = []
    problems: list[Problem] = []
    for name, text in sorted(env.items()):
        if not name.startswith(PREFIX) or name in OTHERS or name.startswith(_FAMILIES):
            continue
        leaf = known.get(name)
        if leaf is None:
            problems.append(Problem(PLACE, 0, name, _unknown(name, sorted({*known, *OTHERS}))))
            continue
        try:
            value = text if leaf.kind in _TEXT_TYPES else resolve_plain(text.strip())
        except ValueError as exc:
            problems.append(Problem(PLACE, 0, name, str(exc)))
        else:
            found.append(FromEnvironment(name, leaf.path, value))
    return found, problems


def variable_name(path: KeyPath) -> str:
    """The variable that gives the setting at `path`."""
    return PREFIX + NESTING.join(str(part).upper() for part in path)


def _unknown(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=3, cutoff=0.6)
    remedy = f"did you mean {' or '.join(near)}?" if near else "remove it; docs/configuration.md lists them"
    return f"is no setting; {remedy}"
