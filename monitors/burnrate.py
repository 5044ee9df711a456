"""Burn-rate alerts as data: which windows, which factors, which of them can fire at all.

The burn rate is the share of bad events over the share the objective allows: at 1 the error budget lasts exactly the
period. Each alert looks at two windows at once, a long one for significance and a short one so that it ends soon after
the cause. Tables: Beyer et al., The Site Reliability Workbook, ch. 5, table 5-8 ("multiwindow, multi-burn-rate").
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from adapters.errors import ConfigError

MIN_BAD_EVENTS = 10.0    # bad events in a long window below which a ratio says too little to wake somebody
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class Severity(StrEnum):
    """Who hears of an alert: `page` wakes somebody, `ticket` waits for the morning."""

    PAGE = "page"
    TICKET = "ticket"


class Policy(StrEnum):
    """What happens to an alert that can never fire below an objective."""

    REFUSE = "refuse"        # an error with the reason
    SCALE = "scale"          # all factors of the table are drawn closer together until every one can fire
    DETECTORS = "detectors"  # it is left out, and an alert on the gateway's change detectors is added


@dataclass(frozen=True, slots=True)
class Window:
    """One row of a table: fires when `budget` (share of the period's budget) is spent within `long`, and still is
    being spent at that rate within `short`. `long` and `short` in seconds."""

    severity: Severity
    budget: float
    long: float
    short: float

    def factor(self, period: float) -> float:
        """The burn rate that spends `budget` within `long`: budget · period / long."""
        return self.budget * period / self.long


def _table(*budgets: float) -> tuple[Window, ...]:
    """The four pairs of windows with these budgets."""
    h, d = _UNITS["h"], _UNITS["d"]
    pairs = (
        (Severity.PAGE, h, h / 12), (Severity.PAGE, 6 * h, h / 2), (Severity.TICKET, d, 2 * h),
        (Severity.TICKET, 3 * d, 6 * h),
    )  # fmt: skip
    return tuple(Window(s, budget, long, short) for budget, (s, long, short) in zip(budgets, pairs, strict=True))


# period → rows. 30 days are the workbook's; shorter periods have larger shares where a factor would fall below 1, for
# an alert at a burn that the budget can bear for ever would be noise.
TABLES = {
    "30d": _table(0.02, 0.05, 0.10, 0.10),
    "28d": _table(0.02, 0.05, 0.10, 0.11),
    "7d": _table(0.08, 0.125, 0.20, 0.43),
}


@dataclass(frozen=True, slots=True)
class Burn:
    """An alert's condition: fires above `factor` times the budget, a share `ratio` of bad events, in both windows."""

    window: Window
    factor: float
    ratio: float

    def seconds_to_fire(self, bad: float) -> float:
        """Seconds of a breach with a share `bad` of bad events, after none at all, until both windows are above.

        inf where it never fires. Scrapes, evaluations and notifications come on top.
        """
        return self.window.long * self.ratio / bad if bad > self.ratio else math.inf

    @property
    def events_per_hour(self) -> float:
        """Events an hour from which at least MIN_BAD_EVENTS bad ones are expected in `long` where it just fires."""
        return MIN_BAD_EVENTS / (self.ratio * self.window.long / 3600)


@dataclass(frozen=True, slots=True)
class Alerting:
    """The alerts of an objective. `left_out`: why each missing one is missing; then change detectors stand in."""

    burns: tuple[Burn, ...]
    left_out: tuple[str, ...] = ()
    scaled: bool = False


def possible_burn(objective: float) -> float:
    """The largest burn rate there is, every event being bad: 1 / (1 − objective). `objective` in (0, 1)."""
    return 1.0 / (1.0 - objective)


def alerting(
    objective: float, period: str, policy: Policy = Policy.REFUSE, *, events_per_hour: float = 0.0
) -> Alerting:
    """The conditions for an objective in (0, 1) over `period`, a key of TABLES; events_per_hour 0: not known.

    Raises ConfigError where a factor cannot be reached and `policy` is to refuse.
    """
    rows = TABLES[period]
    seconds = parse(period)
    factors = [row.factor(seconds) for row in rows]
    most = possible_burn(objective)
    scaled = policy is Policy.SCALE and max(factors) >= most
    if scaled:
        factors = _drawn_closer(factors, most)
    burns, left_out = [], []
    for row, factor in zip(rows, factors, strict=True):
        burn = Burn(row, factor, factor * (1 - objective))
        if factor >= most:
            if policy is Policy.REFUSE:
                raise ConfigError(_cannot_fire(burn, objective))
            left_out.append(_cannot_fire(burn, objective))
        elif 0 < events_per_hour < burn.events_per_hour:
            left_out.append(_too_few(burn, events_per_hour))
        else:
            burns.append(burn)
    return Alerting(tuple(burns), tuple(left_out), scaled)


def _drawn_closer(factors: list[float], most: float) -> list[float]:
    """factor ** (ln top / ln max): 1 stays 1, the order stays, and the largest becomes `top`, half-way between a burn
    of 1 and the largest possible one, so that it fires when half of what could be lost is lost."""
    top = (1 + most) / 2
    power = math.log(top) / math.log(max(factors))
    return [factor**power for factor in factors]


def _cannot_fire(burn: Burn, objective: float) -> str:
    """Why an alert is unreachable, and what can be done, in one line."""
    least = 100 * (1 - 1 / burn.factor)
    return (
        f"an objective of {objective:g} can burn its budget at most {possible_burn(objective):.4g} times too fast, so "
        f"the {burn.window.severity} at {burn.factor:.4g} times ({format_duration(burn.window.long)} and "
        f"{format_duration(burn.window.short)}) could never fire: choose an objective above {least:.2f}%, or "
        f'unreachable = "scale" (lower factors), or "detectors" (leave it to the change detectors)'
    )


def _too_few(burn: Burn, events_per_hour: float) -> str:
    hours = burn.window.long / 3600
    return (
        f"the {burn.window.severity} at {burn.factor:.4g} times is left to the change detectors: "
        f"{events_per_hour:g} events an hour bring {events_per_hour * hours * burn.ratio:.2g} bad ones in "
        f"{format_duration(burn.window.long)} where it would fire, and fewer than {MIN_BAD_EVENTS:g} say too little"
    )


def parse(duration: str) -> float:
    """'1h30m' → seconds, as Prometheus reads durations (years aside). Raises ConfigError."""
    parts = re.findall(r"([0-9]+)(ms|[smhdw])", duration)
    if not duration or "".join(number + unit for number, unit in parts) != duration:
        raise ConfigError(f"{duration!r} is not a duration: write it like 5m, 1h30m or 30d")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """Seconds → '1h30m', as Prometheus writes durations: weeks only where nothing is left. At least 1 ms."""
    left = max(1, round(seconds * 1000))
    text = ""
    for unit in ("w", "d", "h", "m", "s", "ms"):
        size = round(_UNITS[unit] * 1000)
        if left >= size and (unit != "w" or left % size == 0):
            text, left = f"{text}{left // size}{unit}", left % size
    return text
