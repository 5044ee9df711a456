"""Whose answer is it? Every mix-up of versions is counted, and nothing is concluded from what could not show one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from math import inf

import pytest
from aiohttp import web

from adapters.errors import TrainingError
from trainer.demo.crowd import Asked
from trainer.demo.fixed import APART, CHOSEN, GREEDY, Answer, answers, choose, distance, judge, places

ONE, OTHER, OLD = "support@000000000001", "support@000000000002", "support@000000000003"


def said(text: str, logprob: float = -0.1, second: float = -4.0) -> Answer:
    """An answer whose every token has this logprob, and one that was not chosen."""
    return [(letter, {letter: logprob, "~": second}) for letter in text]


KNOWN = {
    ONE: {"other text": said("ab"), "same text": said("ab", -0.1), "alike": said("ab", -0.1)},
    OTHER: {"other text": said("cd"), "same text": said("ab", -0.9), "alike": said("ab", -0.2)},
    OLD: {"other text": said("ef"), "same text": said("ab", -3.0), "alike": said("xy")},
}
TELLING = ["other text", "same text"]


def asked(version: str, fixed: str, answer: Answer, **more: object) -> Asked:
    return Asked(1.0, 2.0, "u", **{"status": 200, "version": version, "fixed": fixed, "places": list(answer), **more})


def counted(seen: Iterable[Asked], *between: str) -> tuple[int, int]:
    found = judge(seen, KNOWN, between or (ONE, OTHER))
    return len(found.judged), len(found.wrong)


def test_right_answers_are_judged_right():
    assert counted([asked(version, prompt, KNOWN[version][prompt]) for version in (ONE, OTHER) for prompt in TELLING]) == (4, 0)


@pytest.mark.parametrize("prompt", TELLING)
def test_a_swapped_pair_is_counted_twice(prompt):
    """The mix-up itself: each of two answers went out under the other's name, even where both say the same words."""
    assert counted([asked(ONE, prompt, KNOWN[OTHER][prompt]), asked(OTHER, prompt, KNOWN[ONE][prompt])]) == (2, 2)


def test_every_chosen_prompt_shows_every_mix_up_of_the_pair():
    chosen = choose(KNOWN, ONE, OTHER)
    assert sorted(chosen) == TELLING
    for prompt, (header, writer) in itertools.product(chosen, itertools.permutations((ONE, OTHER))):
        assert counted([asked(header, prompt, KNOWN[writer][prompt])]) == (1, 1)


def test_noise_is_not_a_mix_up_and_half_of_the_way_is():
    for moved, wrong in ((0.1, 0), (0.39, 0), (0.41, 1)):
        assert counted([asked(ONE, "same text", said("ab", -0.1 - moved))]) == (1, wrong)


def test_a_third_version_other_words_and_none_are_counted_too():
    for answer in (KNOWN[OLD]["other text"], said("zz"), said("az"), []):
        assert counted([asked(ONE, "other text", answer)]) == (1, 1)


def test_what_cannot_tell_says_nothing():
    """Both are alike there; the version's answers are not known; it failed; it was no fixed prompt."""
    seen = [
        asked(ONE, "alike", said("xy")), asked("support@000000000009", "other text", said("ab")),
        asked(ONE, "other text", [], status=503), asked(ONE, "other text", [], error="gone"), asked(ONE, "", said("cd")),
    ]  # fmt: skip
    assert counted(seen) == (0, 0)
    assert counted([asked(ONE, "alike", said("xy"))], ONE, OLD) == (1, 1)


def test_distance():
    assert distance(said("abc"), said("abc")) == 0 and distance(said("abc"), []) == distance([], []) == inf
    assert distance(said("ab", -0.1), said("ab", -0.7)) == pytest.approx(0.6)
    near = ([("a", {"a": -0.7, "b": -0.71})], [("b", {"a": -0.71, "b": -0.7})])  # a tie, once this way, once that
    assert distance(*near) == pytest.approx(0.01)
    assert distance(said("ab", -0.1, -4.0), said("ac", -0.1, -4.0)) == pytest.approx(3.9)  # not listed: at most -4
    late = (said("ab"), [*said("a"), ("x", {"x": -0.1, "b": -0.5})])
    assert distance(*late) == pytest.approx(3.9) and distance([*said("a"), *late[0]], [*said("a"), *late[1]]) == pytest.approx(3.9)


def test_prompts_that_tell_from_others_too_come_first_and_their_number_is_bounded():
    known = {ONE: {"a": said("a"), "b": said("b")}, OTHER: {"a": said("x"), "b": said("x")}, OLD: {"a": said("a"), "b": said("z")}}
    assert choose(known, ONE, OTHER) == ["b", "a"]
    many = {version: {f"p{i}": said("a", -1.0 * bool(version == ONE) * i) for i in range(3 * CHOSEN)} for version in (ONE, OTHER)}
    assert len(chosen := choose(many, ONE, OTHER)) == CHOSEN and "p0" not in chosen
    assert APART < 1.0


async def engine(choice: dict, status: int = 200) -> tuple[web.AppRunner, str, list[dict]]:
    bodies: list[dict] = []

    async def chat(asked: web.Request) -> web.Response:
        bodies.append(await asked.json())
        return web.json_response({"choices": [choice]}, status=status)

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat)])
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}", bodies


async def test_an_engine_is_asked_as_users_ask():
    listed = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -3.0}]
    choice = {"message": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": listed}]}}
    runner, url, bodies = await engine(choice)
    found = await answers(url, ONE)
    await runner.cleanup()
    assert len(found) == len(bodies) > 100
    assert all(answer == [("a", {"a": -0.1, "b": -3.0})] for answer in found.values())
    assert all(body["model"] == ONE and GREEDY.items() <= body.items() and body["max_tokens"] == 24 for body in bodies)
    assert list(places({"delta": {"content": "x"}})) == list(places({"logprobs": None})) == []


async def test_an_engine_that_does_not_answer_is_an_error():
    runner, url, _ = await engine({}, 404)
    with pytest.raises(TrainingError, match="the engine answered 404"):
        await answers(url, ONE)
    await runner.cleanup()
