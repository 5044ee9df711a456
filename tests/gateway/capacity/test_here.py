"""What the registry and the records say about demand."""

from __future__ import annotations

import pytest

from adapters import tables
from adapters.types import Flag
from gateway.capacity.here import LEAST, traffic_of, versions_of
from gateway.capacity.plan import Versions
from tests.support.records import Records


def version(database, name, rank):
    row = {"route": "r", "digest": name.ljust(64, "0"), "kind": "adapter", "stage": "released", "created_at": 0.0,
           "size_bytes": 1, "base_digest": "", "manifest": {}, "lineage": {}}  # fmt: skip
    with database.begin() as connection:
        connection.execute(tables.versions.insert().values(**row, name=name, rank=rank))


def test_versions_that_serve_are_kept_or_are_being_tried(database):
    assert versions_of(database, 0.0) is None
    for name, rank in (("r@a", 64), ("r@b", 8), ("r@c", 16)):
        version(database, name, rank)
    with database.begin() as connection:
        row = {"name": "r", "version": "r@b", "previous": "r@a", "bake_until": 100.0}
        connection.execute(tables.routes.insert().values(row))
    assert versions_of(database, 50.0) == Versions(1, 2, 64)
    assert versions_of(database, 100.0) == Versions(1, 1, 8)
    with database.begin() as connection:
        row = {"route": "r", "candidate": "r@c", "stable": "r@b", "plan": {}, "phase": "ramp", "state": {}}
        connection.execute(tables.rollouts.insert().values(**row, started_at=1.0, phase_since=1.0))
    assert versions_of(database, 100.0) == Versions(2, 2, 16)


def test_traffic_is_the_busiest_minute_and_the_answers_tokens(database):
    records = Records(database)
    for number in range(LEAST - 1):
        records.answer(1, number, at=6000.0 + number % 3, output_tokens=10 + 20 * (number % 2), input_tokens=7)
    records.answer(1, 1, at=6030.0, status=500)
    records.answer(1, 1, at=6030.0, output_tokens=None)
    records.answer(1, 1, at=6030.0, flags=int(Flag.ENGINE_DOWN))
    assert traffic_of(database) is None
    records.answer(1, 1, at=5000.0, output_tokens=30, input_tokens=7)
    found = traffic_of(database)
    assert found is not None and found.records == LEAST
    assert found.rps == pytest.approx((LEAST - 1) / 60)
    assert (found.input_tokens, found.output_tokens, found.variation) == (7.0, 20.0, 0.5)
