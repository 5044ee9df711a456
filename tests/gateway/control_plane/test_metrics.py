from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gateway.control_plane.metrics import ControlMetrics
from monitors.metrics_server import exposition
from tests.support.world import World


def samples(world: World) -> dict[str, float]:
    text = exposition(world.settings.data_dir / "metrics")[0].decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[f"{sample.name}{sorted(sample.labels.values())}"] = sample.value
    return found


async def test_the_plant_is_measured(world_of):
    world = await world_of(2)
    version = world.push()
    metrics = ControlMetrics(world.settings.data_dir / "metrics", "1.2.3")
    controller = world.follower("one")
    controller._metrics = metrics
    controller.fleet = controller._new_fleet()
    assert samples(world)["understudy_controller_leader[]"] == 0.0
    await controller.lease.refresh()
    await controller.lead()
    await world.serve(controller, version)
    found = samples(world)
    assert found["understudy_controller_leader[]"] == 1.0
    assert found["understudy_build_info['1.2.3']"] == 1.0
    assert found["understudy_engine_up['e0.sock']"] == 1.0
    assert found[f"understudy_adapter_loaded['e1.sock', '{version}']"] == 1.0
    assert found["understudy_adapter_load_duration_seconds_count[]"] == 2.0
    world.engines[1].stop()
    await world.ticks(controller, 2)
    found = samples(world)
    assert found["understudy_engine_up['e1.sock']"] == 0.0
    assert found[f"understudy_adapter_loaded['e1.sock', '{version}']"] == 0.0
    await controller.follow()
    found = samples(world)
    assert found["understudy_controller_leader[]"] == 0.0
    assert not any("engine_up" in name or "adapter_loaded" in name for name in found)
    metrics.close()
