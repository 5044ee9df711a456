from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from gateway.control_plane import housekeeping
from gateway.control_plane.housekeeping import clear, keep_house
from tests.support.world import World


def response(at: float) -> dict:
    return {
        "response_id": f"x{at}", "at": at, "assignment": 1, "unit": b"8 bytes!", "endpoint": "chat", "status": 200,
        "outcome": "ok", "duration": 0.1, "ttft": None, "input_tokens": None, "output_tokens": None,
    }  # fmt: skip


async def test_old_records_snapshots_and_artifacts_go(world: World):
    now = time.time()
    month = 30 * 86400.0
    world.stores.responses.insert_responses([response(now - month - 10), response(now - 10)])
    for _ in range(housekeeping.SNAPSHOTS_KEPT + 5):
        world.fleet.publish({"n": 1}, now)
    version = world.push()
    digest = world.registry.get(version).digest
    world.registry.archive(version)
    detectors = [world.stores.collapse.load("r", version, scope) for scope in ("after:1", "alone")]
    for detector, at in zip(detectors, (now - month - 10, now), strict=True):
        world.stores.collapse.save(replace(detector, updated_at=at))
    clear(world.settings, world.stores, now)
    assert [world.stores.collapse.load("r", version, d.scope).revision for d in detectors] == [0, 1]
    assert world.stores.responses.prune(now) == 1  # the young one was still there
    world.fleet.prune_snapshots(housekeeping.SNAPSHOTS_KEPT)
    assert not world.stores.artifacts.exists(digest)


async def test_only_a_leader_clears_and_errors_do_not_end_it(world: World, monkeypatch, caplog):
    from adapters.errors import DatabaseError

    monkeypatch.setattr(housekeeping, "EVERY", 0.01)
    calls = []

    def failing(*_args):
        calls.append(1)
        raise DatabaseError("away")

    monkeypatch.setattr(housekeeping, "clear", failing)
    controller, stop = world.follower("one"), asyncio.Event()
    keeping = asyncio.create_task(keep_house(world.settings, world.stores, controller, stop))
    await asyncio.sleep(0.1)
    assert calls == []
    await controller.lease.refresh()
    await controller.lead()
    while len(calls) < 3:
        await asyncio.sleep(0.01)
    stop.set()
    await keeping
    assert "housekeeping: away" in caplog.text
