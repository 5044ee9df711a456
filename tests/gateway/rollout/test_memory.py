from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.rollout.memory import MOST_CREDIT, Hold, HoldKind, Memory, credit, with_boots


def test_it_survives_as_json():
    memory = Memory(
        credited=3.5, hold=Hold(HoldKind.STABLE_ARM, "worse", 7.0, 0.2), cursor=(5, 6), reference={"error": 0.1},
        seen={"units": {"stable": 4}}, wanted="promote",
    )  # fmt: skip
    assert Memory.from_state(json.loads(json.dumps(memory.to_state()))) == memory
    assert Memory.from_state({}) == Memory()


def test_what_another_release_wrote_does_no_harm():
    assert Memory.from_state({"credited": 1.0, "newer": {"x": 1}}) == Memory(credited=1.0)


def test_time_is_credited_while_somebody_watches():
    assert credit(Memory(ticked_at=100.0), 100.4) == 100.4 - 100.0
    assert credit(Memory(), 100.0) == 0.0


@given(st.floats(-1e12, 1e12))
def test_no_jump_of_the_clock_credits_more_than_a_moment(jump):
    """Neither ahead, as after a suspend, nor back: a step's shortest time cannot be jumped over."""
    assert 0.0 <= credit(Memory(ticked_at=1e9), 1e9 + jump) <= MOST_CREDIT


def test_restarts_are_counted_per_engine():
    memory = Memory()
    for boots in ({"a": "1", "b": "1"}, {"a": "2", "b": "1"}, {"b": "1"}, {"a": "3", "b": "2"}, {"a": "3", "b": "2"}):
        memory = with_boots(memory, boots)
    assert memory.crashes == {"a": 2, "b": 1} and memory.boots == {"a": "3", "b": "2"}
