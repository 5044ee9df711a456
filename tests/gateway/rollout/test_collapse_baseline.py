from __future__ import annotations

import pytest

from adapters.collapse_store import CollapseStore, Pair
from gateway.collapse_settings import CollapseSettings
from gateway.rollout.collapse_baseline import fitted, signals_of, wanted_of
from monitors.rewards.settings import RewardSpec
from monitors.stats.results import InsufficientData
from tests.support.collapse import Feed, opinions
from tests.support.records import Records


def test_the_reward_is_the_mean_of_all_graders_unless_one_is_named():
    graders = (RewardSpec(name="exact", label="truth"), RewardSpec(name="length"))
    assert wanted_of(CollapseSettings(), graders[:1]).grader == "truth"
    assert wanted_of(CollapseSettings(), graders).grader == "composite"
    assert wanted_of(CollapseSettings(grader="length"), graders).grader == "length"
    assert wanted_of(CollapseSettings(), ()).grader == "composite"  # a service elsewhere
    gold = (RewardSpec(name="exact", gold=True), RewardSpec(name="length", gold=True))
    assert wanted_of(CollapseSettings(), gold).grader == "exact"     # which has no mean of gold graders
    assert wanted_of(CollapseSettings(kinds=("task",)), ()).kinds == ("task",)


def test_signals_are_made_of_what_texts_were_measured_to_be():
    scores = {
        "exact": 0.5, "text.tokens": 10.0, "text.characters": 60.0, "text.compression_ratio": 2.0, "text.distinct_4": 1.0,
        "text.duplicate_4gram": 0.25,
    }  # fmt: skip
    assert signals_of(scores) == {
        "tokens": 10.0, "compression_ratio": 2.0, "duplicate_4gram": 0.25, "bytes_per_token": 3.0
    }
    assert signals_of({"exact": 1.0, "text.tokens": 0.0}) == {"tokens": 0.0}


def test_a_baseline_is_fitted_from_records(database):
    records = Records(database)
    Feed(database).give(records.stable, opinions(1, 300))
    store, settings = CollapseStore(database), CollapseSettings(baseline=200)
    wanted = wanted_of(settings, (RewardSpec(name="exact"),))
    pairs = store.newest([records.stable], store.ends()[1], 400, wanted)
    found = fitted(store, settings, wanted, [records.stable], pairs)
    assert (found.n, found.rate, set(found.signals)) == (300, 1.0, {"tokens", "repetition"})
    assert found.satisfaction == pytest.approx(sum(pair.satisfaction for pair in pairs) / 300)
    with pytest.raises(InsufficientData, match="150 feedbacks with a reward, 200 are needed"):
        fitted(store, settings, wanted, [records.stable], pairs[:150])


def test_pairs_without_this_graders_score_do_not_count(database):
    store, settings = CollapseStore(database), CollapseSettings(baseline=100)
    pair = Pair(1, 0.0, b"", 1, "", 1.0, {"other": 0.5})
    with pytest.raises(InsufficientData, match="0 feedbacks"):
        fitted(store, settings, wanted_of(settings, (RewardSpec(name="exact"),)), [1], [pair] * 200)
