"""Which names of members may be data."""

from __future__ import annotations

import pytest

from gateway.core.compare.names import DATA, shown


@pytest.mark.parametrize(
    "name",
    [
        *[
            "id",
            "created_at",
            "updatedAt",
            "x-request-id",
            "sha256",
            "author_name",
            "_links",
            "A",
            "utf8",
            "isError",
            "structuredContent",
            "line2",
        ],
        "maximum_concurrent_connections_per_host",
    ],
)
def test_a_name_of_a_schema_is_shown(name: str) -> None:
    assert shown(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        *[
            "a.b",
            "größe",
            "*",
            "{}",
            "a[0]",
            "alice@example.org",
            "id12345678",
            "0a1b",
            "deadbeefdeadbeef",
            "ghp_AbCdEf",
            "github_pat_x",
        ],
        "sk-proj-x",
        "AKIAABCDEFGH",
        "xoxb-1-a",
        "eyJhbGciOi",
        "glpat-abc",
        "aB3dE6",
        "Zx9",
        "sk_live_abc",
        "6a1f1e0c-0000-4000-8000-000000000001",
        "thisisaverylongnamewithoutwords",
        "a" * 65,
    ],
)
def test_a_name_that_may_be_data_is_not(name: str) -> None:
    assert shown(name) == DATA
