from __future__ import annotations

import pytest

from gateway.core.roles import Role


def test_each_role_may_do_all_that_the_lesser_ones_may() -> None:
    assert Role.VIEWER < Role.OPERATOR < Role.APPROVER


@pytest.mark.parametrize("role", Role)
def test_a_role_reads_back_as_it_is_written(role: Role) -> None:
    assert Role.parse(str(role)) is role
    assert str(role) == role.name.lower()


@pytest.mark.parametrize("text", ["", "admin", " viewer", "viewer ", "1", "approver,operator"])
def test_anything_else_is_no_role_and_the_message_names_them(text: str) -> None:
    with pytest.raises(ValueError, match="viewer, operator, approver"):
        Role.parse(text)
