from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from adapters.errors import DatabaseError
from adapters.types import Holding, HoldingState
from gateway.engines import agent as agent_module
from gateway.engines.agent import ReplicaAgent
from gateway.engines.client import EngineClient
from gateway.engines.reconcile import Assigned, Desired
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import eventually


class Rows:
    """A HoldingStore that remembers the order of writes, and can be lost."""

    def __init__(self, engine: FakeEngine) -> None:
        self.rows: dict[str, Holding] = {}
        self.lost = False
        self._engine = engine

    async def upsert_holding(self, holding: Holding) -> None:
        if self.lost:
            raise DatabaseError("gone")
        self.rows[holding.version] = holding
        self._engine.calls.append((f"row {holding.state.value}", holding.version))

    async def delete_holding(self, replica: str, version: str) -> None:
        if self.lost:
            raise DatabaseError("gone")
        self.rows.pop(version, None)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def rows(engine: FakeEngine) -> Rows:
    return Rows(engine)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def agent(engine: FakeEngine, rows: Rows, clock: Clock):
    client = EngineClient(engine.url)
    made = ReplicaAgent("e0", client, rows, base="base", slots=(4, 8), clock=clock)
    made.desired = Desired()
    yield made
    await client.aclose()


def want(agent: ReplicaAgent, *assigned: Assigned, **more) -> None:
    agent.desired = Desired(assigned, **more)


async def test_everything_assigned_is_brought_up_in_order(engine, agent, rows, make):
    want(agent, make(2), make(1))
    await agent.step()
    assert [call for call in engine.calls if call[0] != "row ready"] == [
        ("row loading", make(2).version), ("load", make(2).version),
        ("row loading", make(1).version), ("load", make(1).version),
    ]  # fmt: skip
    assert agent.ready(make(1).version) and agent.ready(make(2).version)
    assert rows.rows[make(1).version].probe["verdict"] == "match"
    engine.calls.clear()
    await agent.step()
    assert engine.calls == []


async def test_nothing_is_loaded_when_it_cannot_be_recorded(engine, agent, rows, make):
    rows.lost = True
    want(agent, make(1))
    with pytest.raises(DatabaseError):
        await agent.step()
    assert engine.calls == []
    rows.lost = False
    await agent.step()
    assert agent.ready(make(1).version)


async def test_an_eviction_behind_our_back_is_mended(engine, agent, make):
    want(agent, make(1))
    await agent.step()
    engine.adapters.clear()
    await agent.step()
    assert agent.ready(make(1).version) and engine.loads(make(1).version) == 2


async def test_a_restart_is_noticed_and_made_up_for(engine, agent, rows, make):
    want(agent, make(1), make(2))
    await agent.step()
    first = agent.seen.boot
    engine.restart()
    await agent.step()
    assert agent.seen.boot != first
    assert set(engine.adapters) == {make(1).version, make(2).version}
    assert {row.boot for row in rows.rows.values()} == {agent.seen.boot}


async def test_an_idle_engines_restart_is_noticed_within_seconds(engine, agent, clock):
    await agent.step()
    first = agent.seen.boot
    engine.restart()
    await agent.step()
    clock.now += agent_module.METRICS_EVERY
    await agent.step()
    assert agent.seen.boot != first


async def test_down_and_back(engine, agent, make):
    want(agent, make(1))
    await agent.step()
    engine.stop()
    await agent.step()
    assert not agent.replica.up and "cannot be reached" in agent.replica.error
    assert not agent.ready(make(1).version) and not agent.usable
    engine.start()
    await agent.step()
    assert agent.replica.up and agent.replica.error == "" and agent.ready(make(1).version)


async def test_a_dead_engine_behind_a_living_server_is_down(engine, agent):
    await agent.step()
    engine.misbehave.dead = True
    await agent.step()
    assert not agent.usable


async def test_one_stall_is_not_an_outage_but_two_are(engine, agent):
    await agent.step()
    engine.misbehave.hang = True
    patient = agent.client  # its five seconds are for when there is an answer
    async with EngineClient(engine.url, patience=0.2) as agent.client:
        await agent.step()
        assert agent.usable
        await agent.step()
    assert not agent.usable and "no answer in time" in agent.replica.error
    engine.misbehave.hang = False
    agent.client = patient
    await agent.step()
    assert agent.usable


async def test_failures_back_off_and_are_counted(engine, agent, rows, clock, make):
    version = make(1).version
    engine.misbehave.ignore.add(version)
    want(agent, make(1))
    for attempt, wait in ((1, 0.5), (2, 1.0), (3, 2.0)):
        await agent.step()
        await agent.step()  # not again before its time
        assert (engine.loads(version), agent.tries.failures[version]) == (attempt, attempt)
        assert rows.rows[version].state is HoldingState.FAILED
        clock.now += wait - 0.01
        await agent.step()
        assert engine.loads(version) == attempt
        clock.now += 0.02
    engine.misbehave.ignore.clear()
    await agent.step()
    assert agent.ready(version) and agent.tries.failures == {}


