"""Paired comparisons of stored evaluations."""

from __future__ import annotations

import pytest

from adapters.errors import Conflict
from tests.support.suites import W, make_suite, right, run, write_slice
from trainer.evaluation.answers import Answer
from trainer.evaluation.comparison import compare, mean_of_slices

TWO = "".join(f'[[slice]]\nname = "{name}"\nfile = "{name}.jsonl"\ngraders = ["exact"]\n' for name in ("sums", "words"))


def two(folder, n=60, head=""):
    for name in ("sums", "words"):
        write_slice(folder, name, n)
    return make_suite(folder, TWO, head)


def body(folder, suite, reply, **options):
    return run(folder, suite, reply, **options).evaluation.body


def test_differences(tmp_path):
    suite = two(tmp_path)
    found = compare(body(tmp_path, suite, right(0.8)), body(tmp_path, suite, right(0.5), version=W))
    sums = found.slices[0]
    assert (sums.name, sums.candidate, sums.stable, sums.dropped) == ("sums", 0.8, 0.5, 0)
    assert sums.paired.difference == pytest.approx(0.3)
    assert (sums.paired.better, sums.paired.worse) == (18, 0) and sums.changed
    assert sums.paired.interval.lower > 0.15
    assert found.north_star.name == "mean" and found.north_star.difference == pytest.approx(0.3)
    low, high = found.north_star.interval
    assert sums.paired.interval.lower < low < 0.3 < high < sums.paired.interval.upper


def test_pairing_is_worth_something(tmp_path):
    """The same share of right answers on other prompts is far less certain."""
    suite = two(tmp_path)
    stable = body(tmp_path, suite, right(0.5))
    same = compare(body(tmp_path, suite, right(0.55)), stable).slices[0].paired
    other = compare(body(tmp_path, suite, right(0.55, every=30)), stable).slices[0].paired
    assert same.difference == pytest.approx(other.difference)
    assert same.interval.upper - same.interval.lower < 0.5 * (other.interval.upper - other.interval.lower)


def test_one_slice_as_north_star(tmp_path):
    suite = two(tmp_path, head='north_star = "words.score"')
    found = compare(body(tmp_path, suite, right(0.8)), body(tmp_path, suite, right(0.5)))
    assert found.north_star.name == "words.score" and found.north_star.p < 0.001


def test_other_environments_are_refused(tmp_path):
    stable = body(tmp_path, two(tmp_path), right(0.5))
    candidate = body(tmp_path, two(tmp_path, head="seed = 5"), right(0.8))
    with pytest.raises(Conflict, match="cannot be compared: slice sums: its seed changed; evaluate both anew"):
        compare(candidate, stable)
    with pytest.raises(Conflict, match="how it was run changed"):
        compare(body(tmp_path, two(tmp_path), right(0.5), source="local"), stable)


def test_no_data_in_a_slice_is_no_mean(tmp_path):
    """Prompts without a grade on one side are dropped and counted; a slice without pairs voids the mean."""
    (tmp_path / "rows.txt").write_text("")
    suite = two(tmp_path, n=3)
    candidate, stable = (body(tmp_path, suite, right(1.0)) for _ in range(2))
    for value in stable["slices"]["words"]["values"][:2]:
        value["pass_at_1"] = None
    found = compare(candidate, stable)
    assert found.slices[1].dropped == 2 and found.slices[1].paired is None
    assert found.north_star.difference is None and found.north_star.interval is None


def test_errors_count_as_wrong(tmp_path):
    suite = two(tmp_path)
    broken = body(tmp_path, suite, lambda ask: Answer(error="400: out of range") if ask.row_index < 30 else right(1.0)(ask))
    found = compare(broken, body(tmp_path, suite, right(1.0)))
    assert found.slices[0].candidate == 0.5 and found.slices[0].changed


def test_the_mean_needs_every_slice():
    one = {"value": 0.5, "lower": 0.4, "upper": 0.6}
    assert mean_of_slices([one, None]) is None and mean_of_slices([]) is None
    found = mean_of_slices([one, one])
    assert found["value"] == 0.5 and found["lower"] == pytest.approx(0.5 - 0.1 / 2**0.5)
