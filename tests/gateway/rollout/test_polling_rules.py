"""Flagger's and Argo's documented examples, on traffic where their arithmetic can be done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.rollout.polling_rules import argo, flagger
from gateway.rollout.simulated_traffic import Traffic


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_a_version_that_always_fails_takes_ten_minutes_or_three_checks():
    broken = Traffic(rps=100, bad_rate=1.0)
    found = flagger(broken, rng())
    assert (found.decision, found.seconds) == ("rollback", 600)
    assert found.candidate_requests == found.bad_requests == pytest.approx(600 * 100 * 0.05, rel=0.05)
    found = argo(broken, rng())
    assert (found.decision, found.seconds) == ("rollback", 900)
    assert found.candidate_requests == pytest.approx(100 * 300 * (0.2 + 0.2 + 0.4), rel=0.05)


def test_a_version_that_never_fails_is_promoted():
    good = Traffic(rps=100, bad_rate=0.0)
    assert (flagger(good, rng()).decision, flagger(good, rng()).seconds) == ("promote", 600)
    assert (argo(good, rng()).decision, argo(good, rng()).seconds) == ("promote", 2400)


def test_three_per_cent_of_errors_pass_argo_and_not_flagger():
    worse = Traffic(rps=100, bad_rate=0.01, relative_risk=3)
    assert flagger(worse, rng()).decision == "rollback"
    assert argo(worse, rng()).decision == "promote"


def test_other_harm_is_invisible_to_both():
    unhappy = Traffic(rps=100, metric="guard", bad_rate=0.3, relative_risk=3, satisfaction_change=-0.5)
    assert {flagger(unhappy, rng()).decision, argo(unhappy, rng()).decision} == {"promote"}


def test_no_traffic_is_a_failed_check_for_flagger_and_none_for_argo():
    silent = Traffic(rps=1e-9)
    assert (flagger(silent, rng()).decision, flagger(silent, rng()).seconds) == ("rollback", 600)
    assert argo(silent, rng()).decision == "promote"
