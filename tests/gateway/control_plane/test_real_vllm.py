"""The control plane on real vLLMs: what the fake engine claims about vLLM is checked here."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from adapters.base import BaseModelInfo
from adapters.database import open_database
from adapters.settings import ArtifactSettings, DatabaseSettings
from adapters.types import HoldingState, Stage
from gateway.config import Settings
from gateway.control_plane.controller import Controller
from gateway.engines.client import EngineClient
from gateway.engines.sessions import session_members
from tests.support.engine import REAL, RealEngine, long_answer
from tests.support.waiting import PATIENCE
from tests.support.world import World

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


class RealClock:
    """The real time."""

    now = 0.0  # moved by World.ticks, to no effect

    def __call__(self) -> float:
        return time.time()


class Plane:
    """A controller over real engines, and the registry it works from."""

    def __init__(self, world: World, markers: dict[str, Path]) -> None:
        self.world = world
        self.markers = markers
        self.controller: Controller

    def push(self, folder: Path, route: str = "r") -> str:
        return self.world.registry.push(folder, route, base=self.world.base, max_rank=16).name

    async def until(self, condition, what: str, patience: float = 300.0) -> None:
        """Tick until it holds."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"not {what}: {self.world.fleet.holdings()} {self.world.routes.list()}"
            await self.tick()

    async def tick(self) -> None:
        """One tick, and a breath."""
        await self.controller.lease.refresh()
        await self.controller.tick()
        await asyncio.sleep(0.05)

    async def serve(self, version: str, route: str = "r") -> None:
        self.world.routes.set_target(route, version)
        await self.until(lambda: self.world.route(route).target is None, f"serving {version}")
        assert self.world.route(route).version == version, self.world.route(route).error

    def replicas(self, route: str = "r") -> tuple[str, ...]:
        return self.world.published(route).arms[0].replicas


@pytest.fixture
async def plane(
    real_engine: RealEngine, marker_adapters: dict[str, Path], demo_base: BaseModelInfo, tmp_path: Path, request
) -> AsyncIterator[Plane]:
    more = getattr(request, "param", {})
    settings = Settings(
        data_dir=real_engine.data_dir,
        engine=REAL.model_copy(update=more),
        artifacts=ArtifactSettings(url=str(tmp_path / "artifacts")),
    )
    database = open_database(DatabaseSettings(), tmp_path)
    world = World(tmp_path, settings, database, demo_base, [], clock=RealClock())
    made = Plane(world, marker_adapters)
    made.controller = await world.controller()
    yield made
    await made.controller.follow()
    database.close()
    async with EngineClient(real_engine.url) as client:
        with suppress(Exception):
            for name, model in (await client.models()).items():
                if model.parent:
                    await client.unload(name)


async def test_a_real_adapter_is_loaded_confirmed_probed_and_served(plane: Plane, real_engine: RealEngine):
    version = plane.push(plane.markers["A"])
    await plane.serve(version)
    held = plane.world.held("engine-0", version)
    assert held.state is HoldingState.READY and held.boot == real_engine.state.boot
    assert held.probe["verdict"] == "match"
    assert held.probe["max_difference"] < held.probe["tolerance"] < held.probe["base_distance"]
    assert plane.replicas() == ("engine-0",)
    assert plane.world.snapshot().endpoints[0].url == real_engine.url


async def test_probes_of_other_weights_are_refused_with_numbers(plane: Plane, tmp_path: Path):
    forged = shutil.copytree(plane.markers["A"], tmp_path / "forged")
    shutil.copy(plane.markers["B"] / "probes.json", forged / "probes.json")
    good, bad = plane.push(plane.markers["B"]), plane.push(forged)
    await plane.serve(good)
    plane.world.routes.set_target("r", bad)
    await plane.until(lambda: plane.world.route().target is None, "given up")
    assert plane.world.route().version == good
    assert "does not reproduce the trainer's logprobs" in plane.world.route().error
    assert "nats" in plane.world.route().error


async def test_an_adapter_unloaded_behind_our_back_returns(plane: Plane, real_engine: RealEngine):
    version = plane.push(plane.markers["A"])
    await plane.serve(version)
    async with EngineClient(real_engine.url) as client:
        await client.unload(version)
        assert version not in await client.models()
        # By the engine's own word: the route may name the replica for as long as the look at it takes.
        async with asyncio.timeout(PATIENCE):
            while version not in await client.models():
                await plane.tick()
        await plane.until(lambda: plane.world.held("engine-0", version).state is HoldingState.READY, "ready")
        await plane.until(lambda: plane.replicas() == ("engine-0",), "back")


