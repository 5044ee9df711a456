"""From rounds to a table: medians, ratios to nginx and to vllm-router with their interval, and how noisy it was."""

from __future__ import annotations

import math
import statistics
from typing import Any

from deploy.bench.measure import Results, Round
from deploy.bench.peers import PEERS

COLUMNS = (
    "",
    "µs CPU a request",
    "to nginx's",
    "to vllm-router's",
    "µs CPU a chunk",
    "to nginx's",
    "to vllm-router's",
    "added p50",
    "added p99",
    "added TTFT p50",
    "requests/s on one core",
)
SATURATED = 0.9  # share of its core from which a relay's streams wait for it
RESTLESS = 0.05  # share of the relay's core that other work may take before the run is called noisy


def values(rounds: list[Round], phase: str, name: str) -> list[float]:
    """One number per round; rounds without it are left out."""
    found = [r[phase].get(name) for r in rounds]
    return [float(value) for value in found if value is not None]


def median(rounds: list[Round], phase: str, name: str) -> float | None:
    """The rounds' median."""
    found = values(rounds, phase, name)
    return statistics.median(found) if found else None


def ratio(rounds: list[Round], base: list[Round], phase: str, name: str) -> tuple[float, float, float] | None:
    """Geometric mean of the paired ratios with its 95 % t-interval over the rounds; None without at least two pairs."""
    from scipy import stats

    pairs = zip(values(rounds, phase, name), values(base, phase, name), strict=False)
    logs = [math.log(a / b) for a, b in pairs if a > 0 and b > 0]
    if len(logs) < 2:
        return None
    center = statistics.fmean(logs)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(center), math.exp(center - half), math.exp(center + half)


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """What the table shows, per peer; times in seconds."""
    return {name: _of_peer(name, rounds, results.rounds) for name, rounds in results.rounds.items()}


def _of_peer(name: str, rounds: list[Round], peers: dict[str, list[Round]]) -> dict[str, Any]:
    direct, nginx, router = (peers.get(peer, []) for peer in ("direct", "nginx", "vllm-router"))

    def added(phase: str, what: str) -> float | None:
        here, there = median(rounds, phase, what), median(direct, phase, what)
        return here - there if here is not None and there is not None and name != "direct" else None

    errors: dict[str, int] = {}
    for phase in (phase for r in rounds for phase in r.values()):
        for what, count in phase["errors"].items():
            errors[what] = errors.get(what, 0) + count
    relays = name != "direct"
    return {
        "cpu_per_request": median(rounds, "many", "cpu_per_request") if relays else None,
        "cpu_per_request_to_nginx": ratio(rounds, nginx, "many", "cpu_per_request"),
        "cpu_per_request_to_vllm_router": ratio(rounds, router, "many", "cpu_per_request"),
        "cpu_per_chunk": median(rounds, "stream", "cpu_per_event") if relays else None,
        "cpu_per_chunk_to_nginx": ratio(rounds, nginx, "stream", "cpu_per_event"),
        "cpu_per_chunk_to_vllm_router": ratio(rounds, router, "stream", "cpu_per_event"),
        "latency_p50": median(rounds, "one", "latency_p50"),
        "latency_p99": median(rounds, "one", "latency_p99"),
        "added_p50": added("one", "latency_p50"),
        "added_p99": added("one", "latency_p99"),
        "first_p50": median(rounds, "stream", "first_p50"),
        "added_first_p50": added("stream", "first_p50"),
        "gap_p99": median(rounds, "stream", "gap_p99"),
        "per_second": median(rounds, "many", "per_second"),
        "stream_cpu_share": median(rounds, "stream", "cpu_share"),
        "errors": errors,
    }


def noise(results: Results) -> dict[str, float | None]:
    """Work of others on the relay's core, and how much the steadiest numbers moved from round to round."""
    relays = {name: rounds for name, rounds in results.rounds.items() if name != "direct"}
    phases = [(rounds, phase) for rounds in relays.values() for phase in ("many", "stream")]
    others = [share for rounds, phase in phases for share in values(rounds, phase, "others_share")]
    costs = [values(rounds, "many", "cpu_per_request") for rounds in relays.values()]
    spreads = [statistics.stdev(cost) / statistics.fmean(cost) for cost in costs if len(cost) > 1]
    return {
        "others_share_of_core": statistics.median(others) if others else None,
        "round_to_round": statistics.median(spreads) if spreads else None,
    }


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """A Markdown table that also reads well in a terminal."""
    rows = [COLUMNS, *(_row(name, summaries[name]) for name in PEERS if name in summaries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    rule = tuple("-" * (width - 1) + (":" if i else "-") for i, width in enumerate(widths))
    return "\n".join(_line(row, widths) for row in (rows[0], rule, *rows[1:]))


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    first, *numbers = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return f"| {' | '.join((row[0].ljust(len(first)), *numbers))} |"


def _row(name: str, s: dict[str, Any]) -> tuple[str, ...]:
    return (
        PEERS[name][0] + (" (errors!)" if s["errors"] else ""),
        _us(s["cpu_per_request"]),
        _times(name == "nginx", s["cpu_per_request_to_nginx"]),
        _times(name == "vllm-router", s["cpu_per_request_to_vllm_router"]),
        _us(s["cpu_per_chunk"]),
        _times(name == "nginx", s["cpu_per_chunk_to_nginx"]),
        _times(name == "vllm-router", s["cpu_per_chunk_to_vllm_router"]),
        _us(s["added_p50"], " µs"),
        _us(s["added_p99"], " µs"),
        _us(s["added_first_p50"], " µs"),
        f"{s['per_second']:,.0f}" if s["per_second"] else "",
    )


def _us(seconds: float | None, unit: str = "") -> str:
    if seconds is None:
        return ""
    value = seconds * 1e6
    return f"{value:,.1f}{unit}" if abs(value) < 100 else f"{value:,.0f}{unit}"


def _times(itself: bool, found: tuple[float, float, float] | None) -> str:
    if found is None or itself:
        return "1" if found else ""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*found)


def remarks(results: Results, summaries: dict[str, dict[str, Any]]) -> list[str]:
    """What a reader must know before believing the table."""
    lines = [f"{PEERS[name][0]} is missing: {why}" for name, why in results.could_not_start.items()]
    for name, s in summaries.items():
        title = PEERS[name][0]
        lines += [f"{title}: {count} failed requests ({what})" for what, count in s["errors"].items()]
        if (s["stream_cpu_share"] or 0) > SATURATED:
            lines.append(f"{title} could not keep up with the streams: its chunks came bundled, which flatters its µs")
    seen = noise(results)
    others, moved = seen["others_share_of_core"], seen["round_to_round"]
    if others is not None:
        verdict = "NOISY, do not quote it" if others > RESTLESS else "quiet"
        lines.append(f"{verdict}: other work took {others:.1%} of the relay's core (median)")
    if moved is not None:
        lines.append(f"CPU a request moved by {moved:.1%} from round to round (deviation, median of the relays)")
    return lines
