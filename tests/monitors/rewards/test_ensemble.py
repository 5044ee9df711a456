"""Several graders of one thing."""

from __future__ import annotations

import math

import pytest

from adapters.errors import ConfigError
from monitors.rewards.build import build_grader
from monitors.rewards.ensemble import combine
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample

MEMBERS = [
    {"name": "exact"},
    {"name": "exact", "label": "loose", "options": {"strip": True, "casefold": True}},
    {"name": "length", "options": {"target": 1, "limit": 3}},
]


def ensemble(members=MEMBERS, **options):
    return build_grader(RewardSpec(name="ensemble", options={"members": members, **options}))


@pytest.mark.parametrize(
    ("how", "k", "expected"),
    [("mean", 1, 0.5), ("min", 1, 0.2), ("pessimistic", 0, 0.5), ("pessimistic", 1, 0.5 - math.sqrt(0.06)), ("pessimistic", 9, 0)],
)
def test_hand_worked(how, k, expected):
    assert combine([0.2, 0.5, 0.8], how, k) == pytest.approx(expected)


def test_members_are_graders_and_what_fools_one_does_not_fool_the_minimum():
    samples = [Sample((), text, {"answer": "yes"}) for text in ("yes", " YES", "no no no", "yes")]
    assert ensemble(combine="min").score(samples[:3]) == [1.0, 0.0, 0.0]
    assert ensemble(combine="mean").score(samples[:3]) == pytest.approx([1.0, 2 / 3, 0.0])
    assert ensemble().score(samples[3:]) == [1.0]


def test_a_missing_member():
    without = [Sample((), "yes")]
    assert ensemble().score(without) == [None]
    optional = [{**member, "required": False} for member in MEMBERS]
    assert ensemble(optional, combine="mean").score(without) == [1.0]
    assert ensemble(optional[:2]).score(without) == [None]


def test_wrong_members():
    with pytest.raises(ConfigError, match="reward 'ensemble': options: members"):
        ensemble(MEMBERS[:1])
    with pytest.raises(ConfigError, match="'exact' is there twice"):
        ensemble([MEMBERS[0], MEMBERS[0]])
    with pytest.raises(ConfigError, match=r"members\.0\.wieght'; the nearest known one is 'weight'"):
        ensemble([{"name": "exact", "wieght": 2}, MEMBERS[0]])


def test_the_fingerprint_follows_members_and_rule():
    prints = {ensemble().fingerprint, ensemble(k=2).fingerprint, ensemble(combine="min").fingerprint, ensemble(MEMBERS[:2]).fingerprint}
    assert len(prints) == 4 and ensemble().fingerprint in prints
