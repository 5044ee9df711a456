"""The benchmark of the screening measures what it says: on its stand-ins, in moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.bench import screening, screening_site
from deploy.bench.screening import Seen
from deploy.bench.screening_site import site
from deploy.bench.screening_texts import LEAST, _after_hazard, answers


async def test_the_guards_speed_shows_and_a_dead_guard_lets_nothing_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "SLOWER", 1.0)  # more than a busy machine adds to what does not wait for the guard
    patient = screening_site.CONFIGURATION.replace('timeout = "2s"', 'timeout = "60s"')  # a late verdict is none
    monkeypatch.setattr(screening_site, "CONFIGURATION", patient)
    with site(tmp_path, real_guard=False) as place:
        async with screening.session_of(place) as session:
            rows = await screening.first_tokens(session, 3)  # one that the machine sleeps through is not the median
            by = {(row["guard"], row["mode"]): row for row in rows}
            assert by["slower", "prompt"]["p50"] >= screening.SLOWER > by["slower", "audit"]["p50"]
            states = await screening.unscreened(place, session, 0.2)
    assert {row["guard"]: set(row["screened"]) for row in states} | {"10x load": set()} == {
        "no other load": set(), "well": {"200"}, "10x load": set(), "killed": {"503"}}  # fmt: skip
    assert "p50" in screening.table({"first_token": rows, "unscreened": states})


def test_texts_are_long_and_their_hazards_are_found() -> None:
    for unsafe in (True, False):
        found = answers(20, unsafe)
        assert all(len(text.split()) >= LEAST for _, text in found) and len(set(found)) > 10
        if unsafe:
            assert all(_after_hazard(text) for _, text in found)
    assert _after_hazard("all is well") == 0 and _after_hazard("now krund is near") == 3


async def test_leaks_are_told_from_what_was_cleared_and_from_what_was_missed() -> None:
    from deploy.bench import screening_texts
    from tests.support.scripted_http import scripted

    (_, text), *_ = answers(1, unsafe=True)
    cut = " ".join(text.split()[:-1])

    async def ask(mode: str, _content: str, say: str) -> Seen:
        return Seen(200, say if mode == "audit" or say != text else cut, [], 0.0)

    def judge(_path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        score = 0.9 if body["items"][0]["text"] == cut else 0.2
        return 200, {"results": [{"score": score}]}, {"content-type": "application/json"}

    with scripted(judge) as guard:
        audit, enforce = await screening_texts.leaks(ask, guard.url, 1)
    assert (audit["blocked"], enforce["blocked"], enforce["safe_blocked"]) == (0, 1, 0)
    assert enforce["leaked_tokens"] == _after_hazard(cut) and enforce["late_tokens"] == 0
    assert audit["late_tokens"] == _after_hazard(text)
