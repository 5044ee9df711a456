"""Calibration sets, drift, and the length effect on data whose truth is known."""

from __future__ import annotations

import json
import math

import numpy
import pytest

from adapters.errors import ConfigError, GraderError
from monitors.rewards.calibration import LengthEffect, drift, length_effect, load_calibration

GOOD = {"prompt": "q", "completion": "a", "expected": 0.5}


def test_a_set_is_read(tmp_path):
    path = tmp_path / "set.jsonl"
    rows = [GOOD] * 4 + [{"prompt": [{"role": "user", "content": "q"}], "completion": "b", "expected": 1, "reference": "r"}]
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    known = load_calibration(path)
    assert known.expected == (0.5, 0.5, 0.5, 0.5, 1.0)
    assert known.samples[0].prompt == known.samples[4].prompt == ({"role": "user", "content": "q"},)
    assert known.samples[4].columns == {"reference": "r"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected {"),
        ('{"prompt": "q", "expected": 1}', "line 2: expected {"),
        ('{"prompt": "q", "completion": "a"}', "line 2: expected is None"),
        ('{"prompt": "q", "completion": "a", "expected": 5}', "line 2: expected is 5"),
        ('{"prompt": "q", "completion": "a", "expected": true}', "line 2: expected is True"),
        ('{"prompt": "q", "completion": "a", "expected": NaN}', "line 2: expected is nan"),
        ('{"prompt": 7, "completion": "a", "expected": 1}', "line 2: prompt is neither"),
        ('{"prompt": [], "completion": "a", "expected": 1}', "line 2: prompt is neither"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join([json.dumps(GOOD), line]))
    with pytest.raises(ConfigError) as caught:
        load_calibration(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_too_few_rows(tmp_path):
    (tmp_path / "set.jsonl").write_text(json.dumps(GOOD))
    with pytest.raises(ConfigError, match="has 1 rows: give at least 5"):
        load_calibration(tmp_path / "set.jsonl")


def test_drift_by_hand():
    found = drift([0.5, 1.0, 0.0, 0.25, None], [0.5, 0.5, 0.5, 0.5, 0.9])
    assert (found.rows, found.missing) == (5, 1)
    assert found.mean_difference == pytest.approx((0 + 0.5 + 0.5 + 0.25) / 4)
    assert found.bias == pytest.approx((0 + 0.5 - 0.5 - 0.25) / 4)
    for scores in ([None] * 5, [0.5, 0.5, 0.5, None, None]):
        with pytest.raises(GraderError, match="of the 5 calibration rows"):
            drift(scores, [0.5] * 5)


def simulated(rng, beta, n=400):
    lengths = rng.gamma(2.0, 200.0, n)
    expected = rng.uniform(0.1, 0.9, n)
    z = numpy.tanh((lengths - lengths.mean()) / lengths.std())
    odds = numpy.log(expected / (1 - expected)) + beta * z
    return (rng.random(n) < 1 / (1 + numpy.exp(-odds))).astype(float).tolist(), expected.tolist(), lengths.tolist()


@pytest.mark.parametrize("beta", [-1.0, 0.0, 1.5])
def test_the_length_effect_is_found_and_covered_by_its_error(beta):
    rng = numpy.random.default_rng(11)
    inside, estimates = 0, []
    for _ in range(60):
        effect = length_effect(*simulated(rng, beta), center=True)
        estimates.append(effect.beta)
        inside += abs(effect.beta - beta) < 2.576 * effect.standard_error
    assert numpy.mean(estimates) == pytest.approx(beta, abs=0.1)
    assert inside >= 54  # 99 % intervals; the ridge shrinks a little


def test_the_correction():
    none = LengthEffect()
    assert [none.corrected(s, 10**6) for s in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]
    effect = LengthEffect(beta=1.0, center=100.0, scale=50.0)
    assert effect.corrected(0.5, 100.0) == 0.5
    assert effect.corrected(0.5, 1e9) == pytest.approx(1 / (1 + math.e))
    assert effect.corrected(0.5, 150.0) < 0.5 < effect.corrected(0.5, 50.0)
    assert all(0 <= effect.corrected(s, length) <= 1 for s in (0.0, 1.0) for length in (0.0, 100.0, 1e9))


def test_equal_lengths_have_no_effect():
    assert length_effect([0.5] * 5, [0.5] * 5, [7.0] * 5, center=True).beta == 0.0
    assert length_effect([None], [0.5], [7.0], center=True).beta == 0.0