async def test_a_failing_version_does_not_hold_up_the_others(engine, agent, make):
    engine.misbehave.refuse[make(1).version] = (500, "no")
    want(agent, make(1), make(2))
    await agent.step()
    assert agent.ready(make(2).version) and not agent.ready(make(1).version)


async def test_nan_takes_the_replica_out_until_it_restarts(engine, agent, make):
    want(agent, make(1))
    await agent.step()
    engine.misbehave.nan.add(make(2).version)
    want(agent, make(1), make(2))
    await agent.step()
    assert not agent.usable and not agent.ready(make(1).version)
    assert agent.poison.version == make(2).version
    assert "NaN" in agent.replica.error and agent.replica.up
    engine.calls.clear()
    await agent.step()
    assert engine.calls == []
    engine.misbehave.nan.clear()
    engine.restart()
    want(agent, make(1))
    await agent.step()
    assert agent.usable and agent.ready(make(1).version)


async def test_retirement_waits_for_requests_in_flight(engine, agent, rows, make):
    version = make(1).version
    want(agent, make(1))
    await agent.step()
    want(agent, routed=frozenset({version}))
    await agent.step()
    assert version in engine.adapters
    engine.misbehave.in_use = {version}
    want(agent)
    await agent.step()
    assert version in engine.adapters
    engine.misbehave.in_use = set()
    await agent.step()
    assert version not in engine.adapters
    assert rows.rows[version].state is HoldingState.UNLOADED
    engine.restart()
    await agent.step()
    await agent.step()
    agent._metrics_at = 0.0
    await agent.step()
    assert rows.rows == {}  # the process that read the files is gone


async def test_a_process_known_to_be_gone_holds_nothing(engine, agent, rows, make):
    want(agent, make(1))
    await agent.step()
    engine.stop()
    agent.away("stopped")
    await agent.gone()
    assert rows.rows == {} and not agent.usable


async def test_rechecking_keeps_traffic_unless_it_fails(engine, agent, rows, make):
    version = make(1).version
    want(agent, make(1))
    await agent.step()
    engine.calls.clear()
    agent.recheck(version)
    await agent.step()
    assert engine.calls == [("row ready", version)]
    engine.misbehave.ignore.add(version)
    agent.recheck(version)
    await agent.step()
    assert rows.rows[version].state is HoldingState.FAILED and version not in engine.adapters


async def test_a_controller_that_starts_again_trusts_what_is_recorded(engine, agent, rows, clock, make):
    want(agent, make(1))
    await agent.step()
    engine.calls.clear()
    client = EngineClient(engine.url)
    next_agent = ReplicaAgent("e0", client, rows, base="base", slots=(4, 8), clock=clock, holdings=rows.rows)
    next_agent.desired = Desired((make(1),))
    await next_agent.step()
    assert next_agent.ready(make(1).version) and engine.calls == []
    await client.aclose()


async def test_a_load_that_was_cut_off_is_finished(engine, agent, rows, clock, make):
    version = make(1).version
    await agent.step()
    engine.adapters[version] = make(1).path
    agent.holdings[version] = Holding("e0", version, HoldingState.LOADING, agent.seen.boot, 0.0)
    want(agent, make(1))
    await agent.step()
    assert agent.ready(version) and engine.loads(version) == 0


async def test_an_engine_with_another_base_name_is_not_used(engine, agent):
    engine.base = "llama"
    await agent.step()
    assert not agent.usable and "serves llama, not 'base'" in agent.replica.error


async def test_an_engine_that_dies_while_loading(engine, agent, rows, make):
    engine.misbehave.slow = 20.0
    want(agent, make(1))
    stepping = asyncio.create_task(agent.step())
    await eventually(lambda: engine.loading)
    await asyncio.to_thread(engine.stop)
    await stepping
    assert not agent.usable and rows.rows[make(1).version].state is HoldingState.LOADING
    assert agent.tries.failures == {}  # it says nothing about the version
    engine.misbehave.slow = 0.0
    engine.start()
    await agent.step()
    assert agent.ready(make(1).version)


async def test_other_peoples_slots_limit_ours(engine, agent, make):
    engine.adapters = {f"other-{n}": "/x" for n in range(8)}
    want(agent, make(1))
    await agent.step()
    assert engine.loads(make(1).version) == 0
    engine.adapters.pop("other-0")
    await agent.step()
    assert agent.ready(make(1).version)


async def test_the_engines_own_limit_counts_where_it_is_lower(agent):
    agent._slots = (16, 32)
    await agent.step()
    assert agent.slots == (4, 32)


def test_a_holding_of_another_boot_is_not_ready(agent):
    agent.holdings = {"r@000000000001": Holding("e0", "r@000000000001", HoldingState.READY, "old", 0.0)}
    agent.seen = replace(agent.seen, up=True, boot="new")
    assert not agent.ready("r@000000000001")
