"""The rules in Prometheus' own hands (promtool): what fires, when, and what does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from monitors.burnrate import Policy, alerting, format_duration
from monitors.indicators import Scope, Sli, Source, custom, indicator
from monitors.rules import BURNING, CHANGED, NO_DATA, SPENDING, render
from monitors.slo import Action, Slo
from tests.support.promtool import Expected, fires, run_rules

pytestmark = pytest.mark.needs("prometheus")
HOUR = 60                # minutes
STEP = 2                 # minutes between two samples
COMMON = 'endpoint="chat",route="support",version="support@1"'
IDS = 'route="support",sloth_id="support-one",sloth_service="support",sloth_slo="one"'


def requests(outcome: str = "ok", code: int = 200, arm: str = "stable") -> str:
    return f'understudy_requests_total{{{COMMON},arm="{arm}",code="{code}",outcome="{outcome}"}}'


def slo(sli: Sli = Sli.AVAILABILITY, objective: float = 0.995, threshold: float | None = None, **more) -> Slo:
    scope = Scope("support", more.pop("candidate", False), grader=more.pop("grader", ""))
    source = more.pop("source", Source.ALIGNMENT_TAX)
    given = {"service": "support", "route": "support", "sli": sli.value, "action": Action.ROLLBACK, "name": "one"}
    return Slo(indicator=indicator(sli, scope, threshold, source), objective=objective, **(given | more))


def phases(*parts: tuple[float, int]) -> str:
    """A counter that goes up by so much a minute for so many minutes, then …"""
    text, value = "0", 0.0
    for slope, length in parts:
        rise, steps = slope * STEP, length // STEP
        text += f" {value + rise:g}+{rise:g}x{steps - 1}"
        value += rise * steps
    return text


def levels(*parts: tuple[float, int]) -> str:
    """A gauge that is so much for so many minutes, then …"""
    return " ".join(f"{value:g}x{length // STEP - 1}" for value, length in parts)


def histogram(metric: str, labels: str, le: str, within: str, count: str) -> dict[str, str]:
    return {f'{metric}_bucket{{{labels},le="{le}"}}': within, f"{metric}_count{{{labels}}}": count}


def judge(folder: Path, slos: Sequence[Slo], series: dict[str, str], *expected: Expected) -> None:
    run_rules(folder, render(slos), series, expected, interval=f"{STEP}m")


@pytest.mark.parametrize(("objective", "bad"), [(0.995, 0.5), (0.95, 0.8)])
def test_a_breach_pages_when_the_table_says(tmp_path, objective, bad):
    """What `slo list` promises is what Prometheus does, to a few minutes."""
    found = [burn for burn in alerting(objective, "30d").burns if burn.window.severity == "page"]
    due = min(burn.seconds_to_fire(bad) for burn in found) / 60
    healthy, breach = 6 * HOUR, 2 * HOUR
    series = {
        requests(): phases((1000, healthy), (1000 * (1 - bad), breach)),
        requests("error", 502): phases((0, healthy), (1000 * bad, breach)),
    }
    early, late = (format_duration(60 * round(healthy + at)) for at in (0.9 * due - STEP, 1.1 * due + 2 * STEP))
    judge(tmp_path, [slo(objective=objective)], series, fires(BURNING, early), fires(BURNING, late, "one"))


def test_below_the_rate_nothing_fires_and_above_it_a_ticket_does(tmp_path):
    """2.9 % is 5.8 times the budget of 0.5 %: too slow for a page at 6 times, fast enough for a ticket in a day."""
    series = {requests(): phases((9710, 26 * HOUR)), requests("error", 502): phases((0, 10 * HOUR), (290, 16 * HOUR))}
    expected = [fires(SPENDING, "10h"), fires(BURNING, "25h"), fires(SPENDING, "25h", "one")]
    judge(tmp_path, [slo()], series, *expected)


def test_it_ends_soon_after_the_cause(tmp_path):
    """The long windows remember; the short ones (5 and 30 minutes) end it."""
    series = {requests(): phases((100, 8 * HOUR)), requests("error", 502): phases((0, 6 * HOUR), (100, 30), (0, 90))}
    judge(tmp_path, [slo()], series, fires(BURNING, "6h20m", "one"), fires(BURNING, "7h6m"))


def test_counters_that_start_again_fire_nothing(tmp_path):
    """A worker starts anew twice; 0.1 % of its requests fail before and after."""
    series = {
        requests(): "0+999x60 0+999x40 5+999x60",
        requests("error", 502): "0+1x60 0+1x40 0+1x60",
        requests("error", 503): "100000x60 0x100",
    }
    ratio = 'round(slo:sli_error:ratio_rate1h{sloth_id="support-one"} * 1000)'
    expected = [fires(name, at) for at in ("2h4m", "2h30m", "3h28m", "5h") for name in (BURNING, SPENDING)]
    labels = f'{{{IDS},sloth_window="1h"}}'
    judge(tmp_path, [slo()], series, *expected, Expected("2h30m", ratio, {labels: 1}))


def test_no_data_is_an_alert_and_not_good(tmp_path):
    slos = [slo(), slo(name="calm", no_data="never")]
    nothing = Expected("40m", 'slo:sli_error:ratio_rate5m{sloth_id="support-one"}', {})
    judge(tmp_path, slos, {"other": "1x30"}, fires(NO_DATA, "6m"), fires(NO_DATA, "20m", "one"), nothing)
    gone = {requests(): "0+100x60 stale"}
    judge(tmp_path, slos, gone, fires(NO_DATA, "2h50m"), fires(NO_DATA, "3h20m", "one"))
    silent = {requests(): phases((100, 120), (0, 120))}
    judge(tmp_path, slos, silent, fires(NO_DATA, "2h50m"), fires(NO_DATA, "3h20m", "one"))


def test_a_night_without_requests_does_not_blank_the_period(tmp_path):
    """1000 requests, 10 of them failed, then nothing for hours: 1 % of the month by events, twice the budget."""
    series = {
        requests(): phases((99, 10), (0, 230)), requests("error", 502): phases((1, 10), (0, 230)),
        requests(arm="shadow"): phases((1000, 240)),     # nobody sees these
    }  # fmt: skip
    spent = Expected("4h", "max(round(slo:sli_error:ratio_rate30d * 10000))", {"{}": 100})
    left = Expected("4h", "max(round(slo:period_error_budget_remaining:ratio * 1000))", {"{}": -1000})
    judge(tmp_path, [slo()], series, spent, left)


def test_few_events_page_nobody_until_there_are_ten_bad_ones(tmp_path):
    """Half a request a minute: 3 failures in an hour are 10 %, which says nothing; an outage still does."""
    few = {requests(): phases((0.5, 300), (0.45, 60)), requests("error", 502): phases((0, 300), (0.05, 60))}
    judge(tmp_path, [slo()], few, *(fires(BURNING, at) for at in ("5h20m", "5h40m", "6h")))
    outage = {requests(): phases((0.5, 300), (0, 60)), requests("error", 502): phases((0, 300), (0.5, 60))}
    judge(tmp_path, [slo()], outage, fires(BURNING, "5h16m"), fires(BURNING, "5h28m", "one"))


def test_what_clients_do_wrong_or_give_up_hides_no_outage(tmp_path):
    series = {
        requests(): phases((100, 120), (0, 30)),
        requests("error", 502): phases((0, 120), (100, 30)),
        requests("error", 400): phases((100_000, 150)),
        requests("cancelled", 499): phases((100_000, 150)),
        requests(arm="pinned"): phases((100_000, 150)),
    }
    judge(tmp_path, [slo()], series, fires(BURNING, "2h"), fires(BURNING, "2h20m", "one"))


def test_a_candidate_with_little_traffic_is_seen_by_its_own_objective(tmp_path):
    series = {
        requests(arm="stable"): phases((9900, 6 * HOUR)),
        requests(arm="candidate"): phases((100, 5 * HOUR), (0, HOUR)),
        requests("error", 502, "candidate"): phases((0, 5 * HOUR), (100, HOUR)),
    }
    own = slo(name="own", candidate=True, objective=0.98, no_data="never")
    route = slo(name="route", objective=0.98)
    judge(tmp_path, [own, route], series, fires(BURNING, "5h8m"), fires(BURNING, "5h25m", "own"))


def test_a_candidate_is_not_blamed_for_the_one_before_it(tmp_path):
    """The hour is full of the first one's failures when the second has a few; what it goes on doing counts."""
    second = "support@2"
    series = {
        requests(arm="candidate"): phases((100, 5 * HOUR), (0, HOUR)),
        requests("error", 502, "candidate"): phases((0, 5 * HOUR), (100, 20), (0, 40)),
        requests(arm="candidate").replace("support@1", second): phases((0, 324), (2, 36)),
        requests("error", 502, "candidate").replace("support@1", second): phases((0, 326), (2, 4), (0, 6), (20, 24)),
    }
    own = slo(candidate=True, objective=0.98, no_data="never", name="own")
    either = 'rate(understudy_requests_total{arm="candidate"%s}[{{.window}}])'
    naive = Slo("naive", custom(either % "", bad=either % ',outcome="error"'), 0.98, no_data="never")
    expected = [fires(BURNING, "5h30m", "naive"), fires(BURNING, "5h58m", "own", "naive")]
    judge(tmp_path, [own, naive], series, *expected)


