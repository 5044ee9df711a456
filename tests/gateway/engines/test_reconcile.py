from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.types import Holding, HoldingState
from gateway.engines.reconcile import Assigned, BringUp, Desired, Forget, Note, Observation, Unload, plan

A, B, C = (f"r@{n:012x}" for n in (1, 2, 3))
BOOT = "b1"


def path(version: str) -> str:
    return f"/artifacts/{version}"


def seen(*adapters: str, in_use: tuple[str, ...] = (), up: bool = True, **elsewhere: str) -> Observation:
    return Observation(up, BOOT, {v: path(v) for v in adapters} | elsewhere, frozenset(in_use), len(in_use))


def held(version: str, state: HoldingState, boot: str = BOOT, **probe) -> Holding:
    return Holding("e0", version, state, boot, 0.0, "", probe)


def desired(*versions: str, **more) -> Desired:
    return Desired(tuple(Assigned(v, path(v)) for v in versions), **more)


def holdings(*items: Holding) -> dict[str, Holding]:
    return {item.version: item for item in items}


def kinds(steps) -> list[tuple[type, str]]:
    return [(type(s), s.assigned.version if isinstance(s, BringUp) else s.version) for s in steps]


READY, LOADING, FAILED = HoldingState.READY, HoldingState.LOADING, HoldingState.FAILED
UNLOADED, REFUSED = HoldingState.UNLOADED, HoldingState.REFUSED


def test_nothing_to_do():
    assert plan(seen(A), holdings(held(A, READY)), desired(A)) == []
    assert plan(seen(), {}, desired()) == []


def test_loads_come_one_at_a_time_and_in_order():
    assert kinds(plan(seen(), {}, desired(B, A))) == [(BringUp, B)]
    assert kinds(plan(seen(B), holdings(held(B, READY)), desired(B, A))) == [(BringUp, A)]


@pytest.mark.parametrize("state", [None, LOADING, FAILED, UNLOADED])
def test_whatever_the_row_says_what_is_not_ready_is_brought_up(state):
    rows = holdings(held(A, state)) if state else {}
    assert (BringUp, A) in kinds(plan(seen(A), rows, desired(A)))
    assert (BringUp, A) in kinds(plan(seen(), rows, desired(A)))


def test_one_that_waits_for_another_try_does_not_stop_the_next():
    assert kinds(plan(seen(), {}, desired(A, B), frozenset({A}))) == [(BringUp, B)]


def test_an_evicted_adapter_loses_its_traffic_and_comes_back():
    steps = plan(seen(), holdings(held(A, READY)), desired(A))
    assert kinds(steps) == [(Note, A), (BringUp, A)]
    assert steps[0].state is FAILED and "no longer lists" in steps[0].error


def test_a_restart_forgets_what_the_process_before_held():
    steps = plan(seen(), holdings(held(A, READY, "b0"), held(B, UNLOADED, "b0")), desired(A))
    assert kinds(steps) == [(Forget, A), (Forget, B), (BringUp, A)]


def test_retired_versions_leave_once_nobody_can_use_them():
    rows = holdings(held(A, READY))
    assert kinds(plan(seen(A), rows, desired())) == [(Unload, A)]
    assert plan(seen(A), rows, desired(routed=frozenset({A}))) == []
    assert plan(seen(A, in_use=(A,)), rows, desired()) == []
    assert kinds(plan(seen(A, in_use=(B,)), rows, desired())) == [(Unload, A)]


def test_what_is_gone_from_the_list_is_kept_as_unloaded():
    for state in (READY, LOADING, FAILED):
        assert kinds(plan(seen(), holdings(held(A, state)), desired())) == [(Note, A)]
    assert plan(seen(), holdings(held(A, UNLOADED)), desired()) == []


def test_a_name_loaded_from_elsewhere_is_not_ours():
    steps = plan(seen(**{A: "/somewhere/else"}), {}, desired(A))
    assert kinds(steps) == [(Unload, A), (BringUp, A)]
    assert "/somewhere/else" in steps[0].error


def test_other_peoples_adapters_stay_but_take_slots():
    foreign = Observation(True, BOOT, {"my-lora": "/x", "other": "/y"})
    assert plan(foreign, {}, desired(max_cpu_loras=4)) == []
    assert kinds(plan(foreign, {}, desired(A, max_cpu_loras=3))) == [(BringUp, A)]
    assert plan(foreign, {}, desired(A, max_cpu_loras=2)) == []


