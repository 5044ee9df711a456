from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engines.placement import Placement, Priority, Slots, Want, place


def want(version: str, priority: Priority = Priority.STABLE, serves: bool = True) -> Want:
    return Want(version, priority, serves)


def slots(name: str, loras: int, cpu: int, *holds: str) -> Slots:
    return Slots(name, loras, cpu, frozenset(holds))


def holding(placement: Placement, replicas: list[Slots]) -> list[Slots]:
    return [Slots(s.name, s.max_loras, s.max_cpu_loras, frozenset(placement.replicas[s.name])) for s in replicas]


def test_everything_everywhere_when_it_fits():
    result = place([want("a"), want("b", Priority.TARGET)], [slots("e0", 4, 8), slots("e1", 4, 8)])
    assert result.replicas == {"e0": ("a", "b"), "e1": ("a", "b")}
    assert result.refused == {}


def test_loaded_but_unused_versions_do_not_count_against_max_loras():
    wants = [want("a"), want("b", Priority.PREVIOUS, serves=False), want("c", Priority.PREVIOUS, serves=False)]
    assert place(wants, [slots("e0", 1, 3)]).replicas == {"e0": ("a", "b", "c")}


def test_the_least_important_is_refused_and_told_why():
    wants = [want("w", Priority.WANTED), want("p", Priority.PREVIOUS), want("s"), want("t", Priority.TARGET)]
    result = place(wants, [slots("e0", 3, 3)])
    assert result.replicas == {"e0": ("s", "t", "p")}
    assert list(result.refused) == ["w"]
    assert "engine.max_cpu_loras = 3" in result.refused["w"] and "s, t, p" in result.refused["w"]
    served = place([want(name) for name in "abc"], [slots("e0", 2, 8)])
    assert "engine.max_loras = 2" in served.refused["c"]


def test_more_replicas_hold_more_versions():
    wants = [want(name) for name in "abcd"]
    result = place(wants, [slots("e0", 2, 2), slots("e1", 2, 2)])
    assert result.refused == {}
    assert sorted(result.replicas["e0"] + result.replicas["e1"]) == list("abcd")


def test_without_a_replica_nothing_is_refused():
    assert place([want("a")], []) == Placement({}, {})


def test_a_newcomer_takes_the_free_slot_rather_than_somebody_elses():
    replicas = [slots("e0", 2, 2, "b", "c"), slots("e1", 2, 2, "d")]
    wants = [want("a"), *(want(name, Priority.PREVIOUS) for name in "bcd")]
    result = place(wants, replicas)
    assert set(result.replicas["e0"]) == {"b", "c"} and set(result.replicas["e1"]) == {"a", "d"}


VERSIONS = st.lists(
    st.builds(Want, st.sampled_from([f"r@{n:012x}" for n in range(12)]), st.sampled_from(Priority), st.booleans()),
    unique_by=lambda w: w.version,
    max_size=12,
)
REPLICAS = st.lists(
    st.builds(
        lambda name, loras, more, holds: Slots(name, loras, loras + more, frozenset(holds)),
        st.sampled_from([f"e{n}" for n in range(5)]),
        st.integers(1, 4),
        st.integers(0, 4),
        st.lists(st.sampled_from([f"r@{n:012x}" for n in range(16)]), max_size=6),
    ),
    unique_by=lambda s: s.name,
    max_size=5,
)


@given(VERSIONS, REPLICAS)
@settings(max_examples=200, deadline=None)
def test_limits_hold_and_nothing_is_lost(wants: list[Want], replicas: list[Slots]):
    result = place(wants, replicas)
    serves = {w.version: w.serves for w in wants}
    for replica in replicas:
        held = result.replicas[replica.name]
        assert len(set(held)) == len(held) <= replica.max_cpu_loras
        assert sum(serves[v] for v in held) <= replica.max_loras
    placed = {v for held in result.replicas.values() for v in held}
    assert placed.isdisjoint(result.refused)
    if replicas:
        assert placed | set(result.refused) == set(serves)


@given(VERSIONS, REPLICAS, st.randoms())
@settings(max_examples=200, deadline=None)
def test_order_of_input_does_not_matter(wants, replicas, random):
    shuffled_wants, shuffled_replicas = wants[:], replicas[:]
    random.shuffle(shuffled_wants)
    random.shuffle(shuffled_replicas)
    assert place(wants, replicas) == place(shuffled_wants, shuffled_replicas)


@given(VERSIONS, REPLICAS)
@settings(max_examples=200, deadline=None)
def test_a_refused_version_never_outranks_a_placed_one_of_its_kind(wants, replicas):
    """Among versions with the same needs, whoever is refused is the least important."""
    result = place(wants, replicas)
    for serves in (True, False):
        kind = [w for w in wants if w.serves is serves]
        refused = [w.priority for w in kind if w.version in result.refused]
        placed = [w.priority for w in kind if w.version not in result.refused]
        if replicas and refused and placed:
            assert max(placed) <= max(refused) and min(refused) >= min(placed)


@given(VERSIONS, REPLICAS)
@settings(max_examples=200, deadline=None)
def test_it_settles(wants, replicas):
    """Once the replicas hold what was decided, the decision stays: at most one better packing is found on the way."""
    steps = [place(wants, replicas)]
    for _ in range(3):
        steps.append(place(wants, holding(steps[-1], replicas)))
    assert steps[-1] == steps[-2]


@given(VERSIONS, REPLICAS)
@settings(max_examples=200, deadline=None)
def test_what_is_held_completely_is_left_alone(wants, replicas):
    result = place(wants, replicas)
    if not result.refused:
        assert place(wants, holding(result, replicas)) == result


@given(VERSIONS, REPLICAS)
@settings(max_examples=200, deadline=None)
def test_taking_one_version_away_takes_no_other_from_its_last_holder(wants, replicas):
    before = place(wants, replicas)
    for gone in wants:
        rest = [w for w in wants if w != gone]
        after = place(rest, holding(before, replicas))
        for w in rest:
            holders = set(before.of(w.version))
            assert not holders or holders & set(after.of(w.version))


def test_copies_go_round_in_order_of_priority():
    wants = [want("s1"), want("s2"), want("p", Priority.PREVIOUS)]
    result = place(wants, [slots(f"e{n}", 2, 2) for n in range(3)])
    counts = Counter(v for held in result.replicas.values() for v in held)
    assert counts == {"s1": 2, "s2": 2, "p": 2}
