"""The plan that the configuration asks for."""

from __future__ import annotations

from pathlib import Path

from gateway.config import Settings
from gateway.rollout.plan import Plan, default_plan, load_plan


def plan_of(settings: Settings, path: Path | None = None, *, rated: bool = True) -> Plan:
    """The plan in `path`, else that of `rollout.plan`, else the shipped one for what is configured. Raises ConfigError.

    `rated`: users of the route send feedback; without any the shipped plan must not wait for satisfaction.
    """
    if path is not None:
        return load_plan(path)
    if settings.rollout.plan:
        return load_plan(Path(settings.rollout.plan))
    return default_plan(sources(settings) if rated else sources(settings) - {"feedback"})


def sources(settings: Settings) -> frozenset[str]:
    """What metrics can be made of in this installation: see gateway.rollout.plan.SOURCES."""
    found = {"responses", "feedback", "texts"}
    if settings.rewards.scoring_url:
        found.add("graders")
    if settings.screening.active:
        found.add("screening")
    return frozenset(found)
