"""Pushing, listing, archiving, deleting files: on both databases, several processes at once, killed at any point."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select, update

from adapters import tables
from adapters.errors import AdapterRejected, ArtifactError, ConfigError, Conflict, DatabaseError, NotFound
from adapters.fleet_store import FleetStore
from adapters.types import Holding, HoldingState, Kind, Stage
from tests.support import peft


def revision(database):
    return FleetStore(database).registry_revision()


def test_a_push_registers_a_version_and_its_route(registry, routes, artifacts, base, push):
    version = push(lineage={"run": "runs/1", "data": ["abc"]})
    assert version.name == f"support@{version.digest[:12]}"
    assert (version.stage, version.kind, version.rank) == (Stage.CANDIDATE, Kind.ADAPTER, 4)
    assert version.base_digest == base.digest
    assert version.lineage == {"run": "runs/1", "data": ["abc"], "pushed_by": "tests"}
    assert registry.get(version.name) == version
    assert [(e["stage"], e["actor"], e["reason"]) for e in registry.events(version.name)] == [
        ("candidate", "tests", "registered")
    ]
    assert routes.get("support").version is None
    artifacts.verify(version.digest)


def test_any_json_of_a_trainer_can_be_stored(registry, push):
    lineage = {"text": "half \ud800 and NUL \0 and 👍", "big": 2**70, "list": [None, True, 1e300], "": {}}
    version = push(lineage=lineage)
    assert registry.get(version.name).lineage == {**lineage, "pushed_by": "tests"}


def test_what_is_stored_is_what_an_engine_can_load(artifacts, base, push, tmp_path):
    """The stored folder is itself an adapter with the same digest."""
    from adapters.manifest import check_adapter

    version = push()
    stored = artifacts.materialise(version.digest)
    assert check_adapter(stored, base, max_rank=16).digest == version.digest


def test_the_same_bytes_are_the_same_version(registry, database, base, push, tmp_path):
    first = push()
    before = revision(database)
    again = registry.push(
        peft.write_adapter(tmp_path / "copy", base, base_model_name_or_path="/x"), "support", base=base, max_rank=16
    )
    assert again == first
    assert registry.list() == [first]
    assert len(registry.events(first.name)) == 1
    assert revision(database) == before


def test_the_same_weights_for_two_routes_share_their_files(registry, artifacts, push):
    one, two = push("a"), push("b")
    assert one.digest == two.digest
    assert one.name != two.name
    assert artifacts.list() == [one.digest]
    registry.archive(one.name)
    assert registry.delete_artifact_if_unused(one.digest) is False
    registry.archive(two.name)
    assert registry.delete_artifact_if_unused(one.digest) is True


def test_a_rejected_adapter_leaves_nothing(registry, routes, artifacts, adapter, base):
    with pytest.raises(AdapterRejected):
        registry.push(adapter, "support", base=base, max_rank=1)
    with pytest.raises(ConfigError, match="is not a route name"):
        registry.push(adapter, "Support", base=base, max_rank=16)
    assert registry.list() == []
    assert routes.list() == []
    assert artifacts.list() == []


def test_a_collision_of_twelve_digits_is_refused(registry, database, push):
    version = push()
    other = version.digest[:12] + "0" * 52
    with database.begin() as connection:
        connection.execute(update(tables.versions).values(digest=other))
    with pytest.raises(Conflict, match=f"names other weights \\(digest {other}\\)"):
        push()
    assert registry.get(version.name).digest == other


def test_archived_weights_do_not_come_back(registry, push):
    version = push()
    registry.archive(version.name, "me", "bad idea")
    with pytest.raises(Conflict, match="is archived: these very weights cannot be pushed again"):
        push()
    assert push("other").route == "other"


def test_quarantined_weights_stay_quarantined(registry, push):
    version = push()
    registry.quarantine(version.name, "guard", "NaN")
    assert push().stage is Stage.QUARANTINED
    assert registry.release(version.name, "me", "was a broken engine").stage is Stage.CANDIDATE


def test_list_and_get(registry, push):
    versions = [push(seed=1), push(seed=2), push("other", seed=3)]
    registry.archive(versions[0].name)
    assert [v.name for v in registry.list()] == [v.name for v in versions]
    assert [v.name for v in registry.list("other")] == [versions[2].name]
    assert [v.name for v in registry.list("support", Stage.CANDIDATE)] == [versions[1].name]
    assert registry.list("nowhere") == []
    with pytest.raises(NotFound, match="see `understudy adapter list`"):
        registry.get("support@0123456789ab")
    for name in ("support", "support@xyz", "", "support@0123456789AB", "support@0123456789ab\n"):
        with pytest.raises(ConfigError, match="is not a version"):
            registry.get(name)
    with pytest.raises(NotFound):
        registry.events("support@0123456789ab")


@pytest.mark.parametrize("state", list(HoldingState))
def test_files_stay_while_any_engine_process_may_read_them(registry, artifacts, database, push, state):
    version, fleet = push(), FleetStore(database)
    fleet.upsert_holding(Holding("engine-0", version.name, state, "boot", 0.0))
    assert registry.delete_artifact_if_unused(version.digest) is False
    registry.archive(version.name)
    assert registry.delete_artifact_if_unused(version.digest) is False
    artifacts.verify(version.digest)
    fleet.delete_holding("engine-0", version.name)
    assert registry.delete_artifact_if_unused(version.digest) is True
    assert not artifacts.exists(version.digest)
    assert registry.delete_artifact_if_unused(version.digest) is False


def test_collect_deletes_what_nobody_can_need(registry, artifacts, base, push, tmp_path):
    from adapters.manifest import check_adapter

    kept, archived = push(seed=1), push(seed=2)
    registry.archive(archived.name)
    orphan = check_adapter(peft.write_adapter(tmp_path / "o", base, seed=3), base, max_rank=16)
    artifacts.publish(orphan.digest, orphan.files)
    assert registry.collect() == 2
    assert artifacts.list() == [kept.digest]
    assert registry.collect() == 0


def test_a_deletion_between_storing_and_registering_is_noticed(registry, artifacts, push, monkeypatch):
    original, deleted = artifacts.publish, []

    def publish_then_lose(digest, files):
        original(digest, files)
        if len(deleted) < 2:
            deleted.append(digest)
            artifacts.delete(digest)

    monkeypatch.setattr(artifacts, "publish", publish_then_lose)
    version = push()
    artifacts.verify(version.digest)
    assert len(deleted) == 2


def test_pushing_and_collecting_at_once_loses_nothing(registry, artifacts, base, tmp_path):
    folders = [peft.write_adapter(tmp_path / f"p{n}", base, seed=n) for n in range(10)]
    stop = threading.Event()

    def collect():
        while not stop.is_set():
            registry.collect()

    collector = threading.Thread(target=collect)
    collector.start()
    pushed = []
    try:
        for folder in folders:
            while True:
                try:
                    pushed.append(registry.push(folder, "support", base=base, max_rank=16))
                    break
                except ArtifactError as error:
                    assert "push it later" in str(error)
    finally:
        stop.set()
        collector.join()
    assert len(registry.list()) == 10
    for version in pushed:
        artifacts.verify(version.digest)


def test_nothing_names_a_version_that_is_not_there(database, routes, push):
    """Foreign keys: a route cannot point at nothing, on either database."""
    push()
    with pytest.raises(DatabaseError), database.begin() as connection:
        connection.execute(update(tables.routes).values(version="support@000000000000"))
    with database.read() as connection:
        assert connection.execute(select(tables.routes.c.version)).scalar() is None
