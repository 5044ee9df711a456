"""The one sentence of a finding."""

from __future__ import annotations

from monitors.analysis.spec import MetricSpec
from monitors.analysis.types import Verdict
from monitors.analysis.wording import Shown, effect_finding, gain_sign


def test_a_sentence_with_its_numbers():
    shown = Shown(-0.01, -0.03, 0.01, 0.02, 500)
    found = effect_finding(MetricSpec(name="satisfaction"), "sequential", Verdict.INCONCLUSIVE, shown)
    assert found.reason == (
        "satisfaction: undecided; candidate minus stable -0.01 in [-0.03, +0.01], tolerated -0.02"
    )
    assert (found.tolerated, found.n) == (-0.02, 500)
    worse = effect_finding(MetricSpec(name="tokens"), "sequential", Verdict.FAIL, shown)
    assert "worse than tolerated" in worse.reason and worse.tolerated == 0.02
    assert gain_sign(MetricSpec(name="tokens")) == -1
