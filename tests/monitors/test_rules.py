"""The rule file: Sloth's names and labels, the same text for the same objectives, and what promtool says."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import yaml

from adapters.errors import ConfigError
from monitors.burnrate import Policy
from monitors.indicators import Scope, Sli, Source, custom, indicator
from monitors.rules import ALERTS, render
from monitors.slo import Action, Slo
from tests.support.promtool import check_rules
from tests.support.tree import ROOT

GOLDEN = Path(__file__).parent / "golden" / "slo_rules.yml"
WINDOW = "[{{.window}}]"


def of(sli: Sli, objective: float, threshold: float | None = None, *, name: str = "", **more) -> Slo:
    source = more.pop("source", Source.ALIGNMENT_TAX)
    made = indicator(sli, Scope("support"), threshold, source)
    return Slo(name or sli.value.replace("_", "-"), made, objective, "support", "support", sli.value, **more)


SLOS = (
    of(Sli.AVAILABILITY, 0.995, action=Action.ROLLBACK, description="Answers come, {{whole}}."),
    of(Sli.SATISFACTION, 0.8, policy=Policy.SCALE, period="7d", no_data="1d"),
    of(Sli.DIVERGENCE, 0.99, action=Action.TICKET),
    Slo("candidate", indicator(Sli.AVAILABILITY, Scope("support", candidate=True)), 0.98, no_data="never"),
    of(Sli.DIVERGENCE, 0.8, name="gap", source=Source.SCORES, policy=Policy.DETECTORS, period="28d", no_data="never"),
)
EVERY = (
    *SLOS, of(Sli.TIME_TO_FIRST_TOKEN, 0.95, 2.0), of(Sli.LATENCY, 0.99, 30.0), of(Sli.UNSAFE_RATE, 0.999),
    of(Sli.TIME_PER_OUTPUT_TOKEN, 0.99, 0.05), of(Sli.REWARD, 0.8, policy=Policy.SCALE), of(Sli.OVER_REFUSAL, 0.99),
    Slo("own", custom(f"rate(all_total{WINDOW})", bad=f"rate(bad_total{WINDOW})"), 0.999, events_per_hour=5),
)  # fmt: skip


def rules(slos=EVERY, **options) -> list[dict]:
    return [rule for group in yaml.safe_load(render(slos, **options))["groups"] for rule in group["rules"]]


def test_the_text_is_the_golden_one():
    """Rules are reviewed as a diff. Written anew by: python -m tests.monitors.test_rules"""
    assert render(SLOS) == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize("scale", [1, 7, 120])
def test_promtool_accepts_every_kind(tmp_path, scale):
    said = check_rules(tmp_path, render(EVERY, scale=scale))
    assert "SUCCESS" in said and "duplicate" not in said


@pytest.mark.needs("prometheus")
def test_promtool_accepts_whatever_the_settings_accept(tmp_path):
    """Two hundred objectives drawn at random, in one file."""
    draw, slos = random.Random(5), []
    while len(slos) < 200:
        sli = draw.choice(list(Sli)[:-1])
        bounds = {Sli.TIME_TO_FIRST_TOKEN: (0.005, 2.0), Sli.LATENCY: (0.1, 600.0), Sli.TIME_PER_OUTPUT_TOKEN: (0.001, 1.0)}
        scope = Scope(draw.choice(["support", "a-1", ""]), draw.random() < 0.3, draw.choice(["", "chat"]), draw.choice(["", 'x"{}\\']))
        try:
            made = indicator(sli, scope, draw.choice(bounds.get(sli, (None,))), draw.choice(list(Source)))
        except ConfigError:
            continue
        slos.append(Slo(
            f"n{len(slos)}", made, draw.uniform(0.01, 0.9999), scope.route or "understudy", scope.route, sli.value,
            draw.choice(["30d", "28d", "7d"]), draw.choice([Action.PAGE, Action.TICKET]),
            draw.choice([Policy.SCALE, Policy.DETECTORS]), draw.choice(["1h", "3d", "never"]), draw.choice([0.0, 5.0]),
            draw.choice(["", "{{ broken", "tick ` 'quote' \"two\"\nlines"]),
        ))  # fmt: skip
    assert "SUCCESS" in check_rules(tmp_path, render(slos, scale=draw.uniform(1, 500)))


def test_names_and_labels_are_sloths():
    recorded = {rule["record"] for rule in rules(SLOS[:1]) if "record" in rule}
    windows = {f"slo:sli_error:ratio_rate{w}" for w in ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")}
    meta = {
        "slo:objective:ratio", "slo:error_budget:ratio", "slo:time_period:days", "slo:current_burn_rate:ratio",
        "slo:period_burn_rate:ratio", "slo:period_error_budget_remaining:ratio", "sloth_slo_info",
    }  # fmt: skip
    own = {name for name in recorded if name.startswith("understudy:")}
    assert recorded - own == windows | meta and own == {"understudy:slo_events:rate5m", "understudy:slo_bad_events:rate5m"}
    for rule in rules():
        assert {"sloth_id", "sloth_service", "sloth_slo"} <= rule["labels"].keys()
        if rule.get("record", "").startswith("slo:sli_error"):
            assert rule["record"].endswith(f"ratio_rate{rule['labels']['sloth_window']}")


def test_every_alert_says_who_acts_and_where_to_read():
    alerts = [rule for rule in rules() if "alert" in rule]
    assert {rule["alert"] for rule in alerts} == set(ALERTS)
    for rule in alerts:
        labels = rule["labels"]
        assert labels["severity"] == labels["sloth_severity"]
        assert (labels["severity"] == "ticket") == (labels["understudy_action"] == "ticket")
        assert rule["annotations"]["runbook_url"] == f"docs/slo.md#{rule['alert'].lower()}"
        assert labels["sloth_slo"] in rule["annotations"]["summary"] and "\n" not in rule["annotations"]["summary"]
    acting = [rule for rule in alerts if rule["labels"]["understudy_action"] == "rollback"]
    assert [(rule["alert"], rule["labels"]["route"]) for rule in acting] == [("SloBurnsTooFast", "support")]
    headings = re.findall(r"(?m)^#+ (Slo\w+)$", (ROOT / "docs" / "slo.md").read_text(encoding="utf-8"))
    assert set(headings) == set(ALERTS)


def test_a_url_of_the_runbooks():
    found = {rule["annotations"]["runbook_url"] for rule in rules(SLOS[:1], runbook="https://wiki/slo") if "alert" in rule}
    assert "https://wiki/slo#sloburnstoofast" in found


def test_two_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two SLOs are called support-availability"):
        render([SLOS[0], SLOS[0]])


def test_a_rehearsal_says_that_it_is_one():
    text = render(SLOS, scale=60)
    assert "60 times shorter than in production" in text and "ratio_rate5s" in text and "[1h]" not in text


if __name__ == "__main__":
    GOLDEN.write_text(render(SLOS), encoding="utf-8")
