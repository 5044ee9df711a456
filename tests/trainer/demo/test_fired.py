from __future__ import annotations

from trainer.demo.fired import fired, in_words

COLLAPSE = {
    "kind": "inconclusive", "reason": "too little feedback: 6, 50 of the control so far, 20 are needed",
    "numbers": {"feedbacks": 6, "control_feedbacks": 50, "needed": 20, "alignment_tax": 0.7, "log_e": 1.5,
                "log_threshold": 9.2, "corroborators": {}}, "why": "too_little",
}  # fmt: skip
HARM = [
    {"metric": "thumbs_down", "log_e": 8.7, "threshold": 8.5, "n": 9}, {"metric": "error", "log_e": 0.0, "threshold": 8.5, "n": 0},
]  # fmt: skip
EVENTS = [
    {"kind": "moved", "numbers": {"findings": [{"metric": "reward", "test": "paired", "effect": 0.61}]}},
    {"kind": "rolled_back", "numbers": {"cause": "thumbs_down", "log_e": 8.7, "threshold": 8.5}},
]  # fmt: skip


def test_the_report_names_what_fired_and_what_the_others_had_seen():
    found = fired({"harm": HARM, "collapse": COLLAPSE}, EVENTS)
    assert (found["detector"], found["log_e"]) == ("attribution test on thumbs down", 8.7)
    assert list(found["others"]) == ["error"] and found["shadow_reward"] == 0.61
    assert (found["collapse"]["verdict"], found["collapse"]["feedbacks"]) == ("inconclusive", 6)
    told = in_words(found).splitlines()
    assert told[0] == "fired: attribution test on thumbs down (ln e 8.7, threshold 8.5)"
    assert told[2].startswith("collapse detector: inconclusive: too little feedback: 6")


def test_the_collapse_detector_can_be_the_one():
    found = fired({"harm": [], "collapse": {**COLLAPSE, "kind": "collapse"}}, [{"kind": "rolled_back", "numbers": {"cause": "collapse"}}])
    assert found["detector"].startswith("collapse detector") and in_words(found).startswith("fired: collapse detector")


def test_without_a_rollback_nothing_fired():
    found = fired({}, [{"kind": "promoted", "numbers": {}}])
    assert (found["detector"], found["cause"], found["collapse"]["verdict"]) == ("none", "", "none")
