"""Routes: names, targets, compare-and-swap, and two controllers or operators at once."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select

from adapters import tables
from adapters.errors import ConfigError, Conflict, NotFound
from adapters.fleet_store import FleetStore
from adapters.types import Holding, HoldingState, Kind, Route, Stage


def revision(database):
    with database.read() as connection:
        query = select(tables.revisions.c.value).where(tables.revisions.c.name == "registry")
        return connection.execute(query).scalar() or 0


def test_create_get_and_list(routes):
    assert routes.create("b", "second") == Route("b", "second")
    routes.create("a-1")
    assert [route.name for route in routes.list()] == ["a-1", "b"]
    assert routes.get("b").description == "second"
    with pytest.raises(Conflict, match="route b exists already"):
        routes.create("b")
    assert routes.create("b", exist_ok=True).description == "second"
    assert routes.create("b", "new words", exist_ok=True).description == "new words"


@pytest.mark.parametrize(
    "name", ["", "A", "a--b", "-a", "a-", "a_b", "a b", "a/b", "ä", "a\n", "auto", "base", "a" * 181, "../x", "a@b"]
)
def test_names(routes, name):
    with pytest.raises(ConfigError, match=r"is not a route name|is reserved"):
        routes.create(name)


def test_unknown_routes(routes):
    for use in (routes.get, routes.delete, routes.clear, routes.end_bake):
        with pytest.raises(NotFound, match="see `understudy route list`"):
            use("nowhere")
    with pytest.raises(NotFound):
        routes.set_target("nowhere", "nowhere@0123456789ab")


def test_from_target_to_version_to_previous(registry, routes, push):
    first, second = push(seed=1), push(seed=2)
    assert routes.set_target("support", first.name).target == first.name
    route = routes.commit_target("support", bake_seconds=60, now=1000.0)
    assert (route.version, route.target, route.previous, route.bake_until) == (first.name, None, None, 0.0)
    assert registry.get(first.name).stage is Stage.RELEASED
    routes.set_target("support", second.name)
    route = routes.commit_target("support", bake_seconds=60, now=1000.0)
    assert (route.version, route.previous, route.bake_until) == (second.name, first.name, 1060.0)
    route = routes.end_bake("support")
    assert (route.previous, route.bake_until) == (None, 0.0)


def test_a_failed_target_leaves_what_is_served(routes, push):
    first, second = push(seed=1), push(seed=2)
    routes.set_target("support", first.name)
    routes.commit_target("support", 60, 0)
    routes.set_target("support", second.name)
    route = routes.fail_target("support", "engine-0 refused it")
    assert (route.version, route.target, route.error) == (first.name, None, f"{second.name}: engine-0 refused it")
    assert routes.set_target("support", second.name).error == ""
    with pytest.raises(Conflict, match="no target"):
        routes.commit_target("support", 0, 0)
        routes.commit_target("support", 0, 0)
    with pytest.raises(Conflict, match="no target"):
        routes.fail_target("support", "x")


def test_asking_for_what_is_served_withdraws_the_target(routes, push):
    first, second = push(seed=1), push(seed=2)
    routes.set_target("support", first.name)
    routes.commit_target("support", 60, 0)
    routes.set_target("support", second.name)
    assert routes.set_target("support", first.name).target is None


def test_clear_serves_the_base(routes, push):
    version = push()
    routes.set_target("support", version.name)
    routes.commit_target("support", 60, 0)
    route = routes.clear("support", bake_seconds=5, now=10)
    assert (route.version, route.target, route.previous, route.bake_until) == (None, None, version.name, 15)
    assert routes.clear("support").previous is None


def test_what_may_be_a_target(database, registry, routes, push):
    version, other = push(seed=1), push("other", seed=2)
    reward = push(seed=3, kind=Kind.REWARD_MODEL)
    with pytest.raises(Conflict, match="was pushed for route other: push it with --route support"):
        routes.set_target("support", other.name)
    with pytest.raises(Conflict, match="is a reward model"):
        routes.set_target("support", reward.name)
    with pytest.raises(NotFound):
        routes.set_target("support", "support@0123456789ab")
    with pytest.raises(ConfigError, match="is not a version"):
        routes.set_target("support", "support")
    registry.quarantine(version.name, reason="NaN in its answers")
    with pytest.raises(Conflict, match=r"is quarantined \(NaN in its answers\): release it first"):
        routes.set_target("support", version.name)
    registry.release(version.name, reason="looked at it")
    routes.set_target("support", version.name)
    registry.quarantine(version.name)
    with pytest.raises(Conflict, match="is quarantined"):
        routes.commit_target("support", 0, 0)


def test_compare_and_swap(routes, push):
    version = push()
    seen = routes.get("support").generation
    routes.set_target("support", version.name, expected_generation=seen)
    for use in (
        lambda: routes.set_target("support", version.name, expected_generation=seen),
        lambda: routes.commit_target("support", 0, 0, expected_generation=seen),
        lambda: routes.fail_target("support", "x", expected_generation=seen),
        lambda: routes.end_bake("support", expected_generation=seen),
        lambda: routes.clear("support", expected_generation=seen),
    ):
        with pytest.raises(Conflict, match="changed meanwhile"):
            use()


def test_of_many_operators_with_the_same_view_one_wins(routes, push):
    version, outcomes = push(), []
    seen = routes.get("support").generation

    def try_it():
        try:
            routes.set_target("support", version.name, expected_generation=seen)
            outcomes.append("won")
        except Conflict:
            outcomes.append("lost")

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]
    assert routes.get("support").generation == seen + 1


def test_archiving_and_targeting_at_once_never_leave_an_archived_target(registry, routes, push):
    for seed in range(6):
        version = push(seed=seed)
        errors = []

        def attempt(action, errors=errors):
            try:
                action()
            except Conflict as error:
                errors.append(str(error))

        actions = [lambda v=version: registry.archive(v.name), lambda v=version: routes.set_target("support", v.name)]
        threads = [threading.Thread(target=attempt, args=(action,)) for action in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        archived = registry.get(version.name).stage is Stage.ARCHIVED
        assert archived != (routes.get("support").target == version.name)
        assert len(errors) == 1


def test_every_change_is_announced(database, routes, push):
    version = push()
    routes.create("other")
    changes = [
        lambda: routes.set_target("support", version.name),
        lambda: routes.commit_target("support", 60, 0),
        lambda: routes.clear("support"),
        lambda: routes.create("more"),
        lambda: routes.delete("other"),
    ]
    for change in changes:
        before = revision(database)
        change()
        assert revision(database) > before


def test_delete_only_when_nothing_is_left(database, registry, routes, push):
    version = push()
    routes.set_target("support", version.name)
    with pytest.raises(Conflict, match=f"still uses {version.name}: `understudy route set support base` first"):
        routes.delete("support")
    routes.clear("support")
    with pytest.raises(Conflict, match="archive its versions first"):
        routes.delete("support")
    registry.archive(version.name)
    FleetStore(database).upsert_holding(Holding("engine-0", version.name, HoldingState.READY, "boot", 0.0))
    with pytest.raises(Conflict, match="is still loaded on engine-0"):
        routes.delete("support")
    FleetStore(database).upsert_holding(Holding("engine-0", version.name, HoldingState.UNLOADED, "boot", 0.0))
    routes.delete("support")
    assert routes.list() == []
    assert registry.get(version.name).stage is Stage.ARCHIVED  # history stays
