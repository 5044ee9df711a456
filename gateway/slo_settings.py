"""`[[slo]]`: service level objectives, from which `understudy slo rules` makes Prometheus rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from adapters.errors import ConfigError
from adapters.settings import Section

if TYPE_CHECKING:
    from monitors.slo import Indicator, Slo

SliName = Literal[
    "availability", "time_to_first_token", "latency", "time_per_output_token", "reward", "satisfaction", "unsafe_rate",
    "over_refusal", "divergence", "custom",
]  # fmt: skip


class SloSettings(Section):
    """One `[[slo]]`: a share of something on a route that must be good over a window (docs/slo.md)."""

    name: str = Field(description="its name, once per route: lower-case letters, digits, hyphens")
    route: str = Field("", description="the route it is about, and that a rollback takes back; empty = all")
    sli: SliName = Field(description="what is measured; custom: by your own queries")
    objective: float = Field(description="share that must be good, such as 0.995")
    window: Literal["30d", "28d", "7d"] = Field("30d", description="how long the error budget lasts")
    threshold: float | None = Field(
        None, description="bound of good: seconds; a score (0.5) that good ones exceed; points of satisfaction (0.05)"
    )
    arm: Literal["users", "candidate"] = Field("users", description="users: all who are served; or a rollout's only")
    endpoint: Literal["", "chat", "completions", "responses", "messages", "embeddings"] = Field(
        "", description="only this endpoint; empty = all"
    )
    grader: str = Field("", description="reward, divergence: only this grader's scores; empty = all")
    source: Literal["alignment_tax", "scores"] = Field(
        "alignment_tax", description="divergence: calibrated, or from the two histograms"
    )
    good: str = Field("", description="custom: PromQL of good events per second, with [{{.window}}]")
    bad: str = Field("", description="custom: PromQL of bad events per second; instead of good")
    total: str = Field("", description="custom: PromQL of all events per second")
    action: Literal["page", "rollback", "ticket"] = Field(
        "page", description="what a fast burn asks for: page people; also roll the route back; or wake nobody"
    )
    unreachable: Literal["refuse", "scale", "detectors"] = Field(
        "refuse", description="what becomes of alerts that could never fire below this objective"
    )
    events_per_hour: float = Field(
        0.0, ge=0, description="expected events; alerts that so few cannot carry are left to the change detectors"
    )
    no_data: Literal["", "1h", "6h", "1d", "3d", "never"] = Field(
        "", description="how long nothing may happen before that is a ticket; empty: 1h, 1d for scores, never for arms"
    )
    description: str = Field("", description="shown with its alerts")

    @model_validator(mode="after")
    def _makes_rules(self) -> SloSettings:
        try:
            self.slo()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def slo(self) -> Slo:
        """What the rules are made from. Raises ConfigError: it makes no sense, or an alert of it could never fire."""
        from monitors.burnrate import Policy
        from monitors.slo import NAME, Action, Slo

        if self.route and not NAME.fullmatch(self.route):
            raise ConfigError(f"route {self.route!r}: lower-case letters, digits and hyphens, 63 at most")
        made = Slo(
            self.name, self._indicator(), self.objective, self.route or "understudy", self.route, self.sli, self.window,
            Action(self.action), Policy(self.unreachable), self.no_data or self._silence(), self.events_per_hour,
            self.description,
        )  # fmt: skip
        _ = made.alerting
        return made

    def _indicator(self) -> Indicator:
        from monitors.indicators import Scope, Sli, Source, custom, indicator

        queries = {"good": self.good, "bad": self.bad}
        if self.sli == "custom":
            if self.threshold is not None or self.endpoint or self.grader or self.arm == "candidate":
                raise ConfigError("sli custom takes no threshold, arm, endpoint or grader: say it in the queries")
            return custom(self.total, **queries)
        if self.total or any(queries.values()):
            raise ConfigError(f'good, bad and total are for sli = "custom", not {self.sli}')
        scope = Scope(self.route, self.arm == "candidate", self.endpoint, self.grader)
        return indicator(Sli(self.sli), scope, self.threshold, Source(self.source))

    def _silence(self) -> str:
        """Feedback and scores may be rare; without a rollout there is no candidate."""
        if self.arm == "candidate":
            return "never"
        return "1d" if self.sli in ("reward", "satisfaction", "divergence", "unsafe_rate") else "1h"
