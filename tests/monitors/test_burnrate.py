"""The window tables, what can fire, and how soon."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import ConfigError
from monitors.burnrate import (
    MIN_BAD_EVENTS,
    TABLES,
    Policy,
    Severity,
    alerting,
    format_duration,
    parse,
    possible_burn,
)

OBJECTIVES = st.floats(0.01, 0.9999)


def test_the_workbooks_table():
    """Site Reliability Workbook, table 5-8: 14.4, 6, 3, 1 for 30 days."""
    found = [(row.severity.value, row.budget, row.long, row.short) for row in TABLES["30d"]]
    assert found == [
        ("page", 0.02, 3600, 300), ("page", 0.05, 21600, 1800), ("ticket", 0.10, 86400, 7200),
        ("ticket", 0.10, 259200, 21600),
    ]  # fmt: skip
    assert [row.factor(parse("30d")) for row in TABLES["30d"]] == pytest.approx([14.4, 6, 3, 1])


@pytest.mark.parametrize("period", list(TABLES))
def test_no_table_alerts_on_a_burn_that_could_go_on_for_ever(period):
    factors = [row.factor(parse(period)) for row in TABLES[period]]
    assert factors == sorted(factors, reverse=True) and min(factors) >= 1
    assert all(row.long == 12 * row.short for row in TABLES[period])


def test_below_93_percent_the_fastest_page_can_never_fire():
    assert possible_burn(0.8) == pytest.approx(5)
    assert len(alerting(0.9306, "30d").burns) == 4
    with pytest.raises(ConfigError) as refused:
        alerting(0.9305, "30d")
    for part in ("14.4 times", "above 93.06%", '"scale"', '"detectors"', "1h and 5m"):
        assert part in str(refused.value)


def test_scaling_keeps_order_and_the_budgets_own_rate():
    found = alerting(0.8, "30d", Policy.SCALE)
    assert found.scaled and not found.left_out
    assert [burn.factor for burn in found.burns] == pytest.approx([3, 2.0914, 1.5722, 1], abs=1e-3)
    assert [burn.ratio for burn in found.burns] == pytest.approx([0.6, 0.4183, 0.3144, 0.2], abs=1e-3)
    assert not alerting(0.99, "30d", Policy.SCALE).scaled


@given(OBJECTIVES, st.sampled_from(list(TABLES)))
def test_whatever_the_objective_every_scaled_alert_can_fire(objective, period):
    found = alerting(objective, period, Policy.SCALE)
    factors = [burn.factor for burn in found.burns]
    assert len(factors) == 4 and factors == sorted(factors, reverse=True)
    assert all(1 - objective <= burn.ratio * 1.000001 and burn.ratio < 1 for burn in found.burns)


@given(OBJECTIVES, st.sampled_from(list(TABLES)), st.floats(0, 1e6))
def test_left_to_detectors_is_exactly_what_cannot_fire_or_has_too_few_events(objective, period, rate):
    found = alerting(objective, period, Policy.DETECTORS, events_per_hour=rate)
    assert len(found.burns) + len(found.left_out) == 4
    for burn in found.burns:
        assert burn.ratio < 1
        assert rate == 0 or rate * burn.window.long / 3600 * burn.ratio >= MIN_BAD_EVENTS * 0.999999


def test_few_events_are_left_to_the_detectors():
    """99.5 %: the first page fires at 7.2 % of an hour, 10 bad ones of 139; the tickets need 28 events an hour."""
    found = alerting(0.995, "30d", events_per_hour=60)
    assert [burn.window.severity for burn in found.burns] == [Severity.PAGE, Severity.TICKET, Severity.TICKET]
    assert "60 events an hour bring 4.3 bad ones in 1h" in found.left_out[0]
    assert alerting(0.995, "30d", events_per_hour=139).left_out == ()


def test_seconds_to_fire():
    page = alerting(0.99, "30d").burns[0]
    assert page.seconds_to_fire(1.0) == pytest.approx(0.144 * 3600)      # 8.64 minutes, all being bad
    assert page.seconds_to_fire(0.5) == pytest.approx(0.288 * 3600)
    assert math.isinf(page.seconds_to_fire(0.144)) and math.isinf(page.seconds_to_fire(0.01))


@pytest.mark.parametrize(("seconds", "text"), [
    (300, "5m"), (3600, "1h"), (5400, "1h30m"), (86400, "1d"), (259200, "3d"), (604800, "1w"), (28 * 86400, "4w"),
    (30 * 86400, "30d"), (2.5, "2s500ms"), (0.00001, "1ms"), (90061, "1d1h1m1s"),
])  # fmt: skip
def test_durations_are_prometheus_durations(seconds, text):
    assert format_duration(seconds) == text
    assert parse(text) == pytest.approx(max(seconds, 0.001))


@pytest.mark.parametrize("text", ["", "5", "h", "5 m", "1.5h", "5m ", "1y", "-5m"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="is not a duration"):
        parse(text)
