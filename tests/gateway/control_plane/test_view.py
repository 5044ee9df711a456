from __future__ import annotations

import pytest

from gateway.control_plane.publish import AssignmentKey
from gateway.control_plane.view import Reader, Writer
from tests.support.world import World


async def test_it_reads_again_only_after_changes(world: World):
    version = world.push()
    reader = Reader(world.stores)
    first = await reader.view()
    assert [route.name for route in first.routes] == ["r"] and first.versions == {}
    assert await reader.view() is first
    world.routes.set_target("r", version)
    second = await reader.view()
    assert set(second.versions) == {version} and second.routes[0].target == version
    assert await reader.view() is second


async def test_asked_for_versions_are_in_it_and_unknown_ones_are_not(world: World):
    version = world.push()
    view = await Reader(world.stores).view([version, "r@000000000000", "nonsense"])
    assert set(view.versions) == {version}


async def test_assignments_are_made_once(world: World, monkeypatch):
    writer, key = Writer(world.fleet), AssignmentKey("r", "r@000000000001", "stable")
    first = (await writer.assignments([key]))[key]
    assert world.fleet.assignments_by_id(first)["share"] == 1.0
    monkeypatch.setattr(world.fleet, "assignment", pytest.fail)
    assert (await writer.assignments([key]))[key] == first