@pytest.mark.parametrize("le", ["2", "2.0"])
def test_slow_first_tokens(tmp_path, le):
    """Prometheus 3 writes bounds as 2.0, older ones as they are scraped. 95 % are slow: 72 % of the hour in 45 min."""
    one, labels = slo(Sli.TIME_TO_FIRST_TOKEN, 0.95, 2.0), f'{COMMON},arm="stable"'
    metric, count = "understudy_time_to_first_token_seconds", phases((100, 240), (100, 60))
    series = histogram(metric, labels, le, phases((100, 240), (5, 60)), count)
    judge(tmp_path, [one], series, fires(BURNING, "4h"), fires(BURNING, "4h54m", "one"))
    lacking = {f"{metric}_count{{{labels}}}": phases((100, 40))}
    judge(tmp_path, [one], lacking, fires(NO_DATA, "40m", "one"))


def test_rewards_satisfaction_and_their_divergence(tmp_path):
    """The graders stay content while users leave. 60 % of an hour: scaled, 14.4 becomes 3 times a budget of 20 %."""
    labels = 'arm="stable",route="support",version="support@1"'
    counts = phases((100, 6 * HOUR))
    unhappy = histogram("understudy_satisfaction_score", labels, "0.5", phases((5, 5 * HOUR), (95, HOUR)), counts)
    content = histogram("understudy_reward_score", f'{labels},grader="right"', "0.5", phases((5, 6 * HOUR)), counts)
    slos = [
        slo(Sli.SATISFACTION, 0.8, policy=Policy.SCALE, name="happy"),
        slo(Sli.REWARD, 0.8, grader="right", policy=Policy.SCALE, name="graded"),
        slo(Sli.DIVERGENCE, 0.8, source=Source.SCORES, policy=Policy.SCALE, name="apart"),
    ]
    judge(tmp_path, slos, unhappy | content, fires(BURNING, "5h24m"), fires(BURNING, "5h46m", "happy", "apart"))
    few = histogram("understudy_satisfaction_score", labels, "0.5", phases((0.1, 90)), phases((0.1, 90)))
    judge(tmp_path, slos, content | few, fires(BURNING, "80m"))     # 6 unhappy users in an hour
    known = Expected("1h", 'count by (sloth_slo) (slo:sli_error:ratio_rate5m)', {'{sloth_slo="graded"}': 1})
    judge(tmp_path, slos, content, known)


