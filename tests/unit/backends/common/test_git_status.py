from __future__ import annotations

from backends.common.git_status import parse_head, parse_status

OID = "a" * 40
HEAD = f"# branch.oid {OID}\0# branch.head main\0".encode()


def changed(xy: str, path: str) -> bytes:
    return f"1 {xy} N... 100644 100644 100644 {OID} {OID} {path}\0".encode()


def test_a_head_is_a_branch_and_a_commit_and_either_may_be_missing() -> None:
    assert parse_head(HEAD) == {"branch": "main", "head": OID}
    assert parse_head(b"# branch.oid (initial)\0# branch.head main\0") == {"branch": "main", "head": None}
    assert parse_head(f"# branch.oid {OID}\0# branch.head (detached)\0".encode()) == {"branch": None, "head": OID}


def test_index_and_tree_are_told_apart() -> None:
    output = HEAD + changed("M.", "b") + changed(".M", "a") + changed("AM", "c d") + b"? z\0? e f\0"
    assert parse_status(output) == {
        "branch": "main",
        "head": OID,
        "clean": False,
        "staged": ["b", "c d"],
        "unstaged": ["a", "c d"],
        "untracked": ["e f", "z"],
    }


def test_a_rename_counts_under_its_new_name_and_its_old_one_is_no_record() -> None:
    output = HEAD + f"2 R. N... 100644 100644 100644 {OID} {OID} R100 new name\0? old\0".encode() + changed(".M", "x")
    status = parse_status(output)
    assert (status["staged"], status["unstaged"], status["untracked"]) == (["new name"], ["x"], [])


def test_unmerged_files_are_in_both() -> None:
    oids = " ".join([OID] * 3)
    status = parse_status(HEAD + f"u UU N... 100644 100644 100644 100644 {oids} a b\0".encode())
    assert (status["staged"], status["unstaged"]) == (["a b"], ["a b"])


def test_nothing_changed_is_clean() -> None:
    assert parse_status(HEAD)["clean"]
