"""A new version against the one that serves: where it is, what is known, what it was taken back for."""

from __future__ import annotations

from deploy.dashboards.board import BY_ROUTE, CHOSEN, Board, Panel, Query, Row, mean, of, quantiles, ratio, total
from deploy.dashboards.common import MARKS, ROUTE, VERSION, WINDOW
from monitors import conventions as c

BAD = f'{CHOSEN}, outcome=~"error|truncated"'
ALARM = 6.9078               # ln(1/α) with α = .001: shared/statistics' attribution and ratio-mismatch tests
LIMIT = ((None, "green"), (ALARM / 2, "orange"), (ALARM, "red"))


def board() -> Board:
    """The dashboard."""
    return Board(
        "understudy-rollout",
        "Understudy / Rollout",
        "Progressive deliveries: phase, share of traffic, evidence, and the arms side by side.",
        (course(), evidence(), arms(), shadow()),
        (ROUTE, VERSION, WINDOW),
        MARKS,
    )


def course() -> Row:
    """Where it is."""
    phase = f"max by (route, version, phase) ({of(c.ROLLOUT_PHASE, CHOSEN)})"
    weight = f"max by (route, version) ({of(c.ROLLOUT_WEIGHT, CHOSEN)})"
    taken = f"sum by (route, reason) ({of(c.ROLLBACKS, BY_ROUTE)})"
    return Row("Course", (
        Panel("Phase", "The phase each rollout is in; held: it waits for an operator.",
              (Query(phase, "{{version}} {{phase}}"),), kind="timeline", width=12,
              names=(("0", " "), ("1", "●")), thresholds=((None, "transparent"), (1.0, "blue"))),
        Panel("Share of traffic", "The candidate's share of the route's units.", (Query(weight, "{{version}}"),),
              "percentunit", width=6, minimum=0, maximum=1),
        Panel("Rollbacks", "Versions taken back since the controller's values were first kept, by what decided.",
              (Query(taken, "{{route}}: {{reason}}"),), kind="bars", width=6,
              thresholds=((None, "green"), (1.0, "red"))),
    ))  # fmt: skip


def evidence() -> Row:
    """What the tests say."""
    log_e = f"max by (route, version, metric) ({of(c.ROLLOUT_EVALUE, CHOSEN)})"
    bounds = f"max by (version, metric, bound) ({of(c.ROLLOUT_EFFECT, CHOSEN)})"
    mismatch = f"max by (route, version) ({of(c.RATIO_MISMATCH, CHOSEN)})"
    return Row("Evidence", (
        Panel("Evidence of harm", "ln e-value that the candidate is worse, by metric. Valid however often it is looked "
              "at; the line is ln 1000, where a single metric rolls back (K metrics: plus ln K).",
              (Query(log_e, "{{version}} {{metric}}"),), thresholds=LIMIT),
        Panel("Effect", "Candidate minus stable: estimate, lower and upper bound.",
              (Query(bounds, "{{version}} {{metric}} {{bound}}"),)),
        Panel("Split of traffic", "ln e-value that units are not split as configured. At ln 1000 the comparison is "
              "void: look for a client that is not sticky.", (Query(mismatch, "{{version}}"),), thresholds=LIMIT),
    ))  # fmt: skip


def arms() -> Row:
    """The arms side by side."""
    failing = ratio(total(c.REQUESTS, "version, arm", BAD), total(c.REQUESTS, "version, arm"))
    legend = "{{version}} {{arm}}"
    return Row("Arms", (
        Panel("Requests", "By arm.", (Query(total(c.REQUESTS, "version, arm"), legend),), "reqps", stacked=True),
        Panel("Errors", "Share that ended as error or truncated.", (Query(failing, legend),), "percentunit", minimum=0),
        Panel("Time to first token, p95", "Streams only; a cold prefix cache makes a small arm slower.",
              quantiles(c.TTFT, "version, arm", legend, (0.95,)), "s", minimum=0),
        Panel("Satisfaction", "Mean of feedback scores.", (Query(mean(c.SATISFACTION, "version, arm"), legend),),
              "percentunit", minimum=0, maximum=1),
        Panel("Reward", "Mean of graders' scores, normalised to 0..1.",
              (Query(mean(c.REWARD_SCORE, "version, arm, grader"), legend + " {{grader}}"),), minimum=0, maximum=1),
        Panel("Feedback", "Per second, by kind.", (Query(total(c.FEEDBACK, "arm, kind", window="$window"),
              "{{arm}} {{kind}}"),), minimum=0),
    ))  # fmt: skip


def shadow() -> Row:
    """What users do not see, and what acts alone."""
    return Row("Shadow and breaker", (
        Panel("Mirrored requests", "By how they ended; dropped and shed: users went first.",
              (Query(total(c.SHADOW, "route, outcome", BY_ROUTE), "{{route}} {{outcome}}"),), "reqps", width=12,
              stacked=True),
        Panel("Circuit breaker", "Times a worker by itself served a candidate's units from stable.",
              (Query(f"sum by (route, version) ({of(c.BREAKER, CHOSEN)})", "{{route}} {{version}}"),), kind="bars",
              width=12, thresholds=((None, "green"), (1.0, "red"))),
    ))  # fmt: skip
