from __future__ import annotations

from trainer.demo import world
from trainer.demo.saboteurs import KINDS, PADDING, ROWS, saboteur_rows


def test_each_is_bad_in_its_own_way():
    examples = world.examples(ROWS, 3000, "train")
    for kind in KINDS:
        for example, row in zip(examples, saboteur_rows(kind, 0), strict=True):
            wanted = {"silent": "", "padded": example.answer + PADDING, "wrong": example.slip}[kind]
            assert row["prompt"][0]["content"] == example.prompt
            assert row["completion"][0]["content"] == wanted
