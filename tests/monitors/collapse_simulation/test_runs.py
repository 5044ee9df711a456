"""The table of docs/collapse.md in small: fewer runs, and bounds that a worse detector would break.

Reference (shared by every scenario here): 400 runs, delays in feedbacks, median; see docs/collapse.md.
"""

from __future__ import annotations

import pytest

from monitors.collapse_simulation.runs import Outcome, Summary, as_row, simulate, summarise

RUNS = 24


@pytest.fixture(scope="module")
def found() -> dict[str, Summary]:
    runs = {"flat": RUNS, "rising": RUNS, "ordinary": RUNS, "stationary": RUNS // 2, "inflated": RUNS // 3}
    made = {name: summarise(name, [simulate(name, 100 + seed) for seed in range(n)]) for name, n in runs.items()}
    for summary in made.values():
        print(as_row(summary))  # shown by pytest -rP
    return made


def test_collapses_are_found_as_fast_as_specified(found):
    for name, median in (("flat", 295), ("rising", 177)):
        assert found[name].collapse_alarm >= 0.9
        assert found[name].collapse_delay[0] <= 1.5 * median  # 24 runs: the median's own error is 15 %
        assert found[name].collapse >= 0.7                    # and called by their name


def test_an_ordinary_regression_is_found_and_not_called_a_collapse(found):
    assert found["ordinary"].regression >= 0.9 and found["ordinary"].collapse <= 0.05
    assert found["ordinary"].regression_delay[0] <= 1.5 * 287


def test_nothing_is_found_where_nothing_is_wrong(found):
    assert found["stationary"].early <= 2 / 12
    assert found["inflated"].early <= 2 / 8  # a better reward and users as before


def test_efficiency_is_that_of_a_good_detector(found):
    assert 0.6 <= found["flat"].efficiency <= 2.0


def test_the_same_seed_is_the_same_run():
    assert simulate("flat", 5) == simulate("flat", 5) != simulate("flat", 6)


def test_a_summary_is_of_the_runs():
    first = {"collapse": 2100, "quality_regression": 2300, "freeze": None}
    runs = [
        Outcome(first, "collapse", 2100, 0), Outcome({**first, "collapse": 2300}, "quality_regression", 2200, 0),
        Outcome({**first, "collapse": 1000}, "collapse", 1000, 60), Outcome(dict.fromkeys(first), None, None, 0),
    ]  # fmt: skip
    told = summarise("flat", runs)
    assert (told.early, told.collapse, told.regression, told.collapse_alarm) == (0.25, 0.25, 0.25, 0.5)
    assert told.collapse_delay[0] == 200 and told.verdict_delay[0] == 150 and told.regression_delay[0] == 300
    assert told.inconclusive == 60 / (4 * 6000) and told.freeze == 0.0
