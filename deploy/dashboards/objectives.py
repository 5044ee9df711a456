"""Service level objectives: how much of each error budget is left, and how fast it burns.

The series come from the recording rules that `understudy slo rules` prints; their names and labels are Sloth's.
"""

from __future__ import annotations

from deploy.dashboards.board import Board, Panel, Query, Row, Variable
from deploy.dashboards.common import MARKS, ROUTE

CHOSEN = 'sloth_service=~"$service", sloth_slo=~"$slo"'
LEGEND = "{{sloth_service}} {{sloth_slo}}"
REMAINING = ((None, "red"), (0.0, "orange"), (0.25, "green"))
BURN = ((None, "green"), (1.0, "orange"), (6.0, "red"))     # 6 and 14.4 page, 1 and 3 write a ticket
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")

SERVICE = Variable("service", "Service", "sloth_service of the rules", "sloth_slo_info", "sloth_service")
SLO = Variable("slo", "Objective", "of the services chosen", 'sloth_slo_info{sloth_service=~"$service"}', "sloth_slo")


def board() -> Board:
    """The dashboard."""
    return Board(
        "understudy-slo",
        "Understudy / SLO budget",
        "Error budgets of the objectives in understudy.toml: remaining, burn rate, windows, alerts.",
        (now(), burn()),
        (ROUTE, SERVICE, SLO),
        MARKS,
        since="now-7d",
    )


def recorded(name: str) -> str:
    """A recorded series of the objectives chosen."""
    return f"max by (sloth_service, sloth_slo) (slo:{name}{{{CHOSEN}}})"


def now() -> Row:
    """What is left."""
    firing = f'count(ALERTS{{alertstate="firing", {CHOSEN}}}) or vector(0)'
    return Row("Budget", (
        Panel("Budget remaining", "Of the whole period; below 0 the objective is missed.",
              (Query(recorded("period_error_budget_remaining:ratio"), LEGEND),), "percentunit", "bars", 12,
              maximum=1, thresholds=REMAINING),
        Panel("Objective", "The share of events that must be good.", (Query(recorded("objective:ratio"), LEGEND),),
              "percentunit", "bars", 8, minimum=0, maximum=1),
        Panel("Alerts firing", "Burn-rate alerts of these objectives.", (Query(firing),), "short", "stat", 4,
              thresholds=((None, "green"), (1.0, "red"))),
        Panel("Budget remaining over time", "A straight line to 0 at the end of the period spends it exactly.",
              (Query(recorded("period_error_budget_remaining:ratio"), LEGEND),), "percentunit", width=24, maximum=1,
              thresholds=REMAINING),
    ))  # fmt: skip


def burn() -> Row:
    """How fast."""
    errors = tuple(Query(recorded(f"sli_error:ratio_rate{window}"), f"{window} {LEGEND}") for window in WINDOWS)
    return Row("Burn", (
        Panel("Burn rate", "1 spends the budget exactly within the period; 14.4 spends 2 % of 30 days in an hour.",
              (Query(recorded("current_burn_rate:ratio"), LEGEND),), "none", width=12, minimum=0, thresholds=BURN),
        Panel("Burn rate of the period", "The mean since the period began.",
              (Query(recorded("period_burn_rate:ratio"), LEGEND),), "none", width=12, minimum=0, thresholds=BURN),
        Panel("Bad events by window", "Share of bad events: an alert needs a long and a short window above its "
              "threshold, so that it starts in time and stops in time.", errors, "percentunit", width=24, height=9,
              minimum=0),
    ))  # fmt: skip
