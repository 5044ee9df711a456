"""Answers one question about capacity: fills in what was not said from this installation, measures, plans."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.base import resolve_base
from adapters.database import open_database
from adapters.errors import ConfigError
from gateway.capacity.here import Traffic, traffic_of, versions_of
from gateway.capacity.measure import Load, measure
from gateway.capacity.plan import Demand, Limits, Plan, Versions, plan
from gateway.capacity.shapes import Shape, read_shape
from gateway.capacity.speed import Point, parse_point, speed_of
from gateway.capacity.watch import Seen, watch
from gateway.config import Settings, load_settings, parse_duration
from gateway.control_plane.sites import find_sites

Show = Callable[[str], None]
MOST_AT_ONCE = 4096  # connections that one process can well drive


@dataclass(frozen=True, slots=True)
class Asked:
    """The command's options, as they came; None and empty texts were not given. Times and shares are texts."""

    rps: float | None
    input_tokens: float | None
    output_tokens: float | None
    variation: float | None
    ttft: str
    tpot: str
    share: str
    engine: tuple[str, ...]
    measure: str
    watch: str
    url: str
    model: str
    versions: int | None
    loaded: int | None
    rank: int | None
    memory: float
    kv_bytes: int
    utilisation: str
    spare: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What was planned, and from what."""

    plan: Plan
    demand: Demand
    versions: Versions
    points: tuple[Point, ...]
    records: int = 0  # of this installation that the traffic was read from

    def to_json(self) -> dict[str, Any]:
        """Plain dicts; an endless wait cannot be in it."""
        return asdict(self)


def answer(asked: Asked, config: Path | None, show: Show) -> Answer:
    """`show` hears a line for each thing that was measured. Raises UnderstudyError."""
    if sum(map(bool, (asked.engine, asked.measure, asked.watch))) != 1:
        raise ConfigError("give one of --engine, --measure and --watch: without an engine's speed nothing follows")
    settings = load_settings(config)
    ladder = parse_ladder(asked.measure) if asked.measure else ()
    traffic, here = _here(settings)
    seen = _watched(asked, settings) if asked.watch else None
    demand = _demand(asked, traffic, seen)
    points = [parse_point(text) for text in asked.engine]
    points += [seen.point] if seen else []
    if ladder:
        points = _measured(asked, settings, demand, ladder, show)
    versions = _versions(asked, here, settings)
    engine = settings.engine
    limits = Limits(
        engine.max_loras, engine.max_cpu_loras, engine.max_lora_rank, asked.memory * 2**30,
        utilisation=parse_share("--utilisation", asked.utilisation), spare=asked.spare,
    )  # fmt: skip
    found = plan(demand, speed_of(points), versions, limits, _shape(asked, settings))
    return Answer(found, demand, versions, tuple(points), traffic.records if traffic and asked.rps is None else 0)


def parse_share(name: str, text: str) -> float:
    """'99%' or '0.99' → 0.99. Raises ConfigError."""
    body = text.strip()
    try:
        return float(body.removesuffix("%")) / (100 if body.endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"{name} {text!r} is no share: write 99% or 0.99") from None


def parse_time(name: str, text: str) -> float:
    """'500ms' → 0.5. Raises ConfigError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def parse_ladder(text: str) -> tuple[int, ...]:
    """'1,4,16' → (1, 4, 16). Raises ConfigError."""
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1 or found[-1] > MOST_AT_ONCE:
        raise ConfigError(f"--measure {text!r}: write how many requests at once to try, up to {MOST_AT_ONCE}: 1,4,16")
    return found


def _here(settings: Settings) -> tuple[Traffic | None, Versions | None]:
    """Nothing where nothing was ever installed: a question must not make a database."""
    if settings.database.url == "sqlite" and not (settings.data_dir / "understudy.db").exists():
        return None, None
    database = open_database(settings.database, settings.data_dir)
    try:
        return traffic_of(database), versions_of(database, time.time())
    finally:
        database.close()


def _demand(asked: Asked, traffic: Traffic | None, seen: Seen | None) -> Demand:
    """What was asked, else what was seen at the engine, else the records."""
    numbers = {}
    for name in ("rps", "input_tokens", "output_tokens"):
        found = getattr(asked, name)
        for source in (seen if name != "rps" else None, traffic):  # an engine knows only its own share of the traffic
            found = getattr(source, name) if found is None and source is not None else found
        if found is None:
            raise ConfigError(f"give --{name.replace('_', '-')}: there are too few records here to tell")
        numbers[name] = found
    variation = asked.variation if asked.variation is not None else traffic.variation if traffic else 1.0
    ttft, tpot = parse_time("--ttft", asked.ttft), parse_time("--tpot", asked.tpot)
    return Demand(**numbers, ttft=ttft, tpot=tpot, share=parse_share("--share", asked.share), variation=variation)


def _versions(asked: Asked, here: Versions | None, settings: Settings) -> Versions:
    """One candidate beside what serves is assumed where nobody says otherwise: that is what a rollout needs."""
    served = asked.versions or (here.served if here else 1)
    loaded = asked.loaded or max(here.loaded if here else 0, served + 1)
    return Versions(served, loaded, asked.rank or (here.rank if here else settings.engine.max_lora_rank))


def _shape(asked: Asked, settings: Settings) -> Shape | None:
    """None where the base is not on this machine, as with engines elsewhere. Raises ConfigError if it is asked for."""
    try:
        base = resolve_base(settings.engine.base_model)
        return read_shape(base, asked.kv_bytes, settings.data_dir / "cache" if settings.data_dir.exists() else None)
    except ConfigError:
        if asked.memory:
            raise
        return None


def _engine(asked: Asked, settings: Settings) -> tuple[str, str]:
    """URL and key. Raises ConfigError when there is none."""
    url = asked.url or next((site.url for site in find_sites(settings) if site.url), "")
    if not url:
        raise ConfigError("no engine is known here: start `understudy engine`, or name one with --url")
    return url, settings.engine.api_key


def _watched(asked: Asked, settings: Settings) -> Seen:
    url, key = _engine(asked, settings)
    return asyncio.run(watch(url, parse_time("--watch", asked.watch), key))


def _measured(
    asked: Asked, settings: Settings, demand: Demand, ladder: tuple[int, ...], show: Show
) -> list[Point]:
    url, key = _engine(asked, settings)
    model = asked.model or settings.engine.served_name
    load = Load(url, model, round(demand.input_tokens), max(1, round(demand.output_tokens)), api_key=key)

    def line(point: Point) -> None:
        show(
            f"{point.concurrency:.0f} at once: {point.tokens_per_second:,.0f} tokens/s, first token after "
            f"{point.first_token * 1e3:.0f} ms, {point.per_token * 1e3:.1f} ms a token"
        )

    return asyncio.run(measure(load, ladder, line))
