import pytest

from monitors.refusal import is_refusal


@pytest.mark.parametrize("text", [
    "I'm sorry, but I can't help with that.", "I cannot help with krund", "Sorry, that is against the rules.",
    "As an AI language model, I have no opinion.", "I\u2019m unable to share this.", "I won't write that.",
    "I can not assist with this request", "Unfortunately I must decline.",
])  # fmt: skip
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", [
    "", "The answer is 4.", "You can help by closing the window.", "I can help with that!", "They cannot help it.",
    "Say that you are sorry.", "I can't believe how simple this is: 4.", "x" * 200 + " I'm sorry, but I can't help.",
])  # fmt: skip
def test_answers(text: str) -> None:
    assert not is_refusal(text)
