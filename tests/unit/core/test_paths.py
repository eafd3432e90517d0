from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.paths import PathPrefixes, is_below, normalise

PIECES = st.one_of(
    st.sampled_from(
        [
            b"a",
            b"v1",
            b"..",
            b".",
            b"",
            b"%2e",
            b"%2E%2e",
            b"%2F",
            b"%5c",
            b"%00",
            b";x",
            b"a;b=c",
            b"\\",
            b"%",
            b"%zz",
            b"%3B",
            b"%25",
            b"%C3%A9",
            b"\xc3\xa9",
            b"\xff",
            b"%ff",
            b"\x00",
            b".well-known",
            b"a b",
        ]
    ),
    st.binary(max_size=4).map(lambda raw: raw.replace(b"?", b"")),
)
RAW = st.lists(st.lists(PIECES, max_size=3).map(b"".join), max_size=6).map(lambda parts: b"/" + b"/".join(parts))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"/", "/"),
        (b"", "/"),
        (b"/v1/git/status", "/v1/git/status"),
        (b"/.well-known/x", "/.well-known/x"),
        (b"/a..b/...", "/a..b/..."),
        (b"/a:b@c,d=e+f!$&'()*~-_.g", "/a:b@c,d=e+f!$&'()*~-_.g"),
        (b"/caf%C3%A9", "/café"),
        (b"/caf%c3%a9", "/café"),
        (b"/a%20b", "/a b"),
        (b"/a%3Bb", "/a;b"),
        (b"/a%252Fb", "/a%2Fb"),
        (b"/%25", "/%"),
    ],
)
def test_a_path_in_its_one_spelling_counts_as_unchanged(raw: bytes, text: str) -> None:
    path = normalise(raw)
    assert (path.text, path.changed, path.hostile) == (text, False, False)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"/v1/", "/v1"),
        (b"//", "/"),
        (b"/v1//git", "/v1/git"),
        (b"/v1/./git", "/v1/git"),
        (b"/.", "/"),
        (b"/..", "/"),
        (b"/v1/x/../git", "/v1/git"),
        (b"/../../v1", "/v1"),
        (b"/v1/..", "/"),
        (b"/v1/%2e%2E/git", "/git"),
        (b"/v1/git;v=1/status", "/v1/git/status"),
        (b"/v1/;x/git", "/v1/git"),
        (b"/v1/..;x/git", "/git"),
        (b"/%76%31", "/v1"),
        (b"/v%7e", "/v~"),
        (b"*", "/*"),
        (b"v1/git", "/v1/git"),
        (b".", "/"),
    ],
)
def test_a_path_that_had_to_be_folded_or_decoded_counts_as_changed(raw: bytes, text: str) -> None:
    path = normalise(raw)
    assert (path.text, path.changed, path.hostile) == (text, True, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"/a%2Fb",
        b"/a%2fb",
        b"/a%5Cb",
        b"/a%5cb",
        b"/a\\b",
        b"/a%00",
        b"/a\x00",
        b"/a%",
        b"/a%4",
        b"/a%zz",
        b"/a;%2F",
        b"/a;\\",
        b"/a;%00",
    ],
)
def test_what_programs_split_differently_is_hostile_wherever_it_stands(raw: bytes) -> None:
    assert normalise(raw).hostile


def test_a_decoded_slash_does_not_split() -> None:
    assert normalise(b"/a%2Fb/c").segments == ("a/b", "c")


@pytest.mark.parametrize(
    ("raw", "readings"),
    [
        (b"/v1/git", ()),
        (b"/v1//git/", ()),
        (b"/a%2Fb", (("a", "b"),)),
        (b"/a\\..\\b", (("b",),)),
        (b"/a%3Bx/b", (("a", "b"),)),
        (b"/a//../b", (("a", "b"),)),
        (b"/a;%2F..%2Fb/c", (("b", "c"),)),
    ],
)
def test_other_readings_are_those_of_other_programs(raw: bytes, readings: tuple[tuple[str, ...], ...]) -> None:
    assert normalise(raw).other_readings() == readings


@given(RAW)
def test_normalising_is_idempotent(raw: bytes) -> None:
    once = normalise(raw)
    again = normalise(once.plain_spelling.encode())
    assert (again.text, again.changed) == (once.text, False) or once.hostile
    assert normalise(again.plain_spelling.encode()).text == again.text


@given(RAW)
def test_a_normal_path_has_nothing_left_to_fold(raw: bytes) -> None:
    path = normalise(raw)
    assert path.text == "/" + "/".join(path.segments)
    assert path.segments == ("",) or not {"", ".", ".."} & set(path.segments)


@given(RAW)
def test_a_path_that_equals_its_normal_form_is_unchanged_and_every_other_ascii_path_is_reported(raw: bytes) -> None:
    path = normalise(raw)
    if path.text.encode("utf-8", "surrogateescape") == raw and not path.hostile and b"%" not in raw:
        assert not path.changed
    elif b"%" not in raw:
        assert path.changed or path.hostile


@given(st.binary(max_size=60))
def test_no_input_breaks_normalising(raw: bytes) -> None:
    path = normalise(raw)
    assert path.text.startswith("/")
    path.other_readings()
    path.plain_spelling.encode("ascii")


@pytest.mark.parametrize(
    ("path", "below"),
    [("/v1", True), ("/v1/x", True), ("/v1x", False), ("/", False), ("/v", False)],
)
def test_a_prefix_counts_by_whole_segments(path: str, below: bool) -> None:
    assert is_below(path, "/v1") is below
    assert PathPrefixes(["/v1"]).may_hold(normalise(path.encode())) is below


def test_everything_is_below_the_root() -> None:
    assert is_below("/x", "/")
    assert PathPrefixes(["/"]).may_hold(normalise(b"/x"))
    assert not PathPrefixes([]).may_hold(normalise(b"/x"))


@pytest.mark.parametrize(
    "raw",
    [
        b"/v1/workspaces",
        b"/v1/workspaces/7",
        b"/v1/workspaces/../git/status",
        b"/v1/workspaces/..",
        b"/v1/x/../workspaces",
        b"/v1//../workspaces",
        b"/v1//workspaces",
        b"/v1/workspaces;x",
        b"/v1/workspaces%3Bx",
        b"/v1%2Fworkspaces",
        b"/v1\\workspaces",
        b"/v1/a%2Fb/../workspaces",
        b"/x;%2F..%2Fv1/workspaces",
        b"/v1/workspaces%00x",
        b"/v1/work%00spaces",
        b"/v1/%00/workspaces",
        b"/v1/x/..%00/workspaces",
        b"/v1/%77orkspaces",
    ],
)
def test_a_prefix_may_hold_whatever_some_program_takes_for_it(raw: bytes) -> None:
    assert PathPrefixes(["/v1/workspaces", "/other"]).may_hold(normalise(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"/v1/workspaces2",
        b"/v1",
        b"/api/v1/workspaces",
        b"/api/v1/workspaces/",
        b"/a%2Fv1/workspaces",
        b"/V1/workspaces",
        b"/v1/x/workspaces;y",
        b"/workspaces/../v1",
    ],
)
def test_a_prefix_leaves_other_paths_alone(raw: bytes) -> None:
    assert not PathPrefixes(["/v1/workspaces", "/other"]).may_hold(normalise(raw))
