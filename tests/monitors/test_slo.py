"""What an objective must be."""

from __future__ import annotations

import pytest

from adapters.errors import ConfigError
from monitors.burnrate import Policy
from monitors.slo import Action, Events, Ratio, Slo, check_distinct

EVENTS = Events("sum(rate(bad_total[{{.window}}]))", "sum(rate(all_total[{{.window}}]))")


def slo(**changes) -> Slo:
    return Slo(**({"name": "one", "indicator": EVENTS, "objective": 0.99} | changes))


@pytest.mark.parametrize(("changes", "message"), [
    ({"name": "One"}, "SLO name 'One': lower-case letters"),
    ({"name": "a" * 64}, "63 at most"),
    ({"name": ""}, "SLO name ''"),
    ({"service": "my service"}, "SLO service 'my service'"),
    ({"objective": 99.9}, "a share below 1, such as 0.999; got 99.9"),
    ({"objective": 1.0}, "got 1"),
    ({"objective": 0.0}, "got 0"),
    ({"objective": float("nan")}, "got nan"),
    ({"period": "90d"}, "alert windows for 30d, 28d, 7d, not for '90d'"),
    ({"no_data": "2h"}, "no_data is one of 1h, 6h, 1d, 3d, never; got '2h'"),
    ({"action": Action.ROLLBACK}, "needs the route that is to be rolled back"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError) as refused:
        slo(**changes)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_an_alert_that_cannot_fire_is_refused_with_the_name():
    with pytest.raises(ConfigError, match=r"SLO understudy-one: an objective of 0\.8 can burn"):
        _ = slo(objective=0.8).alerting
    assert slo(objective=0.8, policy=Policy.SCALE).alerting.scaled


def test_names_are_distinct_by_service_and_name():
    check_distinct([slo(), slo(service="other"), slo(name="two")])
    with pytest.raises(ConfigError, match="two SLOs are called a-b-c"):
        check_distinct([slo(service="a", name="b-c"), slo(service="a-b", name="c")])


def test_the_window_goes_where_the_query_says():
    assert EVENTS.bad_rate("5m") == "(sum(rate(bad_total[5m])))"
    assert EVENTS.error("1h").splitlines() == ["(sum(rate(bad_total[1h])))", "/", "((sum(rate(all_total[1h]))) > 0)"]
    assert Ratio("1 - avg_over_time(up[{{.window}}])").error("1h") == "1 - avg_over_time(up[1h])"
