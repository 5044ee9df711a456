"""What was asked and answered that should not be: screening in the gateway, and the guard that judges."""

from __future__ import annotations

from deploy.dashboards.board import CHOSEN, Board, Panel, Query, Row, of, quantiles, ratio, total
from deploy.dashboards.common import MARKS, ROUTE, VERSION, WINDOW
from monitors import conventions as c

UNSAFE = f'{CHOSEN}, verdict="unsafe"'
UNAVAILABLE = f'{CHOSEN}, verdict="unavailable"'
SHARE = ((None, "green"), (0.01, "orange"), (0.05, "red"))


def board() -> Board:
    """The dashboard."""
    return Board(
        "understudy-safety",
        "Understudy / Safety",
        "Screening of prompts and answers, by version and category, and the guard service behind it.",
        (screening(), guard()),
        (ROUTE, VERSION, WINDOW),
        MARKS,
    )


def screening() -> Row:
    """What the gateway found."""
    found = ratio(total(c.SCREENING, "stage", UNSAFE, "$window"), total(c.SCREENING, "stage", window="$window"))
    by_version = ratio(total(c.SCREENING, "version", UNSAFE, "$window"),
                       total(c.SCREENING, "version", window="$window"))  # fmt: skip
    missed = ratio(total(c.SCREENING, "stage", UNAVAILABLE, "$window"), total(c.SCREENING, "stage", window="$window"))
    blocked = ratio(total(c.REQUESTS, "route", f'{CHOSEN}, outcome="blocked"', "$window"),
                    total(c.REQUESTS, "route", window="$window"))  # fmt: skip
    return Row("Screening", (
        Panel("Unsafe", "Share of screened texts, by stage.", (Query(found, "{{stage}}"),), "percentunit",
              minimum=0, thresholds=SHARE),
        Panel("Unsafe by version", "A new version that is asked the same should not be unsafe more often.",
              (Query(by_version, "{{version}}"),), "percentunit", minimum=0, thresholds=SHARE),
        Panel("Categories", "Unsafe texts by hazard category.",
              (Query(total(c.SCREENING, "category", UNSAFE, "$window"), "{{category}}"),), minimum=0, stacked=True),
        Panel("Not judged", "Share of texts without a verdict: the guard was away, too slow or not sure. What happens "
              "then is screening.on_unavailable.", (Query(missed, "{{stage}}"),), "percentunit", minimum=0,
              thresholds=SHARE),
        Panel("Blocked", "Share of requests that screening refused.", (Query(blocked, "{{route}}"),), "percentunit",
              minimum=0),
        Panel("Time of a screening", "As the gateway waits for it.",
              quantiles(c.SCREENING_DURATION, "stage", "{{stage}}", (0.5, 0.95), where=""), "s", minimum=0),
    ))  # fmt: skip


def guard() -> Row:
    """The service that judges."""
    waiting = f"sum({of(c.GUARD_WAITING)})"
    size = ratio(total(c.GUARD_BATCH, "", "", "$window", "_sum"), total(c.GUARD_BATCH, "", "", "$window", "_count"))
    return Row("Guard service", (
        Panel("Verdicts", "Texts judged, by role.", (Query(total(c.GUARD_VERDICTS, "role, verdict", ""),
              "{{role}} {{verdict}}"),), minimum=0, stacked=True),
        Panel("A request", "From its last byte in to its results.",
              quantiles(c.GUARD_DURATION, "", "", (0.5, 0.95, 0.99), where=""), "s", minimum=0),
        Panel("A pass", "One forward pass over a batch, categories included.",
              quantiles(c.GUARD_PASS_DURATION, "", "", (0.5, 0.95), where=""), "s", minimum=0),
        Panel("Prompts in a pass", "Mean: more means better use of the hardware, and longer passes.",
              (Query(size, "prompts"),), minimum=0),
        Panel("Waiting", "Prompts that wait for a pass.", (Query(waiting, "prompts"),), minimum=0),
        Panel("Refused", "Requests refused: too much waits, or the guard is not ready.",
              (Query(total(c.GUARD_REFUSED, "", ""), "refused"),), "reqps", minimum=0,
              thresholds=((None, "green"), (0.001, "red"))),
    ))  # fmt: skip