def test_no_load_beyond_the_slots_until_one_is_free():
    full = seen(A, B, in_use=(B,))
    rows = holdings(held(A, READY), held(B, READY))
    assert plan(full, rows, desired(A, C, max_cpu_loras=2)) == []
    assert kinds(plan(seen(A, B), rows, desired(A, C, max_cpu_loras=2))) == [(Unload, B), (BringUp, C)]


def test_refusals_are_written_once_and_taken_back():
    refused = {C: "no free slot"}
    steps = plan(seen(), {}, desired(refused=refused))
    assert kinds(steps) == [(Note, C)] and steps[0].state is REFUSED
    row = Holding("e0", C, REFUSED, BOOT, 0.0, "no free slot")
    assert plan(seen(), holdings(row), desired(refused=refused)) == []
    assert kinds(plan(seen(), holdings(row), desired())) == [(Forget, C)]


@pytest.mark.parametrize("state", [FAILED, LOADING, UNLOADED])
def test_what_may_have_been_read_stays_on_record_when_refused(state):
    """A row that says the process may hold the files must not become one that says it does not."""
    steps = plan(seen(), holdings(held(C, state)), desired(refused={C: "no free slot"}))
    assert all(s.state is UNLOADED for s in steps)


@pytest.mark.parametrize("rows", [{}, holdings(held(A, REFUSED))])
def test_what_somebody_else_loaded_is_on_record_while_it_drains(rows):
    steps = plan(seen(A, in_use=(A,)), rows, desired())
    assert kinds(steps) == [(Note, A)] and steps[0].state is UNLOADED
    assert plan(seen(A, in_use=(A,)), holdings(held(A, UNLOADED)), desired()) == []


def test_a_replica_that_is_down_is_left_alone():
    rows = holdings(held(A, READY, "b0"))
    assert plan(seen(up=False), rows, desired(A)) == []


def test_a_poisoned_replica_is_left_alone_until_it_restarts():
    rows = holdings(held(A, FAILED, verdict="non_finite", blame=A), held(B, READY))
    assert plan(seen(A, B), rows, desired(B, C)) == []
    restarted = Observation(True, "b2", {})
    assert kinds(plan(restarted, rows, desired(B))) == [(Forget, A), (Forget, B), (BringUp, B)]


def test_while_nothing_is_decided_nothing_is_unloaded():
    assert plan(seen(A), holdings(held(A, READY)), Desired(hold=True)) == []


def test_rechecking_does_not_wait_for_a_reason():
    rows = holdings(held(A, READY), held(B, READY))
    assert kinds(plan(seen(A, B), rows, desired(A, B, recheck=frozenset({B})))) == [(BringUp, B)]


VERSIONS = st.sampled_from([A, B, C, "r@000000000004", "r@000000000005"])


@given(
    st.lists(VERSIONS, unique=True),
    st.dictionaries(VERSIONS, st.tuples(st.sampled_from(HoldingState), st.sampled_from(["b0", BOOT]))),
    st.lists(VERSIONS, unique=True),
    st.sets(VERSIONS),
    st.integers(1, 4),
)
@settings(max_examples=300, deadline=None)
def test_carrying_the_steps_out_leads_to_what_is_desired(listed, rows, wanted, routed, slots):
    """From any state, with an engine that obeys: every assigned version ends up ready, nothing else is loaded."""
    wanted = wanted[:slots]
    loaded = {v: path(v) for v in listed}
    current = {v: held(v, state, boot) for v, (state, boot) in rows.items()}
    ever_read = set(loaded)
    for rounds in range(40):
        keep = frozenset(routed) if rounds < 20 else frozenset()
        steps = plan(Observation(True, BOOT, dict(loaded)), current, desired(*wanted, routed=keep, max_cpu_loras=slots))
        if not steps and not keep:
            break
        for step in steps:
            if isinstance(step, Forget):
                gone = current[step.version]
                assert gone.boot != BOOT or (gone.state is REFUSED and gone.version not in ever_read)
                del current[step.version]
            elif isinstance(step, Note):
                current[step.version] = held(step.version, step.state)
            elif isinstance(step, Unload):
                assert step.version not in keep
                del loaded[step.version]
                current[step.version] = held(step.version, UNLOADED)
            else:
                version = step.assigned.version
                loaded[version] = path(version)
                ever_read.add(version)
                current[version] = held(version, READY)
                assert len(loaded) <= max(slots, len(listed))
    assert steps == []
    assert set(loaded) == set(wanted)
    assert all(current[v].state is READY for v in wanted)
    assert ever_read <= set(current), "a version whose files this process may read has no row"
