import json
import re

import pytest

from adapters.base import resolve_base
from adapters.errors import TrainingError
from tests.support.training import rows_for, write_rows
from trainer.chat import Chat
from trainer.config import DataSettings
from trainer.data import Encoder, Limits, load_dataset
from trainer.data_report import lines, rung
from trainer.demo import tokenizer as tk
from trainer.demo.tokenizer import build_tokenizer

LONG = " ".join(f"word{i}" for i in range(30))


@pytest.fixture(scope="module")
def chat():
    return Chat(build_tokenizer(), resolve_base("demo"), tk.VOCAB_SIZE)


@pytest.fixture
def load(tmp_path, chat):
    """Checks rows of the algorithm: load(algorithm, rows, limits=…, **[data])."""

    def loaded(algorithm, rows, max_length=96, context=256, **settings):
        train = write_rows(tmp_path / "train.jsonl", rows)
        data = DataSettings(train=train, **settings)
        return load_dataset(Encoder(algorithm, data, chat, Limits(max_length, context)), seed=0)

    return loaded


def pair(prompt, completion="ok"):
    return {"prompt": prompt, "completion": completion}


def test_duplicates_are_dropped_and_counted(load):
    rows = [pair("a"), pair("A "), pair("a", "other"), pair("b"), pair(LONG), pair(LONG.replace("word9 ", "x "))]
    made = load("sft", rows, max_length=250)
    assert [e.row.where.rpartition(":")[2] for e in made.rows] == ["1", "3", "4", "5"]
    assert (made.report["duplicates_exact"], made.report["duplicates_near"]) == (1, 1)
    assert made.report["duplicate_examples"][0].endswith("train.jsonl:1")
    assert len(load("sft", rows, max_length=250, deduplicate=False).rows) == 6


def test_the_same_text_with_the_other_label_is_no_duplicate(load):
    rows = [{**pair("a"), "label": True}, {**pair("a"), "label": False}, {**pair("a"), "label": True}]
    made = load("kto", rows)
    assert made.report["duplicates_exact"] == 1
    assert made.report["thumbs_up"] == 1


def test_labels_that_the_checks_leave_one_sided_are_refused(load):
    with pytest.raises(TrainingError, match="only labels of one kind are left"):
        load("kto", [{**pair("a"), "label": True}, {**pair("x" * 100), "label": False}])


def test_rows_that_a_suite_or_the_held_out_file_asks_are_dropped(load, tmp_path):
    write_rows(tmp_path / "slice.jsonl", [{"prompt": [{"role": "user", "content": "b"}], "answer": "x"}])
    (tmp_path / "suite.toml").write_text(
        '[suite]\nname = "s"\nnorth_star = "one"\n[[slice]]\nname = "one"\nfile = "slice.jsonl"\ngraders = ["exact"]\n'
    )
    held = write_rows(tmp_path / "eval.jsonl", [pair("C")])
    made = load("sft", [pair("a"), pair("B"), pair("c"), pair("d")], decontaminate=tmp_path / "suite.toml", eval=held)
    assert [e.row.prompt_text() for e in made.rows] == ["a", "d"]
    assert made.report["contaminated"] == 2
    assert made.report["held_out"] == len(made.held_out) == 1
    assert set(made.digests) == {"train.jsonl", "eval.jsonl"}


def test_general_rows_make_up_their_share_and_the_same_ones_for_a_seed(load, tmp_path):
    general = write_rows(tmp_path / "general.jsonl", [{"messages": [
        {"role": "user", "content": f"tell {i}"}, {"role": "assistant", "content": "ok"}]} for i in range(200)])
    rows = [pair(f"p{i}") for i in range(80)]
    made = load("sft", rows, general=general, general_share=0.2)
    again = load("sft", rows, general=general, general_share=0.2)
    assert made.report["general"] == made.report["general_wanted"] == 20
    assert len(made.rows) == 100
    assert [e.sequences for e in made.rows] == [e.sequences for e in again.rows]
    scarce = load("sft", rows, general=general, general_share=0.9)
    assert (scarce.report["general"], scarce.report["general_wanted"]) == (200, 720)
    assert any("200 rows mixed in (720 wanted)" in line for line in lines(scarce.report))


def test_too_long_rows_are_dropped_or_cut_and_counted(load):
    rows = [pair("a", "b" * 50), pair("a" * 50, "b"), pair("a", "b")]
    made = load("sft", rows, max_length=20)
    assert len(made.rows) == 1
    assert (made.report["too_long"], made.report["truncated"]) == (2, 0)
    cut = load("sft", rows, max_length=20, truncate=True)
    assert [len(e.sequences[0].input_ids) for e in cut.rows] == [20, 6]
    assert (cut.report["too_long"], cut.report["truncated"]) == (1, 1)  # a prompt alone teaches nothing
    assert cut.rows[0].sequences[0].trained == 16


def test_both_answers_of_a_pair_must_fit(load):
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c" * 30}, {"prompt": "a", "chosen": "b", "rejected": "c"}]
    made = load("dpo", rows, max_length=20)
    assert len(made.rows) == made.report["too_long"] == 1
    assert [len(s.input_ids) for s in made.rows[0].sequences] == [6, 6]


@pytest.mark.parametrize(
    ("algorithm", "rows", "options", "message"),
    [
        ("sft", [pair("a" * 300)], {}, "train.jsonl:1: the prompt has 303 tokens, the engines' context 256"),
        ("grpo", [{"prompt": "a"}, {"prompt": "a" * 300}], {}, "train.jsonl:2: the prompt has 303 tokens"),
        ("sft", [pair("a", "b" * 30)], {"max_length": 10}, "no row is left to train on: 1 rows, 0 duplicates"),
        ("sft", [pair("a"), pair("a<|eos|>b")], {}, "train.jsonl:2: a text holds '<|eos|>', a control token"),
        ("sft", [pair("a")], {"decontaminate": "none.toml"}, "none.toml"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(load, algorithm, rows, options, message):
    with pytest.raises(Exception, match=re.escape(message)) as caught:
        load(algorithm, rows, **options)
    assert "\n" not in str(caught.value)


def test_control_tokens_can_be_allowed(load):
    assert len(load("sft", [pair("a<|im_start|>b")], allow_control_tokens=True).rows) == 1


def test_the_report_counts_what_the_sequences_hold(load):
    made = load("sft", [pair("abc", "de"), pair("fghij", "k")])
    report = made.report
    flat = [s for e in made.rows for s in e.sequences]
    assert report["tokens"]["all"] == sum(len(s.input_ids) for s in flat) == (1 + 1 + 3 + 1 + 3) + (1 + 1 + 5 + 1 + 2)
    assert report["tokens"]["trained"] == 3 + 2
    assert report["tokens"]["prompt_share"] == round(1 - 5 / 19, 4)
    assert report["tokens"]["row"] == {"min": 9, "median": 9.5, "p95": 10, "max": 10}
    assert report["ladder"].startswith("fewer than 20")
    assert "74% prompt" in "\n".join(lines(report))
    json.dumps(report)


def test_the_ladder():
    assert [rung(n).split(":")[0] for n in (19, 20, 100, 1000, 10_000, 100_000)] == [
        "fewer than 20", "tens", "hundreds", "thousands", "tens of thousands", "100,000 and more",
    ]  # fmt: skip


def test_the_demos_rows_pass(load):
    for algorithm in ("sft", "dpo", "kto", "reward-model", "grpo"):
        made = load(algorithm, rows_for(algorithm, 50))
        assert 40 < len(made.rows) <= 50
