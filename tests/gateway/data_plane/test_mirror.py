"""Several shadows on one route: a prompt goes to one of them, as often as each one's sample says."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Shadow, Snapshot, from_json, to_json
from gateway.data_plane.breaker import Breakers
from gateway.data_plane.mirror import Mirror
from gateway.data_plane.route_table import TableCompiler
from tests.support.serving import BASE, STABLE

SAMPLES = {"support@111111111111": 0.3, "support@222222222222": 0.1, "support@333333333333": 0.1}


def snapshot(*shadows: Shadow) -> Snapshot:
    arms = (Arm(1, "stable", STABLE, STABLE, 0.0, 1.0, ()),)
    route = RouteState("support", "salt", arms, 7, shadows[0] if shadows else None, rivals=shadows[1:])
    return Snapshot(1, 0.0, PinnedVersion(9, BASE, "base", ()), (route,), (), (Endpoint("e0", "http://x"),))


def mirrors(published: Snapshot) -> list[Mirror]:
    return TableCompiler("base", (), lambda _: None, Breakers()).compile(published).mirrors()


def three() -> list[Shadow]:
    return [Shadow(10 + n, v, v, (), sample, 1, 9) for n, (v, sample) in enumerate(SAMPLES.items())]


def test_they_survive_publication_and_all_of_them_are_known():
    published = snapshot(*three())
    assert from_json(1, 0.0, to_json(published)) == published
    found = mirrors(published)
    assert {m.target.version: m.target.assignment for m in found} == dict(zip(SAMPLES, (10, 11, 12), strict=True))
    assert found[0].sample == pytest.approx(0.5) and found[0].rivals == tuple(found[1:])
    assert mirrors(snapshot()) == []


def test_a_prompt_goes_to_one_as_often_as_its_sample_says():
    first, *_ = mirrors(snapshot(*three()))
    random.seed(3)
    drawn = Counter(first.draw().target.version for _ in range(5000))
    assert [drawn[version] / 5000 for version in SAMPLES] == pytest.approx([0.6, 0.2, 0.2], abs=0.03)
    assert first.rivals[0].draw() is first.rivals[0]


def test_one_without_a_sample_gets_nothing():
    none, some, _ = three()
    found = mirrors(snapshot(replace(none, sample=0.0), some))
    assert [mirror.target.version for mirror in found] == [some.version] and found[0].sample == some.sample
