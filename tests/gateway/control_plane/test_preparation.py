from __future__ import annotations

import shutil
import threading

import pytest

from gateway.control_plane import preparation as module
from gateway.control_plane.preparation import Preparation
from tests.support.peft import lora_tensors, write_adapter
from tests.support.waiting import eventually
from tests.support.world import World


@pytest.fixture
def preparation(world: World) -> Preparation:
    return Preparation(world.stores.artifacts, world.clock)


async def test_it_is_prepared_in_the_background(world: World, preparation: Preparation):
    version = world.registry.get(world.push())
    assert preparation.get(version) is None
    await preparation.settle()
    assigned = preparation.get(version)
    assert assigned.path == world.stores.artifacts.local_path(version.digest)
    assert assigned.probes is not None and assigned.changes_nothing is False
    assert preparation.error(version.name) == ""


async def test_a_version_of_another_base_is_refused(world: World):
    version = world.registry.get(world.push())
    own, other = (Preparation(world.stores.artifacts, world.clock, f"base@{d[:12]}") for d in (version.base_digest, "f" * 64))
    for preparation in (own, other):
        preparation.get(version)
        await preparation.settle()
    assert own.get(version) is not None and own.error(version.name) == ""
    assert other.get(version) is None and "the engines serve base@ffffffffffff" in other.error(version.name)


async def test_a_slow_store_holds_up_nobody(world: World, preparation: Preparation, monkeypatch):
    slow, quick = world.registry.get(world.push(seed=1)), world.registry.get(world.push(seed=2))
    whole, go_on = world.stores.artifacts.local_path, threading.Event()

    def delayed(digest: str) -> str:
        if digest == slow.digest:
            assert go_on.wait(60)
        return whole(digest)

    monkeypatch.setattr(world.stores.artifacts, "local_path", delayed)
    preparation.get(slow)
    preparation.get(quick)
    await eventually(lambda: preparation.get(quick))
    assert preparation.get(slow) is None
    go_on.set()
    await preparation.settle()
    assert preparation.get(slow) is not None


async def test_missing_files_are_an_error_and_tried_again(world: World, preparation: Preparation):
    version = world.registry.get(world.push())
    folder = world.stores.artifacts.materialise(version.digest)
    away = shutil.move(folder, folder.with_suffix(".away"))
    preparation.get(version)
    await preparation.settle()
    assert preparation.get(version) is None and "push it again" in preparation.error(version.name)
    shutil.move(away, folder)
    preparation.get(version)
    await preparation.settle()
    assert preparation.get(version) is None  # not before its time
    world.clock.now += module.RETRY_AFTER
    preparation.get(version)
    await preparation.settle()
    assert preparation.get(version) is not None and preparation.error(version.name) == ""


async def test_files_that_an_engine_could_not_load_are_looked_at_again(world: World, preparation: Preparation):
    version = world.registry.get(world.push())
    preparation.get(version)
    await preparation.settle()
    shutil.rmtree(world.stores.artifacts.materialise(version.digest))
    assert preparation.get(version) is not None
    preparation.again(version.name, "e0 1")
    preparation.again(version.name, "e0 1")  # the same failure once
    preparation.get(version)
    await preparation.settle()
    assert preparation.get(version) is None and preparation.error(version.name)


async def test_adapters_that_change_nothing_are_known(world: World, preparation: Preparation):
    tensors = lora_tensors(world.base, ("q_proj",), 4)
    zeroed = {name: value * 0 if "lora_B" in name else value for name, value in tensors.items()}
    for number, (weights, expected) in enumerate([(zeroed, True), (tensors, False)]):
        folder = write_adapter(world.folder / f"plain-{number}", world.base, targets=("q_proj",), tensors=weights)
        version = world.registry.push(folder, "plain", base=world.base, max_rank=16)
        preparation.get(version)
        await preparation.settle()
        assert preparation.get(version).changes_nothing is expected and preparation.get(version).probes is None


async def test_what_is_not_wanted_is_forgotten(world: World, preparation: Preparation):
    version = world.registry.get(world.push())
    preparation.get(version)
    await preparation.settle()
    preparation.retain(set())
    assert preparation.get(version) is None
    await preparation.settle()
