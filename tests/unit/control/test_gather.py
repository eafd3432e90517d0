from __future__ import annotations

from gateway.control.gather import Found, flatten, gather, unflatten
from gateway.core.model import Writes
from tests.unit.core.migrations import workspace

MEMBERS = ("git.status", "git.log", "git.push", "git.commit")


def test_what_a_whole_group_did_is_told_once() -> None:
    found = {f"operation {name}": {"percent": (10, 1)} for name in MEMBERS}
    assert gather(workspace(Writes.NONE), found) == {"group workspace": {"percent": (10, 1)}}


def test_what_only_some_did_or_did_otherwise_is_told_of_each() -> None:
    some = {f"operation {name}": {"percent": (10, 1)} for name in MEMBERS[:3]}
    assert gather(workspace(Writes.NONE), some) == some
    differing = {f"operation {name}": {"percent": (10, n)} for n, name in enumerate(MEMBERS)}
    assert gather(workspace(Writes.NONE), differing) == differing


def test_in_a_dual_group_the_writes_are_the_group_and_the_reads_are_themselves() -> None:
    found = {f"operation {name}": {"percent": (10, 1)} for name in MEMBERS}
    gathered = gather(workspace(Writes.DUAL), found)
    assert set(gathered) == {"operation git.status", "operation git.log", "group workspace"}


def test_in_a_shared_group_everybody_stands_alone() -> None:
    found = {f"operation {name}": {"percent": (10, 1)} for name in MEMBERS}
    assert gather(workspace(Writes.SHARED), found) == found


def test_fields_that_are_not_shared_stay_with_the_operation_and_the_groups_own_stay_too() -> None:
    found: Found = {
        **{f"operation {name}": {"stage": ("off", "live"), "mirror_percent": (0, 1)} for name in MEMBERS[:1]},
        **{f"operation {name}": {"stage": ("off", "live")} for name in MEMBERS[1:]},
        "group workspace": {"deny": ([], ["a"])},
    }
    assert gather(workspace(Writes.NONE), found) == {
        "operation git.status": {"mirror_percent": (0, 1)},
        "group workspace": {"deny": ([], ["a"]), "stage": ("off", "live")},
    }


def test_flat_names_lead_back() -> None:
    found: Found = {"operation a": {"stage": ("off", "live"), "percent": (0, 5)}, "group b": {"deny": ([], ["x: y"])}}
    assert unflatten(flatten(found)) == found
