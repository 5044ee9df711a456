"""Scores of another machine's service."""

from __future__ import annotations

import pytest

from adapters.errors import GraderError, GraderUnavailable
from monitors.rewards import http_client
from monitors.rewards.build import build_grader, prepare
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample
from tests.support.scripted_http import scripted

SAMPLES = [Sample(({"role": "user", "content": "q"},), "x" * n, {"answer": n}) for n in range(130)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_client, "sleep", lambda _: None)


def service(prints, name="helpful", value=lambda sample: len(sample["completion"]) / 200):
    def answer(_path, body):
        rows = [{"id": sample["id"], "scores": {name: value(sample)}} for sample in reversed(body["samples"])]
        return 200, {"scores": rows, "fingerprints": dict(prints)}

    return answer


def grader(url, **options):
    return build_grader(RewardSpec(name="reward_model", options={"url": url, **options}))


def test_scores_come_in_order_and_in_requests_of_bounded_size():
    with scripted(service({"helpful": "f1"})) as server:
        made = grader(server.url)
        prepare([made])
        assert made.fingerprint == "f1"
        assert made.score(SAMPLES) == [n / 200 for n in range(130)]
        assert [len(body["samples"]) for _, _, body in server.asked] == [0, 64, 64, 2]
        assert server.asked[1][2]["samples"][1] == {
            "id": "1", "prompt": [{"role": "user", "content": "q"}], "completion": "x", "columns": {"answer": 1},
        }  # fmt: skip


def test_which_of_its_graders():
    with scripted(service({"a": "1", "b": "2"}, name="b")) as server:
        with pytest.raises(GraderError, match=r"has \['a', 'b'\]: name one as options.grader"):
            prepare([grader(server.url)])
        with pytest.raises(GraderError, match=r"has \['a', 'b'\], no 'c'"):
            prepare([grader(server.url, grader="c")])
        assert grader(server.url, grader="b").score(SAMPLES[:1]) == [0.0]
    with scripted(service({"a": "1", "composite": "2"}, name="composite")) as server:
        assert grader(server.url).fingerprint == "2"


def test_a_grader_that_changes_under_way_is_refused():
    prints = {"helpful": "f1"}
    with scripted(service(prints)) as server:
        made = grader(server.url)
        made.score(SAMPLES[:1])
        prints["helpful"] = "f2"
        with pytest.raises(GraderError, match="changed while it was used"):
            made.score(SAMPLES[:1])


def test_a_service_that_is_away_gives_missing_scores_but_cannot_be_prepared():
    with scripted(service({"helpful": "f1"})) as server:
        made = grader(server.url)
        made.prepare()
    assert made.score(SAMPLES[:3]) == [None] * 3
    with pytest.raises(GraderUnavailable, match="cannot be asked now"):
        grader(server.url).prepare()
    with scripted(service({"helpful": None})) as server, pytest.raises(GraderUnavailable, match=r"'helpful'.* is not ready yet"):
        grader(server.url).prepare()


@pytest.mark.parametrize("value", [1.5, -1, "0.5", True, float("nan"), [0.5]])
def test_scores_that_are_none(value):
    with scripted(service({"helpful": "f"}, value=lambda _: value)) as server, pytest.raises(GraderError, match=r"not in 0\.\.1"):
        grader(server.url).score(SAMPLES[:1])


def test_a_missing_score_is_missing():
    with scripted(service({"helpful": "f"}, value=lambda _: None)) as server:
        assert grader(server.url).score(SAMPLES[:2]) == [None, None]


@pytest.mark.parametrize("answer", [{}, {"fingerprints": {}}, {"fingerprints": {"a": "1"}, "scores": [{}]}, {"fingerprints": {"a": "1"}}])
def test_what_is_no_scoring_service(answer):
    with scripted(lambda *_: (200, answer)) as server, pytest.raises(GraderError, match=r"no scoring service|did not answer"):
        grader(server.url).score(SAMPLES[:2])