@pytest.mark.parametrize("plane", [{"max_loras": 1, "max_cpu_loras": 1}], indirect=True)
async def test_beyond_the_slots_it_is_refused(plane: Plane):
    first, second = plane.push(plane.markers["A"]), plane.push(plane.markers["B"], "s")
    await plane.serve(first)
    plane.world.routes.set_target("s", second)
    await plane.until(lambda: plane.world.route("s").target is None, "given up")
    assert "no free slot" in plane.world.route("s").error
    assert plane.world.held("engine-0", second).state is HoldingState.REFUSED
    assert plane.replicas() == ("engine-0",)


async def at_work(client: EngineClient, version: str) -> asyncio.Task[Any]:
    """A long answer that the engine says it writes; it may be done before anybody could see it: then another one."""
    asking = asyncio.create_task(long_answer(client, version))
    async with asyncio.timeout(PATIENCE):
        while not (await client.metrics()).uses(version):
            if asking.done():
                assert (await asking)["choices"][0]["finish_reason"] == "length"
                asking = asyncio.create_task(long_answer(client, version))
            await asyncio.sleep(0.02)
    return asking


async def test_a_retired_version_drains_by_the_engines_own_word(plane: Plane, real_engine: RealEngine):
    first, second = plane.push(plane.markers["A"]), plane.push(plane.markers["B"])
    await plane.serve(first)
    async with EngineClient(real_engine.url) as client:
        asking = await at_work(client, first)
        await plane.serve(second)
        plane.world.routes.end_bake("r")
        unloaded = []

        def gone() -> bool:
            unloaded.append(plane.world.held("engine-0", first).state is HoldingState.UNLOADED)
            return unloaded[-1]

        await plane.until(gone, "unloaded")
        assert first not in await client.models()
        assert (await asking)["choices"][0]["finish_reason"] == "length"  # nobody was cut off


async def test_killed_and_back_without_an_operator(plane: Plane, real_engine: RealEngine):
    version = plane.push(plane.markers["A"])
    await plane.serve(version)
    session = real_engine.state.session.leader
    boot = real_engine.kill()
    await plane.until(lambda: plane.replicas() == (), "noticed")
    assert plane.world.snapshot().endpoints == ()
    await plane.until(lambda: plane.replicas() == ("engine-0",), "back")
    assert real_engine.state.boot != boot
    assert plane.world.held("engine-0", version).boot == real_engine.state.boot
    assert session_members(session) == []


@pytest.mark.long
async def test_nan_quarantines_and_the_engine_starts_afresh(plane: Plane, real_engine: RealEngine, tmp_path: Path):
    """The registry refuses such weights; here they come between the registry and the engine."""
    good, bad = plane.push(plane.markers["A"]), plane.push(plane.markers["B"])
    await plane.serve(good)
    boot = real_engine.state.boot
    stored = Path(plane.world.stores.artifacts.local_path(plane.world.registry.get(bad).digest))
    tensors = load_file(stored / "adapter_model.safetensors")
    (stored / "adapter_model.safetensors").unlink()
    huge = {name: numpy.full_like(value, 1e30) for name, value in tensors.items()}
    save_file(huge, stored / "adapter_model.safetensors", {"format": "pt"})
    plane.world.routes.set_target("r", bad)
    await plane.until(lambda: plane.world.route().target is None, "given up")
    assert plane.world.registry.get(bad).stage is Stage.QUARANTINED
    assert "not finite" in plane.world.registry.get(bad).reason
    assert plane.replicas() == ()
    await plane.until(lambda: plane.replicas() == ("engine-0",), "back")
    assert real_engine.state.boot != boot and plane.world.route().version == good
    assert any("NaN after probing" in line for line in real_engine.said)


@pytest.mark.parametrize("plane", [{"replicas": 2}], indirect=True)
@pytest.mark.long
async def test_a_second_replica_joins_and_leaves(plane: Plane, real_engine: RealEngine):
    version = plane.push(plane.markers["A"])
    await plane.serve(version)
    assert plane.replicas() == ("engine-0",)
    second = RealEngine(real_engine.data_dir, 1)
    try:
        await asyncio.to_thread(second.start)
        await plane.until(lambda: plane.replicas() == ("engine-0", "engine-1"), "joined")
        assert plane.world.held("engine-1", version).probe["verdict"] == "match"
    finally:
        await asyncio.to_thread(second.stop)
    await plane.until(lambda: plane.replicas() == ("engine-0",), "left")
    assert [e.name for e in plane.world.snapshot().endpoints] == ["engine-0"]
    await plane.until(lambda: plane.world.held("engine-1", version) is None, "forgotten")
