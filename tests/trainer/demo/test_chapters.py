"""What the chapters conclude from records; the story itself is told in test_story."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

from trainer.demo.chapters import _phases


def test_responses_of_a_phase_are_those_signed_for_its_step():
    moved = [("shadow", 0, 0.0, 10.0), ("ramp", 1, 0.1, 14.0), ("ramp", 2, 0.5, 20.0)]
    events = [
        {"kind": "started", "at": 9.0, "numbers": {}},
        *({"kind": "moved", "at": at, "numbers": {"phase": phase, "step": step, "weight": weight}}
          for phase, step, weight, at in moved),
        {"kind": "held", "at": 21.0, "numbers": {"phase": "ramp", "step": 2, "weight": 0.5}},
        {"kind": "promoted", "at": 40.0, "numbers": {"cause": "evidence"}},
    ]  # fmt: skip
    asked: list[tuple[int, str]] = []

    def by_step(seen, rollout: int, version: str) -> Counter[int]:
        asked.append((rollout, version))
        return Counter({1: 27, 2: 449})

    story = SimpleNamespace(
        stack=SimpleNamespace(operator=lambda method, path: {"events": events}), tally=SimpleNamespace(by_step=by_step)
    )
    found = _phases(story, {"id": 7, "candidate": "support@000000000002", "ended_at": 40.0}, [])
    assert asked == [(7, "support@000000000002")]
    assert [tuple(phase.values()) for phase in found] == [
        ("preparing", 0.0, 1.0, 0), ("shadow", 0.0, 4.0, 0), ("ramp", 0.1, 6.0, 27), ("ramp", 0.5, 20.0, 449)
    ]  # fmt: skip
