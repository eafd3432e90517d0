"""What is kept of the differences of a pair."""

from __future__ import annotations

from gateway.core.compare.difference import MOST, Difference, Differences, Kind


def note(noted: Differences, path: str, *, is_alike: bool | None = None) -> None:
    if noted.is_wanted(path, Kind.VALUE, is_alike=is_alike):
        noted.put(Difference(path, Kind.VALUE, is_alike=is_alike))


def test_a_place_is_named_once_and_by_what_is_least_alike() -> None:
    noted = Differences()
    for is_alike in (True, True, False, True):
        note(noted, "$.a", is_alike=is_alike)
    assert list(noted) == [Difference("$.a", Kind.VALUE, is_alike=False)]
    assert (noted.seen, noted.unnamed) == (4, 0)


def test_what_was_noted_since_can_be_taken_back() -> None:
    noted = Differences()
    note(noted, "$.a", is_alike=True)
    before, mark = list(noted), noted.mark()
    note(noted, "$.a", is_alike=False)
    for n in range(2 * MOST):
        note(noted, f"$.b{n}")
    assert (len(noted), noted.unnamed) == (MOST, MOST + 1)
    noted.back_to(mark)
    assert (list(noted), noted.seen, noted.unnamed) == (before, 1, 0)


def test_a_difference_survives_its_document() -> None:
    for is_alike in (None, True, False):
        difference = Difference("$.a", Kind.VALUE, "integer", "integer", "aa", "bb", is_alike)
        assert Difference.from_document(difference.document()) == difference
    assert "is_alike" not in Difference("$.a", Kind.ORDER).document()
