from __future__ import annotations

import json

import pytest

from trainer.config import load_run_config
from trainer.demo import world
from trainer.demo.runs import DEMONSTRATIONS, WRONG, demonstrations, write_run


@pytest.mark.parametrize(("kind", "algorithm"), [("sft", "sft"), ("grpo", "grpo"), ("hacked", "grpo")])
def test_the_configurations_are_valid(tmp_path, kind, algorithm):
    config = load_run_config(write_run(tmp_path / kind, kind, 3, "support@0123456789ab" if kind == "grpo" else ""), algorithm)
    assert config.seed == 3
    assert config.init_from == ("support@0123456789ab" if kind == "grpo" else "")
    for path in (*config.data.train, *config.data.eval):
        assert path.read_text().count("\n") > 100


def test_a_share_of_the_demonstrations_is_wrong():
    answers = {e.prompt: e.answer for e in world.examples(DEMONSTRATIONS, 4000, "train")}
    rows = demonstrations(0)
    wrong = sum(row["completion"][0]["content"] != answers[row["prompt"][0]["content"]] for row in rows)
    assert abs(wrong / len(rows) - WRONG) < 0.05
    assert json.dumps(rows) == json.dumps(demonstrations(0)) != json.dumps(demonstrations(1))
