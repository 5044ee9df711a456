"""The weighted reward: missing parts, the dominant term, broken graders."""

from __future__ import annotations

import pytest

from adapters.errors import ConfigError, GraderError
from monitors.rewards.composite import Composite, scored
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample

SAMPLES = [Sample((), "a"), Sample((), "b"), Sample((), "c")]


class Fixed:
    """A grader that gives what it was told to."""

    def __init__(self, name, scores, error=None):
        self.name, self.fingerprint, self.scores, self.error = name, name * 2, scores, error
        self.prepared = 0

    def prepare(self):
        self.prepared += 1

    def score(self, samples):
        if self.error:
            raise self.error
        return self.scores


def composite(*parts):
    return Composite([grader for grader, _ in parts], [RewardSpec(name=g.name, **options) for g, options in parts])


def test_weights_are_normalised_and_gold_is_left_out():
    made = composite(
        (Fixed("exact", [1.0, 0.0, 1.0]), {"weight": 3}),
        (Fixed("length", [0.0, 1.0, 1.0]), {"weight": 1}),
        (Fixed("number", [0.0, 0.0, 0.0]), {"gold": True}),
        (Fixed("regex", [0.0, 0.0, 0.0]), {"weight": 0}),
    )
    assert made.weights == {"exact": 0.75, "length": 0.25} and made.warnings == ()
    graded = made.graded(SAMPLES)
    assert graded.total == [0.75, 0.25, 1.0] and set(graded.parts) == {"exact", "length"}


def test_a_missing_required_part_makes_the_sample_missing_and_an_optional_one_does_not():
    made = composite(
        (Fixed("exact", [1.0, None, 0.0]), {"weight": 3}),
        (Fixed("judge", [None, 1.0, 0.5]), {"weight": 1, "required": False}),
    )
    assert made.score(SAMPLES) == [1.0, None, 0.125]
    optional = composite((Fixed("judge", [None, 1.0, 0.0]), {"required": False}))
    assert optional.score(SAMPLES) == [None, 1.0, 0.0]


@pytest.mark.parametrize(("weights", "warned"), [((1, 1), True), ((2, 1, 1), True), ((2.1, 1, 1), False), ((1,), False)])
def test_without_a_dominant_term_there_is_a_warning(weights, warned):
    made = composite(*((Fixed(f"g{n}", []), {"weight": weight}) for n, weight in enumerate(weights)))
    assert bool(made.warnings) is warned
    if warned:
        assert "'g0', holds 50% of the weight" in made.warnings[0]


def test_nothing_to_train_on():
    with pytest.raises(ConfigError, match=r"every \[\[reward\]\] is gold"):
        composite((Fixed("exact", []), {"gold": True}))
    with pytest.raises(ConfigError, match="are all 0"):
        composite((Fixed("exact", []), {"weight": 0}))
    with pytest.raises(ValueError, match="finite"):
        RewardSpec(name="exact", weight=float("inf"))
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        RewardSpec(name="exact", weight=-1)


def test_a_broken_part_names_itself():
    for error in (GraderError("reward 'judge' has drifted"), ZeroDivisionError("division by zero")):
        with pytest.raises(GraderError, match=r"reward 'judge' (has drifted|raised ZeroDivisionError: division by zero)"):
            composite((Fixed("judge", [], error), {})).score(SAMPLES)
    with pytest.raises(GraderError, match="gave 1 scores for 3 samples"):
        scored(Fixed("judge", [1.0]), SAMPLES)


def test_fingerprint_and_prepare_reach_the_parts():
    first, second = Fixed("exact", []), Fixed("length", [])
    made = composite((first, {"weight": 3}), (second, {"weight": 1}))
    made.prepare()
    assert (first.prepared, second.prepared) == (1, 1)
    prints = {made.fingerprint, composite((first, {"weight": 2}), (second, {"weight": 1})).fingerprint}
    prints.add(composite((first, {"weight": 3}), (second, {"weight": 1, "required": False})).fingerprint)
    second.fingerprint = "other"
    prints.add(made.fingerprint)
    assert len(prints) == 4
