from __future__ import annotations

import json
from dataclasses import replace

import pytest

from adapters.evidence_store import EvidenceStore
from adapters.rollout_store import RolloutStore
from adapters.rollouts import Phase, RolloutEvent
from gateway.rollout.evidence import Evidence
from gateway.rollout.incident import exists, incident_path, write_incident
from gateway.rollout.listing import as_json, event_json, where
from gateway.rollout.memory import Hold, HoldKind, Memory
from tests.support.records import Records
from tests.support.world import Clock


@pytest.fixture
def records(database) -> Records:
    return Records(database)


def test_a_listing_is_plain_json(records: Records):
    body = as_json(records.rollout)
    assert json.loads(json.dumps(body)) == body
    assert (body["phase"], body["step"], body["steps"], body["weight"]) == ("ramp", 1, 2, 0.2)
    assert where(body) == "ramp 1/2"
    held = replace(records.rollout, state=Memory(hold=Hold(HoldKind.OPERATOR, "lunch", 1.0)).to_state())
    assert where(as_json(held)) == "ramp 1/2, held (operator)"
    ended = replace(held, phase=Phase.ROLLED_BACK, ended_at=5.0)
    assert where(as_json(ended)) == "rolled_back"


def test_a_report_says_what_was_seen_and_what_to_do(records: Records, tmp_path):
    store, evidence_store = RolloutStore(records.database), EvidenceStore(records.database)
    responses = [records.error(records.candidate, unit) for unit in range(12)]
    evidence = Evidence(evidence_store, records.plan.judge_spec(0), Clock(1.0))
    evidence.read(records.course())
    harm = [{"metric": f.metric, "test": f.test, "verdict": f.verdict.value, "reason": f.reason, "log_e": f.log_e,
             "threshold": f.threshold, "n": f.n} for f in evidence.of[records.rollout.candidate].findings]  # fmt: skip
    event = RolloutEvent("rolled_back", "error: 12 of 12", numbers={"cause": "error", "log_e": 9.0})
    row = store.change(
        records.rollout, event, phase=Phase.ROLLED_BACK.value, ended_at=2000.0, state={"seen": {"harm": harm}}
    )
    folder = tmp_path / "incidents"
    assert not exists(folder, row)
    path = write_incident(folder, row, store, evidence_store)
    assert path == incident_path(folder, row) and exists(folder, row)
    text = path.read_text()
    assert "error: 12 of 12" in text and responses[-1] in text and f"adapter release {row.candidate}" in text
    assert "| error | " in text and "| fail |" in text and "1970-01-01 00:33:20 UTC" in text
    body = json.loads(path.with_suffix(".json").read_text())
    assert body["cause"] == "error" and len(body["samples"]) == 10 and body["timeline"][-1]["kind"] == "rolled_back"
    assert as_json(row, folder)["incident"] == str(path) and as_json(row)["incident"] == ""
    assert write_incident(folder, row, store, evidence_store) == path
    assert event_json(store.events(row.id)[-1])["numbers"]["log_e"] == 9.0
