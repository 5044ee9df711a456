import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors import conventions as c
from monitors.labels import ScreeningStage, Verdict
from monitors.merged_values import merge
from monitors.metrics import Recorder
from monitors.shared_values import SharedValues

CALL = ("support", "support@0123456789ab", "stable", "chat")


def merged(directory: Path) -> dict[str, dict[tuple[str, ...], list[float]]]:
    return {metric.name: dict(series) for metric, series in merge(directory)}


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(SharedValues(tmp_path), "0.1.0")


def count_of(histogram: list[float]) -> float:
    return sum(histogram[:-1])


def test_a_streamed_request_is_counted_everywhere(tmp_path: Path, recorder: Recorder) -> None:
    metrics = recorder.child(*CALL)
    metrics.started()
    assert merged(tmp_path)["requests_in_flight"] == {("support",): [1]}
    metrics.finished(200, c.Outcome.OK, 1.1, 0.1, 11, 20, 0.0002)
    found = merged(tmp_path)
    assert found["requests_in_flight"] == {("support",): [0]}
    assert found["requests_total"][(*CALL, "200", "ok")] == [1]
    assert found["request_duration_seconds"][CALL][-1] == 1.1
    assert found["time_to_first_token_seconds"][CALL][-1] == 0.1
    assert found["time_per_output_token_seconds"][CALL][-1] == pytest.approx(0.1)
    assert found["gateway_overhead_seconds"][CALL][-1] == 0.0002
    assert found["tokens_total"] == {(*CALL[:2], "input"): [20], (*CALL[:2], "output"): [11]}
    assert found["response_tokens"][CALL[:2]][-1] == 11
    assert found["build_info"] == {("0.1.0",): [1]}


def test_what_is_not_known_is_not_counted(tmp_path: Path, recorder: Recorder) -> None:
    metrics = recorder.child(*CALL)
    metrics.started()
    metrics.finished(499, c.Outcome.CANCELLED, 0.5)
    metrics.started()
    metrics.finished(200, c.Outcome.OK, 0.5, 0.5, 1)
    found = merged(tmp_path)
    assert found["requests_total"][(*CALL, "499", "cancelled")] == [1]
    assert count_of(found["time_to_first_token_seconds"][CALL]) == 1
    assert count_of(found["time_per_output_token_seconds"][CALL]) == 0  # one token has no time between tokens
    assert count_of(found["response_tokens"][CALL[:2]]) == 1
    assert count_of(found["gateway_overhead_seconds"][CALL]) == 0


def test_expected_ends_exist_before_they_happen(tmp_path: Path, recorder: Recorder) -> None:
    """rate() sees no increase from a series that appears with its first failure."""
    recorder.child(*CALL)
    recorder.child(*CALL[:2], c.ArmName.CANDIDATE, "chat")
    recorder.engines(["engine-0"])
    found = merged(tmp_path)
    assert found["breaker_trips_total"] == {CALL[:2]: [0]}
    assert found["failovers_total"] == {("engine-0",): [0]}
    ends = {labels[-2:]: values for labels, values in found["requests_total"].items()}
    assert ends == {("200", "ok"): [0], ("502", "error"): [0], ("503", "error"): [0], ("504", "error"): [0]}
    assert set(found["rate_limited_total"]) == {(reason.value,) for reason in c.LimitReason}
    assert found["requests_without_unit_total"] == {("support",): [0]}
    assert count_of(found["satisfaction_score"][CALL[:3]]) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([200, 400, 499, 502]),
            st.sampled_from(list(c.Outcome)),
            st.floats(0, 1e6),
            st.none() | st.floats(0, 1e6),
            st.none() | st.integers(0, 2**40),
        ),
        max_size=30,
    )
)
def test_totals_add_up(
    tmp_path_factory: pytest.TempPathFactory, ends: list[tuple[int, c.Outcome, float, float | None, int | None]]
) -> None:
    directory = tmp_path_factory.mktemp("metrics")
    metrics = Recorder(SharedValues(directory)).child(*CALL)
    for code, outcome, duration, ttft, tokens in ends:
        metrics.started()
        metrics.finished(code, outcome, duration, ttft, tokens)
    found = merged(directory)
    assert found["requests_in_flight"] == {("support",): [0]}
    assert sum(values[0] for values in found["requests_total"].values()) == len(ends)
    assert count_of(found["request_duration_seconds"][CALL]) == len(ends)
    assert found["tokens_total"][*CALL[:2], "output"] == [sum(tokens or 0 for *_, tokens in ends)]


