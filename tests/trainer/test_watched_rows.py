"""Which prompts a run is watched on."""

import pytest

from adapters.errors import TrainingError
from trainer.demo import world
from trainer.watched_rows import choose_rows


def test_watched_prompts_are_not_trained_on():
    rows = world.rows(200, 1)
    trained, watched = choose_rows(rows, (), 64, seed=1)
    asked = {row["prompt"][0]["content"] for row in watched}
    assert len(watched) == len(asked) == 20  # a tenth
    assert not asked & {row["prompt"][0]["content"] for row in trained}
    assert len(trained) >= 200 - 20 - 20
    assert (trained, watched) == choose_rows(rows, (), 64, seed=1)
    assert watched != choose_rows(rows, (), 64, seed=2)[1]


def test_held_out_rows_are_watched_where_there_are_some():
    rows, held_out = world.rows(50, 1), world.rows(30, 1, "held_out")
    trained, watched = choose_rows(rows, [*held_out, rows[0]], 64, seed=1)
    assert len(trained) == sum(row["prompt"] != rows[0]["prompt"] for row in rows)
    assert 8 <= len(watched) <= 31


def test_too_few_prompts_to_watch_are_one_clear_line():
    with pytest.raises(TrainingError, match=r"5 held-out prompts are too few .* or data\.train more than 50 rows"):
        choose_rows(world.rows(50, 1), (), 64, seed=1)
    with pytest.raises(TrainingError, match=r"give data\.eval at least 8 different ones$"):
        choose_rows(world.rows(50, 1), world.rows(1, 1, "held_out") * 20, 64, seed=1)
