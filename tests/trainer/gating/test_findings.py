"""Findings: what is not measured never passes."""

from __future__ import annotations

from trainer.gating.findings import Gate, fails, joined, passes, unknown, within


def test_within():
    assert within("r", 1.0, 1.0, "x").verdict == "pass"
    assert within("r", 1.1, 1.0, "x").verdict == "fail"
    assert within("r", None, 1.0, "x").verdict == "no data"


def test_a_gate_passes_only_when_every_rule_does():
    good, bad, dark = passes("a", "fine"), fails("b", "worse"), unknown("c", "who knows")
    assert Gate((good,)).passed and not Gate(()).passed
    assert not joined([[good], [bad]]).passed and not joined([[good], [dark]]).passed
    assert joined([[good, bad], [dark]]).reason == "b: worse; c: who knows"
