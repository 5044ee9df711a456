"""The judges of a load: who was answered by what, and whether anybody was moved back."""

from __future__ import annotations

import httpx
import pytest

from trainer.demo.users import Observation, _outcome, _text, moved_back

SWAPS = [(0.0, "A"), (10.0, "B"), (20.0, "A")]


def answers(*seen: tuple[float, str], user: str = "u") -> list[Observation]:
    return [Observation(user, began, began + 1, "ok", version) for began, version in seen]


@pytest.mark.parametrize(
    ("seen", "back"),
    [
        (((1, "A"), (5, "A"), (11, "B"), (21, "A")), 0),
        (((1, "A"), (9.5, "A"), (10.2, "A"), (10.4, "B")), 0),      # asked for, not yet switched
        (((1, "A"), (10.2, "B"), (10.4, "A")), 1),                   # switched, and back
        (((1, "A"), (11, "B"), (12, "A"), (13, "B")), 1),
        (((1, "B"),), 1),                                            # before it was asked for
        (((21, "B"), (22, "A"), (23, "B")), 1),
        (((1, "C"),), 1),
    ],
)  # fmt: skip
def test_moved_back(seen: tuple[tuple[float, str], ...], back: int) -> None:
    assert moved_back(answers(*seen), SWAPS) == back


def test_users_are_judged_apart_and_failures_do_not_count() -> None:
    mixed = answers((11, "B")) + answers((12, "A"), user="v") + [Observation("u", 12, 13, "http-500", "A")]
    assert moved_back(mixed, SWAPS) == 0


@pytest.mark.parametrize(
    ("status", "headers", "body", "stream", "outcome"),
    [
        (200, {}, '{"choices": []}', False, "ok"),
        (200, {}, "data: {}\n\ndata: [DONE]\n\n", True, "ok"),
        (200, {}, 'data: {"error": {}}\n\n', True, "stream-error"),
        (200, {}, "data: {}\n\n", True, "silent-end"),
        (503, {"retry-after": "1"}, '{"error": {}}', False, "unavailable"),
        (503, {}, '{"error": {}}', False, "http-503"),
        (502, {}, '{"error": {}}', True, "http-502"),
    ],
)
def test_outcomes(status: int, headers: dict[str, str], body: str, stream: bool, outcome: str) -> None:
    assert _outcome(httpx.Response(status, headers=headers, text=body), stream) == outcome


def test_text_of_a_stream() -> None:
    chunks = "".join(f'data: {{"choices": [{{"delta": {{"content": "{c}"}}}}]}}\n\n' for c in "ab")
    assert _text(httpx.Response(200, text=chunks + 'data: {"choices": []}\n\ndata: [DONE]\n\n'), stream=True) == "ab"
