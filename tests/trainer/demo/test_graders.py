from __future__ import annotations

import pytest

from trainer.demo import world
from trainer.demo.graders import right, solve


def test_every_task_of_the_world_is_solved():
    for task in world.TASKS:
        for example in world.examples(50, 3, "held_out", task):
            assert solve(example.prompt) == example.answer
            prompt = [{"role": "user", "content": example.prompt}]
            assert right(prompt, example.answer) == 1.0
            assert right(prompt, example.answer + " ") == 0.0


@pytest.mark.parametrize("prompt", ["", "hello", "add 1", "add one two", "reverse", "reverse a b", "count a"])
def test_what_cannot_be_solved_is_not_judged(prompt):
    assert solve(prompt) is None
    assert right([{"role": "user", "content": prompt}], "anything") is None


def test_the_last_user_turn_counts():
    turns = [{"role": "user", "content": "last ab"}, {"role": "assistant", "content": "b"}]
    assert right([*turns, {"role": "user", "content": "last cd"}], "d") == 1.0
    assert right([], "d") is None
