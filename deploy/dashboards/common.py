"""What several dashboards share: the variables above the panels and the marks of rollouts."""

from __future__ import annotations

from deploy.dashboards.board import BY_ROUTE, Mark, Variable, of
from monitors import conventions as c

TAG = "understudy"

ROUTE = Variable("route", "Route", "the public model name", of(c.REQUESTS, 'route!=""'), "route")
VERSION = Variable(
    "version", "Version", "of the routes chosen", of(c.REQUESTS, 'route=~"$route", version!=""'), "version"
)
WINDOW = Variable("window", "Window", "over which scarce numbers are averaged", values=("5m", "30m", "1h", "6h", "1d"))


def phase_began(phases: str) -> str:
    """Rollouts that are in one of these phases (regular expression) and were not one step before."""
    now = of(c.ROLLOUT_PHASE, f'{BY_ROUTE}, phase=~"{phases}"')
    return f"({now} == 1) unless ({now} offset 1m == 1)"


ROLLOUT_MARK = Mark(
    "Rollouts", phase_began("preparing|shadow|ramp|promoted"), "{{route}}: {{phase}}", "{{version}}", "blue"
)
ROLLBACK_MARK = Mark(
    "Rollbacks", phase_began("rolled_back"), "{{route}}: rolled back", "{{version}} is quarantined", "red"
)
MARKS = (ROLLOUT_MARK, ROLLBACK_MARK)
