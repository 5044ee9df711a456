"""What `understudy rollout status` shows of one rollout, once or as a live view."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from adapters.errors import NotFound
from gateway.rollout.listing import as_json, names, where

if TYPE_CHECKING:
    from adapters.rollout_store import RolloutStore

REFRESH = 0.5      # seconds
_BAR = 20          # characters


def render(body: dict[str, Any]) -> None:
    """Print one rollout, as listing.as_json makes it."""
    Console(highlight=False).print(view(body), crop=False)


def watch(store: RolloutStore, route: str, incidents: Path) -> None:
    """A live view of the route's newest rollout until it has ended. Raises NotFound, DatabaseError."""
    found = store.newest(route, limit=1)
    if not found:
        raise NotFound(f"route {route} has had no rollout: begin one with `understudy rollout start {route} VERSION`")
    number, console = found[0].id, Console(highlight=False)
    with Live(view(as_json(found[0], incidents)), console=console, auto_refresh=False) as live:
        while True:
            rollout = store.get(number)
            live.update(view(as_json(rollout, incidents)), refresh=True)
            if not rollout.open:
                return
            time.sleep(REFRESH)


def view(body: dict[str, Any]) -> RenderableType:
    """Where it is, the evidence of harm against its thresholds, and the effects with their intervals."""
    if len(body["candidates"]) == 1:
        return Group(*_head(body), *_evidence(body), *_collapse(body))
    each = (part for candidate in body["candidates"] for part in _candidate(candidate, body["weight"]))
    return Group(*_head(body), *each, *_collapse(body))


def _candidate(candidate: dict[str, Any], weight: float) -> Iterator[RenderableType]:
    """One of several: its share, or why it was dropped, and its evidence."""
    units = candidate["units"]
    state = f"dropped: {candidate['reason']}" if candidate["state"] == "dropped" else candidate["state"]
    yield Text()
    yield Text(f"{candidate['version']}  {_bar(candidate['share'])} {candidate['share']:.1%}  {state}"
               + (f", units {units['candidate']} / {units['stable']}" if units else ""))  # fmt: skip
    if candidate["state"] == "dropped" and candidate["incident"]:
        yield Text(f"report: {candidate['incident']}", no_wrap=True, overflow="ignore")
    elif weight or candidate["analysis"]:
        yield from _evidence(candidate)


def _bar(share: float) -> str:
    return "█" * round(share * _BAR) + "░" * (_BAR - round(share * _BAR))


def _evidence(body: dict[str, Any]) -> Iterator[RenderableType]:
    if body["first_ttft"] is not None:
        yield Text(f"first token of its first answer, cold: {body['first_ttft']:.2f} s")
    yield from _harm(body)
    yield from _effects(body)


def _head(body: dict[str, Any]) -> Iterator[RenderableType]:
    share, units = body["weight"], body["units"] if len(body["candidates"]) == 1 else {}
    yield Text(f"rollout {body['id']} on {body['route']}: {names(body)} against {body['stable']}")
    yield Text(f"{where(body)}  {_bar(share)} {share:.1%}  {body['seconds_in_step']:.0f} s in this step"
               + (f", units {units['candidate']} / {units['stable']}" if units else ""))
    yield Text((body["hold"] or {}).get("reason") or body["reason"])
    if body["incident"]:
        yield Text(f"report: {body['incident']}", no_wrap=True, overflow="ignore")


def _harm(body: dict[str, Any]) -> Iterator[RenderableType]:
    if not body["harm"]:
        return
    table = Table("harm", "bad events", "log e", "threshold", "", box=None, pad_edge=False)
    for finding in body["harm"]:
        log_e, threshold = finding["log_e"] or 0.0, finding["threshold"] or 0.0
        part = min(max(log_e / threshold, 0.0), 1.0) if threshold else 0.0
        bar = "█" * round(part * 10) + "░" * (10 - round(part * 10))
        table.add_row(finding["metric"], f"{finding['n']:g}", f"{log_e:.2f}", f"{threshold:.2f}", bar)
    yield table


def _effects(body: dict[str, Any]) -> Iterator[RenderableType]:
    analysis = body["analysis"]
    if not analysis:
        return
    yield Text(f"{analysis['verdict']}: {analysis['reason']}")
    shown = [f for f in analysis["findings"] if f["effect"] is not None]
    if not shown:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("candidate - stable", "effect", "interval", "tolerated", "verdict"):
        table.add_column(name, no_wrap=True)
    for f in shown:
        interval = Text(f"[{_number(f['lower'])}, {_number(f['upper'])}]")
        cells = (_number(f["effect"]), interval, _number(f["tolerated"]))
        table.add_row(f["metric"], *cells, f["verdict"])
    yield table


def _collapse(body: dict[str, Any]) -> Iterator[RenderableType]:
    """Reward against satisfaction, by the latest verdict of the collapse detector."""
    if verdict := body.get("collapse"):
        yield Text(f"rewards: {verdict['kind']}: {verdict['reason']}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4g}"
