"""All witnesses of a story at once: what exists, what is signed, and what was said."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from gateway.data_plane.ids import IdMinter
from trainer.demo import tally
from trainer.demo.crowd import Asked
from trainer.demo.fixed import Answer
from trainer.demo.signed import Signatures
from trainer.demo.stack import Stack

STABLE, CANDIDATE = "support@000000000001", "support@000000000002"
SECRET = b"s" * 32
ROWS = {
    1: {"route": "support", "version": STABLE, "rollout": 0, "step": 0},
    2: {"route": "support", "version": CANDIDATE, "rollout": 7, "step": 1},
    3: {"route": "support", "version": CANDIDATE, "rollout": 7, "step": 2},
    4: {"route": "support", "version": CANDIDATE, "rollout": 0, "step": 0},
}
MINTER = IdMinter(SECRET)


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tally.Tally:
    @contextlib.contextmanager
    def signed(config: Path):
        yield Signatures(SECRET, ROWS.get)

    monkeypatch.setattr(tally, "signatures", signed)
    made = tally.Tally(Stack(tmp_path), "support")
    made.known = {STABLE: {"p": said("one")}, CANDIDATE: {"p": said("two")}}
    return made


def said(token: str) -> Answer:
    return [(token, {token: -0.1, "other": -5.0})]


def answer(header: str, signed: int, text: str = "", at: float = 100.0, **more: object) -> Asked:
    written = f"chatcmpl-{MINTER.mint(signed, b'ownr', b'unitunit', at)}"
    fixed = {"fixed": "p", "text": text, "places": said(text)} if text else {}
    return Asked(at, at + 0.5, "u", **{"status": 200, "version": header, "response_id": written, **fixed, **more})


def wrong(counting: tally.Tally, *seen: Asked) -> int:
    counting.count(seen, (STABLE, CANDIDATE), [])
    return counting.report()["wrong_version"]


def test_a_story_without_mix_ups(counting: tally.Tally):
    seen = [
        answer(STABLE, 1), answer(CANDIDATE, 2), answer(STABLE, 1, "one"), answer(CANDIDATE, 2, "two", at=110.0),
        answer("", 1, status=503), answer(STABLE, 1, error="the stream did not end properly"),
    ]  # fmt: skip
    counting.count(seen, (STABLE, CANDIDATE), [110.9])
    assert counting.report() == {
        "total": 6, "failed": 2, "wrong_version": 0, "judged_by_id": 4, "judged_by_content": 2,
        "judged_by_content_near_a_change": 1,
    }  # fmt: skip


@pytest.mark.parametrize("mixed", [
    pytest.param(answer(STABLE, 2), id="signed for another"),
    pytest.param(answer(STABLE, 1, response_id="chatcmpl-1"), id="not signed"),
    pytest.param(answer("support@000000000009", 1), id="a version that does not serve"),
    pytest.param(answer(STABLE, 1, "two"), id="the other's answer"),
    pytest.param(answer(STABLE, 2, "two"), id="all but the header"),
])  # fmt: skip
def test_each_witness_alone_is_enough(counting: tally.Tally, mixed: Asked):
    assert wrong(counting, answer(CANDIDATE, 2, "two"), mixed) == 1
    (shown,) = counting.report()["wrong"]
    assert shown["header"] == mixed.version


def test_a_swapped_pair_is_counted(counting: tally.Tally):
    assert wrong(counting, answer(STABLE, 1, "two"), answer(CANDIDATE, 2, "one")) == 2


def test_answers_by_the_step_they_were_signed_for(counting: tally.Tally):
    seen = [answer(CANDIDATE, number) for number in (2, 3, 3, 4)] + [answer(STABLE, 1), answer(CANDIDATE, 2, status=500)]
    assert counting.by_step(seen, 7, CANDIDATE) == {1: 1, 2: 2}


def test_rollouts_add_up(counting: tally.Tally):
    assert [wrong(counting, answer(STABLE, 1, "one"), answer(STABLE, 1, "two")) for _ in range(2)] == [1, 2]
    assert counting.report()["judged_by_content"] == 4