def test_divergence_by_the_alignment_tax_of_what_serves(tmp_path):
    """14.4 % of an hour is 9 minutes; the version with a tax of 0.9 serves nobody."""
    tax = 'understudy_alignment_tax_ratio{route="support",version="support@%d"}'
    one, served = slo(Sli.DIVERGENCE, 0.99), phases((100, 400))
    series = {requests(): served, tax % 1: levels((0.01, 360), (0.2, 40)), tax % 2: levels((0.9, 400))}
    judge(tmp_path, [one], series, fires(BURNING, "6h6m"), fires(BURNING, "6h14m", "one"))
    judge(tmp_path, [one], {requests(): served}, fires(NO_DATA, "30m", "one"))


def test_unsafe_answers_of_what_serves(tmp_path):
    """2 % of a version's answers are unsafe, twenty times the budget; another version's are seen by nobody."""
    judged = 'understudy_screening_total{route="support",version="support@%d",stage="response",verdict="%s",category="%s"}'
    series = {requests(): phases((100, 9 * HOUR)), judged % (1, "safe", ""): phases((100, 7 * HOUR), (98, 2 * HOUR))}
    series |= {judged % (2, "unsafe", "S1"): phases((100, 9 * HOUR)), judged % (1, "unavailable", ""): phases((900, 540))}
    bad = {judged % (1, "unsafe", "S1"): phases((0, 7 * HOUR), (2, 2 * HOUR))}
    slos = [slo(Sli.UNSAFE_RATE, 0.999)]
    judge(tmp_path, slos, series | bad, fires(BURNING, "7h"), fires(BURNING, "8h50m", "one"))
    judge(tmp_path, slos, series, fires(BURNING, "8h50m"))


