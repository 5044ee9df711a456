"""Thresholds and actions: the most special setting holds; what is not exactly a verdict is none."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.data_plane.screening.policy import Judged, Rules, compile_policy
from gateway.data_plane.screening.results import read_results
from gateway.screening_settings import ScreeningSettings
from monitors.labels import Verdict


def settings(**options: Any) -> ScreeningSettings:
    return ScreeningSettings(**{"mode": "enforce", "url": "http://guard", **options})


def rules(route: str = "support", direction: str = "response", **options: Any) -> Rules:
    policy = compile_policy(settings(**options), route)
    assert policy is not None
    found = getattr(policy, direction)
    assert isinstance(found, Rules)
    return found


def test_thresholds_and_actions_of_categories() -> None:
    found = rules(threshold=0.5, thresholds={"S6": 0.9}, actions={"S5": "allow", "S3": "audit", "injection": "audit"})
    for score, label, verdict, blocks in (
        (0.4, "S1", Verdict.SAFE, False), (0.6, "S1", Verdict.UNSAFE, True), (0.6, "S6", Verdict.SAFE, False),
        (0.95, "S6", Verdict.UNSAFE, True), (0.99, "S5", Verdict.SAFE, False), (0.99, "S3", Verdict.UNSAFE, False),
    ):  # fmt: skip
        ruling = found.rule(Judged(score, {label: score}))
        assert (ruling.verdict, ruling.blocks) == (verdict, blocks), label
    both = found.rule(Judged(0.99, {"S3": 0.99, "S1": 0.6}))
    assert both.blocks and both.category == "S1"  # what blocks goes first
    assert found.rule(Judged(0.8)).category == "unnamed" and found.rule(Judged(0.8)).blocks
    assert found.rule(Judged(0.9, {"S6": 0.7})).category == "unnamed"  # some part is worse than the named one


def test_the_most_special_setting_holds() -> None:
    options: dict[str, Any] = {
        "threshold": 0.5, "thresholds": {"S1": 0.6}, "response": {"threshold": 0.7, "actions": {"S2": "audit"}},
        "routes": {
            "support": {"threshold": 0.8, "response": {"thresholds": {"S1": 0.95}, "on_unavailable": "allow"}},
            "off": {"mode": "off"}, "audited": {"mode": "audit", "directions": ["response"], "refusal": "error"},
        },
    }  # fmt: skip
    prompt, response = rules(direction="prompt", **options), rules(direction="response", **options)
    assert (prompt.threshold, prompt.thresholds, prompt.blocks_missing) == (0.8, {"S1": 0.6}, True)
    assert (response.threshold, response.thresholds, response.blocks_missing) == (0.8, {"S1": 0.95}, False)
    assert rules("other", "response", **options).threshold == 0.7
    assert rules("other", "response", **options).actions == {"S2": "audit"}
    assert compile_policy(settings(**options), "off") is None
    audited = compile_policy(settings(**options), "audited")
    assert audited is not None and audited.prompt is None and audited.refuse_with_error
    assert audited.response is not None and not audited.response.rule(Judged(1.0)).blocks
    assert settings(**options).lowest_threshold == 0.5


def test_one_route_can_be_screened_alone() -> None:
    alone = settings(mode="off", routes={"support": {"mode": "enforce"}})
    assert alone.active and compile_policy(alone, "support") is not None and compile_policy(alone, "other") is None
    with pytest.raises(ValidationError, match="needs model"):
        ScreeningSettings(routes={"support": {"mode": "audit"}})


@pytest.mark.parametrize("label", ["s1", "S0", "violence", "S100", ""])
def test_a_category_that_is_none(label: str) -> None:
    with pytest.raises(ValidationError, match="is no category: write S1"):
        settings(thresholds={label: 0.5})
    with pytest.raises(ValidationError, match="is no category"):
        settings(routes={"r": {"prompt": {"actions": {label: "allow"}}}})


def test_missing_verdicts() -> None:
    away = Judged(unavailable=True, reason="gone", away=True)
    ruling = rules().rule(away)
    assert (ruling.verdict, ruling.blocks, ruling.away) == (Verdict.UNAVAILABLE, True, True)
    assert not rules(on_unavailable="allow").rule(away).blocks
    assert not rules(mode="audit").rule(away).blocks
    assert rules().rule(Judged(0.9, {"S1": 0.9}, unavailable=True)).verdict is Verdict.UNSAFE  # the other part is enough
    assert rules().rule(Judged(0.1, {}, unavailable=True)).verdict is Verdict.UNAVAILABLE


ROW = {"id": "0", "unsafe": False, "score": 0.1, "categories": [], "unavailable": False, "reason": "", "scores": {}}


def test_a_result_is_read() -> None:
    row = ROW | {"unsafe": True, "score": 1, "scores": {"S1": 0.9, "injection": 0.2, "<script>": 0.3, "x": 0.4}}
    found = read_results(json.dumps({"results": [row]}).encode(), 1)
    assert found is not None
    assert (found[0].score, found[0].scores) == (1.0, {"S1": 0.9, "injection": 0.2, "other": 0.4})
    away = read_results(json.dumps({"results": [ROW | {"unavailable": True, "score": None, "reason": "x" * 999}]}).encode(), 1)
    assert away is not None and away[0].unavailable and len(away[0].reason) == 300 and not away[0].away


@pytest.mark.parametrize("change", [
    {"id": "1"}, {"id": 0}, {"score": None}, {"score": 1.5}, {"score": "0.1"}, {"score": True}, {"score": math.nan},
    {"unavailable": 0}, {"unsafe": "no"}, {"scores": []}, {"scores": {"S1": 2}}, {"scores": {"S1": None}},
])  # fmt: skip
def test_what_is_not_exactly_a_result_is_none(change: dict[str, Any]) -> None:
    assert read_results(json.dumps({"results": [ROW | change]}).encode(), 1) is None


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"results": {}}', b'{"results": []}', b'{"results": [1]}',
                                  b"<html>", json.dumps({"results": [ROW, ROW]}).encode()])  # fmt: skip
def test_rubbish_is_no_answer(body: bytes) -> None:
    assert read_results(body, 1) is None
