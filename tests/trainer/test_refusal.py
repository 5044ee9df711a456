"""What counts as a refusal: the beginning of an answer, whatever the apostrophes; a help that hedges does not."""

from __future__ import annotations

import pytest

from trainer.refusal import REFUSALS, compile_patterns, is_refusal

REFUSED = [
    "I'm sorry, but I can't help with that.",
    "I cannot assist with that request.",
    "I can\u2019t do that",
    "As an AI language model, I cannot give medical advice",
    "I don't know.",
    "Unfortunately, I am unable to do this",
    "I\u2019m not able to share that",
    "**Sorry, I can't provide that.**",
    "I won't help you build that",
    "I must decline.",
    "My apologies, but I cannot do that",
    "I apologize, but I'm unable to",
    "I'm afraid I can't do that",
]
ANSWERED = [
    "Sure! Sure!",
    "I can help with that",
    "Sorry for the wait! Here it is",
    "I cannot recommend this enough: take the train",
    "42",
    "",
    "The answer is that I can't be sure",
    "I'm sorry to hear that. Try restarting",
    "I will not be long: 5",
    "Unfortunately the train is late; take the bus",
    "No.",
    "x" * 200 + " I'm sorry, but I can't",
]
PATTERN = compile_patterns(REFUSALS)


@pytest.mark.parametrize("text", REFUSED)
def test_refusals(text):
    assert is_refusal(text, PATTERN)


@pytest.mark.parametrize("text", ANSWERED)
def test_answers(text):
    assert not is_refusal(text, PATTERN)


def test_own_patterns():
    own = compile_patterns(["nein danke"])
    assert is_refusal("Nein danke, das tue ich nicht", own) and not is_refusal(REFUSED[0], own)
    assert not is_refusal("anything", compile_patterns([]))
    with pytest.raises(ValueError, match=r"the refusal pattern '\(' does not compile"):
        compile_patterns(["ok", "("])
