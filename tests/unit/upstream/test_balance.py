from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.balance import Rendezvous, choose_less_loaded

names = st.lists(st.text("abc:/.0", min_size=1, max_size=12), min_size=2, max_size=6, unique=True)
KEYS = [f"agent-{number}/task" for number in range(3000)]


def test_a_key_has_the_same_instance_in_every_process() -> None:
    # Derived with sha256sum over "<name>\\0<key>", the greatest digest wins.
    rendezvous = Rendezvous(["http://10.0.0.1:80", "http://10.0.0.2:80", "http://10.0.0.3:80"])
    assert [rendezvous.choose(f"agent-{number}/task") for number in range(12)] == [0, 0, 1, 2, 1, 0, 0, 2, 0, 1, 0, 2]


def test_keys_are_spread_evenly() -> None:
    rendezvous = Rendezvous(["a", "b", "c"])
    counts = Counter(rendezvous.choose(key) for key in KEYS)
    assert all(850 < counts[index] < 1150 for index in range(3))


@given(names=names, key=st.text(max_size=20))
def test_removing_an_instance_moves_only_its_own_keys(names: list[str], key: str) -> None:
    before = names[Rendezvous(names).choose(key)]
    for gone in names:
        left = [name for name in names if name != gone]
        after = left[Rendezvous(left).choose(key)]
        assert after == before or before == gone


@given(names=names, key=st.text(max_size=20), seed=st.integers())
def test_the_order_of_configuration_does_not_matter(names: list[str], key: str, seed: int) -> None:
    shuffled = list(names)
    Random(seed).shuffle(shuffled)
    assert shuffled[Rendezvous(shuffled).choose(key)] == names[Rendezvous(names).choose(key)]


def test_a_single_instance_has_every_key() -> None:
    assert Rendezvous(["only"]).choose("any") == 0


@given(loads=st.lists(st.integers(0, 9), min_size=2, max_size=6), seed=st.integers())
def test_the_most_loaded_instance_is_never_chosen_over_a_less_loaded_one(loads: list[int], seed: int) -> None:
    chosen = choose_less_loaded(range(len(loads)), loads, Random(seed))
    # Two distinct ones are drawn, so the unique worst always meets a better one.
    assert loads.count(max(loads)) > 1 or loads[chosen] < max(loads)


@given(candidates=st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True), seed=st.integers())
def test_only_candidates_are_chosen(candidates: list[int], seed: int) -> None:
    assert choose_less_loaded(candidates, [0] * 8, Random(seed)) in candidates


def test_equal_loads_are_spread_evenly() -> None:
    random = Random(7)
    counts = Counter(choose_less_loaded(range(4), [3, 3, 3, 3], random) for _ in range(4000))
    assert all(850 < counts[index] < 1150 for index in range(4))
