from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.types import AdapterVersion, Kind, Route, Stage
from gateway.control_plane.wanted import named_versions, wants
from gateway.engines.placement import Priority

A, B, C = "r@00000000000a", "r@00000000000b", "r@00000000000c"


def version(name: str, stage: Stage = Stage.RELEASED, kind: Kind = Kind.ADAPTER) -> AdapterVersion:
    return AdapterVersion(name, "r", name[2:] * 5, kind, stage, 0.0, 8, 1, "0" * 64, {}, {})


KNOWN = {name: version(name) for name in (A, B, C)}
ROUTE = Route("r", version=A, target=B, previous=C, bake_until=100.0)


def test_reasons_and_their_order():
    found = wants([ROUTE], KNOWN, [], now=50.0)
    assert [(w.version, w.priority, w.serves) for w in found] == [
        (A, Priority.STABLE, True), (B, Priority.TARGET, True), (C, Priority.PREVIOUS, False),
    ]  # fmt: skip


def test_after_the_bake_the_previous_version_is_not_wanted():
    assert [w.version for w in wants([ROUTE], KNOWN, [], now=100.0)] == [A, B]


def test_the_most_important_reason_counts():
    back = replace(ROUTE, target=C)
    (want,) = [w for w in wants([back], KNOWN, [C], now=50.0) if w.version == C]
    assert want.priority is Priority.TARGET and want.serves
    (asked,) = wants([], KNOWN, [B], now=0.0)
    assert asked.priority is Priority.WANTED and asked.serves


@pytest.mark.parametrize("stage", [Stage.QUARANTINED, Stage.ARCHIVED])
def test_what_must_not_serve_is_never_wanted(stage):
    known = KNOWN | {A: version(A, stage)}
    assert A not in [w.version for w in wants([ROUTE], known, [A], now=0.0)]


def test_reward_models_and_strangers_are_never_wanted():
    known = {A: version(A, kind=Kind.REWARD_MODEL)}
    assert wants([ROUTE], known, [A, B], now=0.0) == []


def test_names():
    assert named_versions([ROUTE, Route("s")]) == {A, B, C}
