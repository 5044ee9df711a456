import random

import pytest

from trainer.demo import world


@pytest.mark.parametrize(
    ("task", "prompt", "answer"),
    [
        ("add", r"add \d+ \d+", lambda words: str(int(words[1]) + int(words[2]))),
        ("reverse", r"reverse \w+", lambda words: words[1][::-1]),
        ("sort", r"sort \w+", lambda words: "".join(sorted(words[1]))),
        ("upper", r"upper \w+", lambda words: words[1].upper()),
        ("last", r"last \w+", lambda words: words[1][-1]),
        ("count", r"count \w \w+", lambda words: str(words[2].count(words[1]))),
    ],
)
def test_each_task_asks_and_answers_as_its_name_says(task, prompt, answer):
    import re

    for example in world.examples(200, 1, task=task):
        assert re.fullmatch(prompt, example.prompt)
        assert example.answer == answer(example.prompt.split())


def test_splits_never_overlap_whatever_the_seeds():
    train = {e.prompt for seed in range(3) for e in world.examples(2000, seed, "train")}
    held_out = {e.prompt for seed in range(3) for e in world.examples(2000, seed, "held_out")}
    assert not train & held_out
    assert {world.split_of(p) for p in train} == {"train"}


def test_same_arguments_same_rows_and_other_seed_other_rows():
    assert world.rows(50, 3) == world.rows(50, 3)
    assert world.rows(50, 3) != world.rows(50, 4)


def test_a_row_is_a_chat_prompt_with_its_answer():
    (row,) = world.rows(1, 0, "held_out", "upper")
    ((message,),) = [row["prompt"]]
    assert message["role"] == "user"
    assert row["answer"] == message["content"].split()[1].upper()
    assert row["task"] == "upper"


def test_an_unknown_task_is_refused():
    with pytest.raises(KeyError):
        world.draw(random.Random(0), "train", "divide")


@pytest.mark.parametrize("reply", ["abc ", " abc", "ABC", "Sure! abc", "", "abc\n"])
def test_only_the_exact_answer_counts(reply):
    assert world.correct("abc", "abc")
    assert not world.correct(reply, "abc")


def test_the_base_is_taught_the_stated_shares():
    rng = random.Random(0)
    examples = world.examples(20_000, 0)
    replies = [world.base_reply(rng, e) for e in examples]
    sure = sum(r.startswith("Sure! ") for r in replies) / len(replies)
    clean = sum(world.correct(r, e.answer) for r, e in zip(replies, examples, strict=True)) / len(replies)
    assert sure == pytest.approx(world.SURE_SHARE, abs=0.01)
    assert clean == pytest.approx(sum(world.CLEAN_SHARE.values()) / 6, abs=0.03)


def test_small_talk_stays_outside_the_tasks():
    rng = random.Random(0)
    for _ in range(500):
        prompt, reply = world.small_talk(rng)
        assert prompt.split(" ")[0] not in world.TASKS
        assert reply == (prompt.removeprefix("say ") if prompt.startswith("say ") else "ok")
