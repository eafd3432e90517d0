"""YAML 1.2, read narrowly: what a scalar means, what is refused, where everything stands, and that nothing blows up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.problems import SettingsError
from gateway.settings.yaml_source import DEPTH_LIMIT, SIZE_LIMIT_BYTES, VALUE_LIMIT, Position, parse_yaml, read_yaml


def value(text: str) -> object:
    return parse_yaml(f"a: {text}\n".encode(), "x.yaml").data["a"]


def faults(content: bytes | str) -> list[tuple[int, str, str]]:
    with pytest.raises(SettingsError) as caught:
        parse_yaml(content.encode() if isinstance(content, str) else content, "x.yaml")
    return [(p.line, p.path, p.message) for p in caught.value.problems]


def the_fault(content: bytes | str) -> tuple[int, str, str]:
    (fault,) = faults(content)
    return fault


class TestScalars:
    @pytest.mark.parametrize(
        ("text", "meaning"),
        [
            ("true", True),
            ("false", False),
            ("", None),
            ("~", None),
            ("null", None),
            ("0", 0),
            ("-7", -7),
            ("+7", 7),
            ("0x1F", 31),
            ("0o17", 15),
            ("1.5", 1.5),
            (".5", 0.5),
            ("1.", 1.0),
            ("1e3", 1000.0),
            ("-1.5E-1", -0.15),
            (".inf", float("inf")),
            ("-.INF", float("-inf")),
        ],
    )
    def test_booleans_numbers_and_nothing(self, text: str, meaning: object) -> None:
        assert value(text) == meaning
        assert type(value(text)) is type(meaning)

    @pytest.mark.parametrize(
        "text",
        [
            *("on", "off", "yes", "no", "On", "OFF", "y", "n", "True", "TRUE", "False", "Null", "NULL"),
            *("1:30", "190:20:30", "1_000", "0b1", "2026-11-23", "12e", "0x", "1.2.3", "=", "_", "NaN", "inf"),
        ],
    )
    def test_what_yaml_1_1_made_of_other_words_is_text(self, text: str) -> None:
        assert value(text) == text

    @pytest.mark.parametrize("text", ["'true'", '"12"', "'~'", '""', "'.nan'", '"010"'])
    def test_what_is_quoted_is_text(self, text: str) -> None:
        assert value(text) == text[1:-1]

    def test_not_a_number_is_a_number_that_the_models_refuse(self) -> None:
        found = value(".nan")
        assert isinstance(found, float)
        assert found != found

    @pytest.mark.parametrize(("text", "plain"), [("010", 10), ("-0777", -777), ("00", 0), ("08", 8)])
    def test_a_number_that_readers_disagree_on_is_refused(self, text: str, plain: int) -> None:
        line, path, message = the_fault(f"b: 1\na: {text}\n")
        assert (line, path) == (2, "a")
        assert f"write {plain}, or" in message

    def test_a_number_of_absurd_length_is_refused(self) -> None:
        assert the_fault(f"a: {'9' * 41}\n")[2] == (
            "a number of 41 characters is not read; write it in quotes if it is text"
        )
        assert value("9" * 40) == int("9" * 40)


class TestPositions:
    def test_every_key_and_item_has_its_line_and_column(self) -> None:
        document = parse_yaml(b"a:\n  - x\n  - b: 1\n    c: {d: 2}\n", "x.yaml")
        assert document.data == {"a": ["x", {"b": 1, "c": {"d": 2}}]}
        assert document.positions == {
            ("a",): Position(1, 1),
            ("a", 0): Position(2, 5),
            ("a", 1): Position(3, 5),
            ("a", 1, "b"): Position(3, 5),
            ("a", 1, "c"): Position(4, 5),
            ("a", 1, "c", "d"): Position(4, 9),
        }

    def test_what_is_absent_is_where_its_parent_is(self) -> None:
        document = parse_yaml(b"\na: {b: 1}\n", "x.yaml")
        assert document.locate(("a", "z", 3)) == Position(2, 1)
        assert document.locate(("z",)) == Position(1, 1)

    def test_an_alias_is_where_the_alias_stands_and_means_what_its_anchor_means(self) -> None:
        document = parse_yaml(b"a: &x [1, 2]\nb: *x\n", "x.yaml")
        assert document.data == {"a": [1, 2], "b": [1, 2]}
        assert document.positions["b",] == Position(2, 1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "line", "path", "says"),
        [
            ("a: 1\nb: 2\na: 3\n", 3, "a", "is written twice, first on line 1; keep one of the two"),
            ("a: {b: 1,\n  'b': 2}\n", 2, "a.b", "is written twice, first on line 1"),
            ("a: !!str 1\n", 1, "", 'tags such as "tag:yaml.org,2002:str" are not read'),
            ("a: !python/object:os.system x\n", 1, "", "are not read; remove it"),
            ("a: 1\n<<: {b: 2}\n", 2, "<<", "merge keys are not YAML 1.2"),
            ("1: a\n", 1, "1", 'a key must be text; write "1" in quotes'),
            ("a: {true: 1}\n", 1, "a.true", 'write "true" in quotes'),
            ("[a]: 1\n", 1, "", "a key must be text, not a list or a mapping"),
            ("%YAML 1.1\n---\na: 1\n", 2, "", "directives (%YAML, %TAG) are not read"),
            ("a: 1\n---\nb: 1\n", 2, "", "a second document begins here; keep one document to a file"),
            ("- a\n", 1, "", "must be a mapping (key: value)"),
            ("a\n", 1, "", "must be a mapping (key: value)"),
            ("", 0, "", "is empty; write a mapping"),
            ("# nothing\n", 0, "", "is empty; write a mapping"),
            ("a: *b\n", 1, "", "*b has no anchor &b before it"),
            ("a: &b [*b]\n", 1, "", "*b stands inside what it refers to"),
            ("a: [1\nb: 2\n", 2, "", "is not YAML: while parsing a flow sequence"),
            ("a: 'x\n", 2, "", "is not YAML"),
            ("a:\n\t- b\n", 2, "", "is not YAML"),
            ("a: x\x07\n", 1, "", "holds a control character"),
        ],
    )
    def test_what_is_not_read_is_told_with_its_place(self, text: str, line: int, path: str, says: str) -> None:
        found = the_fault(text)
        assert found[:2] == (line, path)
        assert says in found[2]

    def test_bytes_that_are_no_utf_8_are_told_with_their_line(self) -> None:
        assert the_fault(b"a: 1\nb: \xff\n") == (2, "", "is not UTF-8; save the file as UTF-8")
        assert the_fault("a: é\n".encode("utf-16"))[2] == "is not UTF-8; save the file as UTF-8"

    def test_a_byte_order_mark_is_no_part_of_the_first_key(self) -> None:
        assert parse_yaml(b"\xef\xbb\xbfa: 1\n", "x.yaml").data == {"a": 1}

    def test_several_faults_are_told_at_once(self) -> None:
        assert [fault[:2] for fault in faults("a: !x 1\nb: 010\nb: 1\n2: c\n")] == [
            (1, ""),
            (2, "b"),
            (3, "b"),
            (4, "2"),
        ]

    def test_nothing_is_an_empty_mapping_where_that_is_wanted(self) -> None:
        assert parse_yaml(b"# only this\n", "x.yaml", may_be_empty=True).data == {}


class TestBounds:
    def test_ten_lines_of_aliases_do_not_become_a_billion_values(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
        line, _, message = the_fault("\n".join(lines))
        assert message == f"holds more than {VALUE_LIMIT} values once aliases are expanded; write fewer aliases"
        assert line == 0

    def test_more_values_than_the_bound_are_refused(self) -> None:
        message = the_fault("a: [" + "1," * VALUE_LIMIT + "]")[2]
        assert message == f"holds more than {VALUE_LIMIT} values; remove what does not belong here"

    def test_a_file_beyond_the_bound_is_refused_unread(self, tmp_path: Path) -> None:
        (tmp_path / "big.yaml").write_bytes(b"a: 1\n" + b"#" * SIZE_LIMIT_BYTES)
        with pytest.raises(SettingsError, match=f"is larger than {SIZE_LIMIT_BYTES} bytes"):
            read_yaml(tmp_path / "big.yaml")

    def test_depth_is_bounded(self) -> None:
        def nested(depth: int) -> bytes:
            return b"a: " + b"[" * depth + b"]" * depth

        parse_yaml(nested(DEPTH_LIMIT), "x.yaml")
        assert the_fault(nested(DEPTH_LIMIT + 1))[2] == f"is nested deeper than {DEPTH_LIMIT} levels"
        # Far beyond the recursion limit of Python, and of the parser below.
        assert faults(nested(100_000))


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False), names
)
trees = st.dictionaries(
    names, st.recursive(scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(names, inner)), max_leaves=10)
)


@given(trees)
def test_json_is_yaml_and_comes_out_as_it_went_in(tree: dict[str, object]) -> None:
    assert parse_yaml(json.dumps(tree, ensure_ascii=False).encode(), "x.yaml").data == tree


@given(
    st.one_of(
        st.binary(max_size=60), st.text(st.sampled_from("ab:-[]{}&*!%'\"|>#, \n\t1"), max_size=40).map(str.encode)
    )
)
def test_whatever_stands_in_a_file_it_is_read_or_refused(content: bytes) -> None:
    try:
        assert isinstance(parse_yaml(content, "x.yaml").data, dict)
    except SettingsError as error:
        problems = error.problems
    else:
        return
    assert problems
    assert all(str(problem).isprintable() for problem in problems)
