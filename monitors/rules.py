"""Prometheus rules for objectives, with the names and labels of Sloth's: its dashboards work on them.

Beyond Sloth: a window without events gives no sample instead of NaN, so that one quiet night does not blank the whole
period; the period's ratio weighs events, not minutes; an alert needs MIN_BAD_EVENTS bad events in its long window; no
data is an alert of its own; and the label `understudy_action` says what the control plane should do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from monitors import conventions as c
from monitors.burnrate import MIN_BAD_EVENTS, TABLES, Burn, Severity, format_duration, parse
from monitors.slo import NEVER, SHORTEST, WINDOW, Action, Events, Ratio, Slo, check_distinct

Rule = dict[str, Any]
Group = dict[str, Any]

BURNING, SPENDING = "SloBurnsTooFast", "SloBudgetAtRisk"      # pages and tickets
NO_DATA, CHANGED = "SloHasNoData", "SloChangeDetected"
ALERTS = (BURNING, SPENDING, NO_DATA, CHANGED)
RUNBOOK = "docs/slo.md"
SETTLING = 600.0         # seconds a fresh Prometheus gets before missing data is an alert
# ln(1/α), α = .001: what one sequential test of a rollout needs; and ln A, A = 10⁴ feedbacks, of the collapse detector.
_ROLLOUT_LOG_E, _COLLAPSE_LOG_E = 6.907755, 9.210340
_ABOUT_QUALITY = ("reward", "satisfaction", "divergence")

_HEADER = """\
# Written by `understudy slo rules`: change the objectives, not this file.
# Check it with `promtool check rules`; docs/slo.md says what each alert means and what to do.
"""


def render(slos: Iterable[Slo], *, scale: float = 1.0, runbook: str = RUNBOOK) -> str:
    """The rule file as YAML, the same text for the same objectives. Raises ConfigError.

    `scale` divides every window: for rehearsals, where an hour has to pass in a minute. `runbook`: docs/slo.md's URL.
    """
    listed = list(slos)
    check_distinct(listed)
    groups = [group for slo in listed for group in _Rules(slo, scale, runbook).groups()]
    note = f"# Rehearsal: every window is {scale:g} times shorter than in production.\n" if scale != 1 else ""
    return _HEADER + note + _dump({"groups": groups})


class _Rules:
    """The rules of one objective."""

    def __init__(self, slo: Slo, scale: float, runbook: str) -> None:
        self._slo = slo
        self._scale = scale
        self._runbook = runbook
        self._alerting = slo.alerting
        self._ids = {"sloth_id": slo.id, "sloth_service": slo.service, "sloth_slo": slo.name}
        self._labels = self._ids | ({"route": slo.route} if slo.route else {})
        self._filter = "{" + ", ".join(f'{name}="{value}"' for name, value in self._ids.items()) + "}"
        lengths = {length for row in TABLES[slo.period] for length in (row.short, row.long)}
        self._windows = [self._text(length) for length in sorted(lengths)]
        self._shortest, self._period = self._windows[0], self._text(slo.seconds)

    def groups(self) -> list[Group]:
        """Three groups, as Sloth's. Rules of a group are evaluated in order."""
        parts = (("sli-recordings", self._sli()), ("meta-recordings", self._meta()), ("alerts", self._alerts()))
        return [{"name": f"understudy-slo-{part}-{self._slo.id}", "rules": list(rules)} for part, rules in parts]

    def _text(self, seconds: float) -> str:
        return format_duration(seconds / self._scale)

    def _error(self, window: str) -> str:
        """The recorded share of bad ones."""
        return f"slo:sli_error:ratio_rate{window}{self._filter}"

    def _record(self, name: str, expr: str, **labels: str) -> Rule:
        return {"record": name, "expr": expr.replace(SHORTEST, self._shortest), "labels": self._labels | labels}

    def _sli(self) -> Iterator[Rule]:
        indicator, period = self._slo.indicator, self._period
        if isinstance(indicator, Events):
            every, rate = indicator.total_rate(self._shortest), f"rate{self._shortest}"
            total, bad = f"understudy:slo_events:{rate}", f"understudy:slo_bad_events:{rate}"
            yield self._record(total, every)
            yield self._record(bad, f"{indicator.bad_rate(self._shortest)}\nand on ()\n{every}")
            errors = {window: indicator.error(window) for window in self._windows}
            spent = f"sum_over_time({bad}{self._filter}[{period}])\n/\n"
            spent += f"(sum_over_time({total}{self._filter}[{period}]) > 0)"
        elif isinstance(indicator, Ratio):
            errors = {window: indicator.error(window) for window in self._windows}
            spent = f"avg_over_time({self._error(self._shortest)}[{period}])"
        else:
            slice_ = "understudy:slo_slice_bad:bool"
            yield self._record(slice_, indicator.bad.replace(WINDOW, self._shortest))
            errors = {window: f"avg_over_time({slice_}{self._filter}[{window}])" for window in self._windows}
            spent = f"avg_over_time({slice_}{self._filter}[{period}])"
        for window, expr in (errors | {period: spent}).items():
            yield self._record(f"slo:sli_error:ratio_rate{window}", expr, sloth_window=window)

    def _meta(self) -> Iterator[Rule]:
        slo = self._slo
        budget = f"/ on (sloth_id, sloth_slo, sloth_service) group_left\nslo:error_budget:ratio{self._filter}"
        yield self._record("slo:objective:ratio", f"vector({slo.objective:.12g})")
        yield self._record("slo:error_budget:ratio", f"vector({1 - slo.objective:.12g})")
        yield self._record("slo:time_period:days", f"vector({slo.seconds / self._scale / 86400:.12g})")
        yield self._record("slo:current_burn_rate:ratio", f"{self._error(self._shortest)}\n{budget}")
        yield self._record("slo:period_burn_rate:ratio", f"{self._error(self._period)}\n{budget}")
        yield self._record(
            "slo:period_error_budget_remaining:ratio", f"1 - slo:period_burn_rate:ratio{self._filter}"
        )
        info = {"sloth_mode": "understudy", "sloth_spec": "understudy/v1", "sloth_objective": _percent(slo.objective)}
        yield self._record("sloth_slo_info", "vector(1)", **info, sloth_version="understudy", sli=slo.sli)

    def _alerts(self) -> Iterator[Rule]:
        for severity, name in ((Severity.PAGE, BURNING), (Severity.TICKET, SPENDING)):
            burns = [burn for burn in self._alerting.burns if burn.window.severity is severity]
            if burns:
                yield self._burn_alert(name, severity, burns)
        if self._slo.no_data != NEVER:
            yield self._no_data()
        if self._alerting.left_out:
            yield self._changed()

    def _burn_alert(self, name: str, severity: Severity, burns: list[Burn]) -> Rule:
        slo = self._slo
        least = min(burn.factor for burn in burns)
        summary = (
            f"{self._whose()}: {{{{ $value | humanizePercentage }}}} bad with an objective of "
            f"{_percent(slo.objective)}%, the error budget burns more than {least:.3g} times too fast"
        )
        return self._alert(name, "\nor\n".join(map(self._condition, burns)), severity, slo.action, summary)

    def _condition(self, burn: Burn) -> str:
        """Both windows are above, with enough events to say so."""
        above = f"> ({burn.factor:.6g} * {1 - self._slo.objective:.12g})"
        short, long = self._text(burn.window.short), self._text(burn.window.long)
        parts = [f"  max({self._error(window)} {above}) without (sloth_window)" for window in (short, long)]
        if bad := self._slo.indicator.bad_rate(long):
            parts.append(f"  ({bad} * {burn.window.long / self._scale:g} >= {MIN_BAD_EVENTS:g})")
            return f"(\n{parts[0]}\n  and\n{parts[1]}\n  and on ()\n{parts[2]}\n)"
        return f"(\n{parts[0]}\n  and\n{parts[1]}\n)"

    def _no_data(self) -> Rule:
        window = self._text(parse(self._slo.no_data))
        summary = f"{self._whose()}: nothing to judge for {window}; no data is not good"
        rule = self._alert(NO_DATA, f"absent({self._error(window)})", Severity.TICKET, Action.TICKET, summary)
        return {"alert": rule.pop("alert"), "expr": rule.pop("expr"), "for": self._text(SETTLING), **rule}

    def _changed(self) -> Rule:
        """For alerts that burn rates cannot give: what the controller's own detectors have found."""
        quality = self._slo.sli in _ABOUT_QUALITY
        metric, limit = (c.COLLAPSE_EVALUE, _COLLAPSE_LOG_E) if quality else (c.ROLLOUT_EVALUE, _ROLLOUT_LOG_E)
        route = f'{{route="{self._slo.route}"}}' if self._slo.route else ""
        summary = f"{self._whose()}: a change detector is at {{{{ $value }}}}, above {limit:.4g}"
        action = Action.TICKET if self._slo.action is Action.TICKET else Action.PAGE  # the controller acts by itself
        return self._alert(CHANGED, f"max({metric.full_name}{route}) >= {limit}", Severity.PAGE, action, summary)

    def _alert(self, name: str, expr: str, severity: Severity, action: Action, summary: str) -> Rule:
        if Action.TICKET is self._slo.action or severity is Severity.TICKET:
            severity, action = Severity.TICKET, Action.TICKET
        labels = {"severity": severity.value, "sloth_severity": severity.value, "understudy_action": action.value}
        said = self._slo.description.replace("{{", '{{"{{"}}')    # annotations are templates, a description is not
        notes = {"summary": summary} | ({"description": said} if said else {})
        notes["runbook_url"] = f"{self._runbook}#{name.lower()}"
        expr = expr.replace(SHORTEST, self._shortest)
        return {"alert": name, "expr": expr, "labels": self._labels | labels, "annotations": notes}

    def _whose(self) -> str:
        return f"SLO {self._slo.name} of {self._slo.route or self._slo.service}"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.10g}"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # PyYAML publishes no types
    """Queries of several lines stay readable; nothing is an alias."""

    def ignore_aliases(self, data: object) -> bool:
        """The same labels twice are written twice."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _dump(body: object) -> str:
    text: str = yaml.dump(body, Dumper=_Dumper, sort_keys=False, width=10000, allow_unicode=True)
    return text
