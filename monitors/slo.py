"""What an objective is: an indicator in PromQL, the share of it that must be good, and what follows when it is not.

Queries carry `{{.window}}` where the length of the window belongs, as in Sloth's files, and `{{.shortest}}` where that
of the shortest window does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from adapters.errors import ConfigError
from monitors.burnrate import TABLES, Alerting, Policy, alerting, parse

WINDOW, SHORTEST = "{{.window}}", "{{.shortest}}"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")     # RFC 1123, as OpenSLO's names
NEVER = "never"
NO_DATA = ("1h", "6h", "1d", "3d", NEVER)                     # windows that are recorded anyway


class Action(StrEnum):
    """What a burn that pages asks for; the label `understudy_action` of the alert."""

    PAGE = "page"
    ROLLBACK = "rollback"          # the control plane takes the route's rollout back
    TICKET = "ticket"              # wakes nobody: every alert of the objective is a ticket


@dataclass(frozen=True, slots=True)
class Events:
    """Bad and all events. Each query gives one number without labels: events per second over the window.

    A query that finds no series must give nothing, not 0, unless series appear with their first event.
    """

    bad: str
    total: str

    def bad_rate(self, window: str) -> str:
        """Bad events per second."""
        return f"({_over(self.bad, window)})"

    def total_rate(self, window: str) -> str:
        """Events per second."""
        return f"({_over(self.total, window)})"

    def error(self, window: str) -> str:
        """The share of bad events; nothing where there were no events, which is not the same as no bad ones."""
        return f"{self.bad_rate(window)}\n/\n({self.total_rate(window)} > 0)"


@dataclass(frozen=True, slots=True)
class Ratio:
    """A query of the share of bad ones over the window, for indicators that are no counts of events.

    `bad`: events per second that stand behind a large share, of which an alert wants some; "" where there are none.
    """

    share: str
    bad: str = ""

    def bad_rate(self, window: str) -> str:
        """Bad events per second; "" where nothing is counted."""
        return f"({_over(self.bad, window)})" if self.bad else ""

    def error(self, window: str) -> str:
        """The share of bad ones."""
        return _over(self.share, window)


@dataclass(frozen=True, slots=True)
class Slices:
    """Time slices, one per evaluation: `bad` is 1 while it is bad, 0 while it is good, and empty without data.

    Its `{{.window}}` is the shortest window there is.
    """

    bad: str

    def bad_rate(self, window: str) -> str:
        """Nothing is counted."""
        return ""


Indicator = Events | Ratio | Slices


@dataclass(frozen=True, slots=True)
class Slo:
    """One objective. `service` and `name` identify it; `route` is what a rollback takes back ("": none).

    `sli` says what kind it is, for runbooks; `events_per_hour` is the expected traffic (0: not known); `no_data` how
    long there may be nothing to judge before that is a ticket. Raises ConfigError.
    """

    name: str
    indicator: Indicator
    objective: float               # share that must be good, in (0, 1)
    service: str = "understudy"
    route: str = ""
    sli: str = "custom"
    period: str = "30d"
    action: Action = Action.PAGE
    policy: Policy = Policy.REFUSE
    no_data: str = "1h"
    events_per_hour: float = 0.0
    description: str = ""

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("service", self.service)):
            if not NAME.fullmatch(text):
                raise ConfigError(f"SLO {what} {text!r}: lower-case letters, digits and hyphens, 63 at most")
        if not 0 < self.objective < 1:
            raise ConfigError(f"SLO {self.id}: the objective is a share below 1, such as 0.999; got {self.objective:g}")
        if self.period not in TABLES:
            known = ", ".join(TABLES)
            raise ConfigError(f"SLO {self.id}: there are alert windows for {known}, not for {self.period!r}")
        if self.no_data not in NO_DATA:
            raise ConfigError(f"SLO {self.id}: no_data is one of {', '.join(NO_DATA)}; got {self.no_data!r}")
        if self.action is Action.ROLLBACK and not self.route:
            raise ConfigError(f'SLO {self.id}: action = "rollback" needs the route that is to be rolled back')

    @property
    def id(self) -> str:
        """Unique among all SLOs of one Prometheus, like Sloth's sloth_id."""
        return f"{self.service}-{self.name}"

    @property
    def alerting(self) -> Alerting:
        """Its alerts. Raises ConfigError, which names the SLO."""
        expected = self.events_per_hour if self.counted else 0.0
        try:
            return alerting(self.objective, self.period, self.policy, events_per_hour=expected)
        except ConfigError as error:
            raise ConfigError(f"SLO {self.id}: {error}") from None

    @property
    def counted(self) -> bool:
        """True when it is about events, of which a few say nothing."""
        return bool(self.indicator.bad_rate("1h"))

    @property
    def seconds(self) -> float:
        """The period in seconds."""
        return parse(self.period)


def check_distinct(slos: list[Slo]) -> None:
    """Raises ConfigError when two have the same id: their series would be the same."""
    seen: set[str] = set()
    for slo in slos:
        if slo.id in seen:
            raise ConfigError(f"two SLOs are called {slo.id} (service-name): give one of them another name")
        seen.add(slo.id)


def _over(query: str, window: str) -> str:
    return query.replace(WINDOW, window)
