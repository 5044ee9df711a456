"""Is it fast, is it right, is everything there: the traffic and the plant."""

from __future__ import annotations

from deploy.dashboards.board import (
    BY_ROUTE,
    CHOSEN,
    GOOD_ABOVE_ZERO,
    Board,
    Panel,
    Query,
    Row,
    of,
    quantiles,
    ratio,
    total,
)  # fmt: skip
from deploy.dashboards.common import MARKS, ROUTE, VERSION
from monitors import conventions as c

ERRORS = f'{CHOSEN}, outcome=~"error|truncated"'
BAD_SHARE = ((None, "green"), (0.001, "orange"), (0.01, "red"))


def board() -> Board:
    """The dashboard."""
    return Board(
        "understudy-serving",
        "Understudy / Serving",
        "Traffic, latency, tokens and the plant: engines, adapters, controller.",
        (overview(), traffic(), latency(), refusals(), plant()),
        (ROUTE, VERSION),
        MARKS,
    )


def overview() -> Row:
    """Six numbers."""
    failing = ratio(total(c.REQUESTS, "", ERRORS), total(c.REQUESTS, ""))
    return Row("Now", (
        Panel("Requests", "Routed requests that ended, per second.", (Query(total(c.REQUESTS, "")),), "reqps",
              "stat", 4, 4),
        Panel("Errors", "Share of routed requests that ended as error or truncated.", (Query(failing),), "percentunit",
              "stat", 4, 4, thresholds=BAD_SHARE),
        Panel("First token, p95", "Time to the first content delta of streams.",
              quantiles(c.TTFT, "", "", (0.95,)), "s", "stat", 4, 4),
        Panel("Output tokens", "Tokens generated per second, as the engines counted them.",
              (Query(total(c.TOKENS_TOTAL, "", f'{CHOSEN}, type="output"')),), "short", "stat", 4, 4),
        Panel("Engines up", "Engines that answer.", (Query(f"sum({of(c.ENGINE_UP)})"),), "short", "stat", 4, 4,
              thresholds=GOOD_ABOVE_ZERO),
        Panel("Leading controllers", "1; with 0 nothing changes and nothing is rolled back.",
              (Query(f"sum({of(c.CONTROLLER_LEADER)})"),), "short", "stat", 4, 4, thresholds=GOOD_ABOVE_ZERO),
    ))  # fmt: skip


def traffic() -> Row:
    """What is asked and how it ends."""
    failing = ratio(total(c.REQUESTS, "route, version", ERRORS), total(c.REQUESTS, "route, version"))
    unsticky = ratio(total(c.WITHOUT_UNIT, "route", BY_ROUTE),
                     total(c.REQUESTS, "route", BY_ROUTE))  # fmt: skip
    return Row("Traffic", (
        Panel("Requests by outcome", "ok, error, truncated (the stream broke after its first byte), cancelled (the "
              "client went away) or blocked (screening).",
              (Query(total(c.REQUESTS, "outcome"), "{{outcome}}"),), "reqps", stacked=True),
        Panel("Errors by version", "Share of a version's requests that ended as error or truncated.",
              (Query(failing, "{{route}} {{version}}"),), "percentunit", minimum=0, thresholds=BAD_SHARE),
        Panel("Requests in flight", "Being answered now.", (Query(f"sum by (route) ({of(c.IN_FLIGHT, BY_ROUTE)})",
              "{{route}}"),), minimum=0),
        Panel("Requests by version", "Which version answers.", (Query(total(c.REQUESTS, "version, arm"),
              "{{version}} {{arm}}"),), "reqps", stacked=True),
        Panel("Tokens", "As the engines counted them, per second.",
              (Query(total(c.TOKENS_TOTAL, "type"), "{{type}}"),), minimum=0),
        Panel("Requests without a unit", "Share of requests that name no user: they are not sticky, and a rollout "
              "learns less from them.", (Query(unsticky, "{{route}}"),), "percentunit", minimum=0, maximum=1),
    ))  # fmt: skip


def latency() -> Row:
    """How long it takes."""
    return Row("Latency", (
        Panel("Time to first token", "Until the first content delta; streams only.",
              quantiles(c.TTFT, "route", "{{route}}"), "s", minimum=0),
        Panel("Time per output token", "Between tokens after the first; streams only.",
              quantiles(c.TPOT, "route", "{{route}}"), "s", minimum=0),
        Panel("Whole answer", "From the request's last byte in to the answer's last byte out.",
              quantiles(c.DURATIONS, "route", "{{route}}"), "s", minimum=0),
        Panel("Time to first token, by version", "p95; a new version's first answers include loading into the cache.",
              quantiles(c.TTFT, "version", "{{version}}", (0.95,)), "s", width=12,
              minimum=0),
        Panel("The gateway's own time", "Before the engine was asked.",
              quantiles(c.GATEWAY_OVERHEAD, "", "", (0.5, 0.95, 0.99)), "s", width=12, minimum=0),
    ))  # fmt: skip


def refusals() -> Row:
    """What did not reach an engine, and what was lost."""
    return Row("Refused and lost", (
        Panel("Refused before routing", "By status: wrong requests, unknown models, missing keys, limits.",
              (Query(total(c.REQUESTS, "code", 'route=""'), "{{code}}"),), "reqps", width=6, stacked=True),
        Panel("Rate limited", "429 by the limit that was reached.",
              (Query(total(c.RATE_LIMITED, "reason", ""), "{{reason}}"),), "reqps", width=6, stacked=True),
        Panel("Failovers", "Requests that left an engine for another before their first byte.",
              (Query(total(c.FAILOVERS, "engine", ""), "{{engine}}"),), "reqps", width=6),
        Panel("Records lost", "The database or the scoring service was away too long, or a queue was full: evidence "
              "of rollouts is missing.", (Query(total(c.EVENTS_DROPPED, "kind", ""), "{{kind}}"),), width=6, minimum=0,
              thresholds=((None, "green"), (0.001, "red"))),
    ))  # fmt: skip


def plant() -> Row:
    """Engines, adapters, controller."""
    up = (("0", "down"), ("1", "up"))
    held = (("0", "not ready"), ("1", "ready"))
    return Row("Plant", (
        Panel("Engines", "Up while the engine answers the controller.", (Query(f"max by (engine) ({of(c.ENGINE_UP)})",
              "{{engine}}"),), kind="timeline", thresholds=GOOD_ABOVE_ZERO, names=up),
        Panel("Adapters", "Ready: loaded, confirmed and probed.",
              (Query(f"max by (engine, version) ({of(c.ADAPTER_LOADED)})", "{{version}} on {{engine}}"),),
              kind="timeline", thresholds=GOOD_ABOVE_ZERO, names=held),
        Panel("Loading an adapter", "Load, confirm and probe of one version on one engine.",
              quantiles(c.ADAPTER_LOAD_DURATION, "", "", (0.5, 0.95), where="", window="$__range"), "s", minimum=0),
        Panel("Age of the routes", "Since the slowest worker last confirmed its routes: above a few seconds the "
              "database is away.", (Query(f"max({of(c.SNAPSHOT_AGE)})", "oldest"),), "s", width=12, minimum=0,
              thresholds=((None, "green"), (5.0, "orange"), (60.0, "red"))),
        Panel("Releases", "Gateway hosts by release: several while an update is under way.",
              (Query(f"count by (version) ({of(c.BUILD_INFO)})", "{{version}}"),), kind="bars", width=12),
    ))  # fmt: skip