def test_the_rest_is_counted_under_its_labels(tmp_path: Path, recorder: Recorder) -> None:
    recorder.refused("chat", 401)
    recorder.failover("engine-0")
    recorder.rate_limited(c.LimitReason.TOKENS)
    recorder.without_unit("support")
    recorder.feedback(*CALL[:3], c.FeedbackKind.THUMB)
    recorder.satisfaction(*CALL[:3], 1.0)
    found = merged(tmp_path)
    assert found["requests_total"] == {("", "", "", "chat", "401", "error"): [1]}
    assert found["failovers_total"] == {("engine-0",): [1]}
    assert found["rate_limited_total"] == {("requests",): [0], ("tokens",): [1]}
    assert found["requests_without_unit_total"] == {("support",): [1]}
    assert found["feedback_total"] == {(*CALL[:3], "thumb"): [1]}
    assert found["satisfaction_score"][CALL[:3]][-1] == 1.0


def test_drops_are_counted_from_any_thread(tmp_path: Path, recorder: Recorder) -> None:
    threads = [
        threading.Thread(target=lambda: [recorder.events_dropped(c.EventKind.RESPONSE) for _ in range(5000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    others = {(kind.value,): [0] for kind in c.EventKind}
    assert merged(tmp_path)["events_dropped_total"] == others | {("response",): [20_000]}


def test_what_answers_and_shadows_are_like(tmp_path: Path, recorder: Recorder) -> None:
    recorder.text(*CALL[:2], duplicates=0.25, compression=2.0)
    recorder.reward(*CALL[:3], grader="exact", score=1.0)
    recorder.shadow("support", c.ShadowOutcome.SHED)
    recorder.breaker(*CALL[:2])
    found = merged(tmp_path)
    assert found["response_duplicate_ngram_ratio"][CALL[:2]][-1] == 0.25
    assert found["response_compression_ratio"][CALL[:2]][-1] == 2.0
    assert found["reward_score"][*CALL[:3], "exact"][-1] == 1.0
    assert found["shadow_total"] == {("support", "shed"): [1]}
    assert found["breaker_trips_total"] == {CALL[:2]: [1]}


def test_verdicts_exist_before_they_are_given(tmp_path: Path, recorder: Recorder) -> None:
    recorder.screening_expected(*CALL[:2], ["S1"])
    recorder.screened(*CALL[:2], stage=ScreeningStage.PROMPT, verdict=Verdict.UNSAFE, category="S1")
    recorder.screening_took(ScreeningStage.PARTIAL, 0.25)
    found = merged(tmp_path)
    assert found["screening_total"] == {
        (*CALL[:2], stage, verdict, category): [float(stage == "prompt" and verdict == "unsafe")]
        for stage in ("prompt", "response")
        for verdict, category in (("safe", ""), ("unavailable", ""), ("unsafe", "S1"))
    }
    assert count_of(found["screening_duration_seconds"][("partial",)]) == 1


def test_the_snapshots_age_grows_by_itself(tmp_path: Path, recorder: Recorder) -> None:
    recorder.snapshot_age(100.0)
    first = merged(tmp_path)["route_snapshot_age_seconds"][()][0]
    time.sleep(0.05)
    assert merged(tmp_path)["route_snapshot_age_seconds"][()][0] >= first + 0.05
    assert first >= 100.0


def test_series_of_a_version_go_some_hours_after_it_left(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ("support", "support@ffffffffffff", "stable", "chat")
    for call in (CALL, other):
        recorder.child(*call).started()
        recorder.child(*call).finished(200, c.Outcome.OK, 1.0)
    recorder.refused("chat", 404)
    recorder.retain({other[1]}, 1000.0)
    recorder.retain({other[1], CALL[1]}, 2000.0)  # it came back
    recorder.retain({other[1]}, 3000.0)
    recorder.retain({other[1]}, 3000.0 + c.RETIRE_AFTER)
    assert CALL in merged(tmp_path)["request_duration_seconds"]
    monkeypatch.setattr(time, "monotonic", lambda: 3001.0 + c.RETIRE_AFTER)
    recorder.snapshot_age(0.0)
    monkeypatch.undo()
    found = merged(tmp_path)
    assert list(found["request_duration_seconds"]) == [other]
    assert ("", "", "", "chat", "404", "error") in found["requests_total"]
    assert found["build_info"] == {("0.1.0",): [1]}
    again = recorder.child(*CALL)  # and once more, from zero
    again.started()
    again.finished(200, c.Outcome.OK, 1.0)
    assert merged(tmp_path)["requests_total"][(*CALL, "200", "ok")] == [1]
