"""What this installation says: versions and ranks from the registry, traffic from its records."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import func, select

from adapters import tables
from adapters.database import Database
from adapters.routes import RouteStore
from adapters.types import Flag
from gateway.capacity.plan import Versions

RECORDS = 200_000  # the newest ones that are looked at
LEAST = 100  # below so many records nothing is said


@dataclass(frozen=True, slots=True)
class Traffic:
    """The busiest minute among the newest records, and the answers' tokens: mean, and deviation by mean."""

    rps: float
    input_tokens: float
    output_tokens: float
    variation: float
    records: int


def versions_of(database: Database, now: float) -> Versions | None:
    """What routes and open rollouts need now; None where nothing was deployed yet. Raises DatabaseError."""
    serving, kept = set[str](), set[str]()
    for route in RouteStore(database).list():
        serving |= {name for name in (route.version, route.target) if name}
        kept |= {route.previous} if route.previous and route.bake_until > now else set()
    rows = tables.rollouts.c
    with database.read() as connection:
        serving |= set(connection.execute(select(rows.candidate).where(rows.ended_at.is_(None))).scalars())
    if not serving:
        return None
    known = tables.versions.c
    with database.read() as connection:
        largest = connection.execute(select(func.max(known.rank)).where(known.name.in_(serving | kept))).scalar()
    return Versions(len(serving), len(serving | kept), largest or 1)


def traffic_of(database: Database) -> Traffic | None:
    """None where there are too few records. Mirrored requests count: engines answer them as well."""
    rows = tables.responses.c
    query = select(rows.at, rows.input_tokens, rows.output_tokens).where(
        rows.status < 400, rows.output_tokens.is_not(None), rows.flags.op("&")(int(Flag.ENGINE_DOWN)) == 0
    )
    with database.read() as connection:
        found = connection.execute(query.order_by(rows.id.desc()).limit(RECORDS)).all()
    if len(found) < LEAST:
        return None
    minutes = Counter(int(row.at // 60) for row in found)
    tokens = [row.output_tokens for row in found]
    mean = statistics.fmean(tokens)
    return Traffic(
        max(minutes.values()) / 60.0,
        statistics.fmean(row.input_tokens or 0 for row in found),
        mean,
        statistics.pstdev(tokens) / mean if mean else 0.0,
        len(found),
    )