def test_custom_queries(tmp_path):
    """No series of good events is nothing good; no series of bad ones is nothing bad."""
    window, total = "[{{.window}}]", "rate(all_total[{{.window}}])"
    slos = [
        Slo("good", custom(total, good=f"rate(good_total{window})"), 0.99),
        Slo("bad", custom(total, bad=f"rate(bad_total{window})"), 0.99),
        Slo("none", custom(f"rate(none_total{window})", good=f"rate(good_total{window})"), 0.99),
    ]
    some = {'all_total{x="1"}': phases((50, 60)), 'all_total{x="2"}': phases((50, 60))}
    judge(tmp_path, slos, some, fires(BURNING, "40m", "good"), fires(NO_DATA, "40m", "none"))
    judge(tmp_path, slos, some | {'good_total{y="1"}': phases((100, 60))}, fires(BURNING, "40m"))


def test_change_detectors_stand_in(tmp_path):
    """For a page that needs 139 events an hour, and for 14.4 times a budget of 20 %."""
    slos = [
        slo(name="rare", events_per_hour=20),
        slo(Sli.SATISFACTION, 0.8, name="high", policy=Policy.DETECTORS),
        slo(name="known"),
    ]
    series = {
        'understudy_rollout_log_evalue{route="support",version="v",metric="error"}': levels((1, 60), (7.5, 60)),
        'understudy_collapse_log_evalue{route="support",version="v"}': levels((1, 90), (9.5, 30)),
    }
    expected = [fires(CHANGED, "50m"), fires(CHANGED, "80m", "rare"), fires(CHANGED, "110m", "rare", "high")]
    judge(tmp_path, slos, series, *expected)


def test_a_rehearsal_is_shorter_and_else_the_same(tmp_path):
    """50 % bad: 7.2 % of an hour after 8.6 minutes; a hundred and twenty times shorter, after 4.3 seconds."""
    series = {
        requests(): "0+100x180 18050+50x60",
        requests("error", 502): "0x180 50+50x60",
    }
    expected = [fires(BURNING, "3m1s"), fires(BURNING, "3m9s", "one")]
    run_rules(tmp_path, render([slo()], scale=120), series, expected, interval="1s")
