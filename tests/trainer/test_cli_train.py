"""`understudy train` as a user meets it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.support import training
from tests.support.commands import failed, good


@pytest.fixture
def train(tmp_path):
    """Run `understudy train ALGORITHM …` on a file in tmp_path."""

    def invoke(algorithm, file, *more):
        arguments = ["train", algorithm, "-c", str(file), "--registry", str(training.installation(tmp_path)), *more]
        return CliRunner().invoke(app, arguments)

    return invoke


def test_the_dry_run_shows_what_is_trained_on_and_writes_nothing(train, tmp_path):
    file = training.run_file(tmp_path, "sft")
    before = sorted(path.name for path in tmp_path.iterdir())
    shown = good(train("sft", file, "--dry-run"))
    answer, prompt = (training.rows_for("sft", 1)[0][key] for key in ("completion", "prompt"))
    assert f"<|bos|><|user|>{prompt}<|assistant|>⟦{answer}<|eos|>⟧" in shown
    assert "scale ladder   hundreds" in shown
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "data") == sorted([*before, "understudy.toml"])


def test_the_dry_run_of_pairs_shows_both_answers_and_of_rl_the_columns(train, tmp_path):
    shown = good(train("dpo", training.run_file(tmp_path, "dpo"), "--dry-run"))
    assert "  chosen: <|bos|>" in shown and "  rejected: <|bos|>" in shown
    file = training.run_file(tmp_path, "grpo", text='[[reward]]\nname = "exact"\n')
    assert 'columns: {"answer": "' in good(train("grpo", file, "--dry-run"))
    assert "label: True" in good(train("kto", training.run_file(tmp_path, "kto"), "--dry-run"))


def test_the_data_report_is_also_json(train, tmp_path):
    report = json.loads(good(train("sft", training.run_file(tmp_path, "sft"), "--dry-run", "--json")))
    assert report["rows"] == 800
    assert report["tokens"]["trained"] > 0


@pytest.mark.slow
def test_the_last_line_is_the_version(train, tmp_path):
    done = train("sft", training.run_file(tmp_path, "sft", max_steps=2))
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().splitlines()[-1].startswith("support@")
    assert "sft: step 2/2, loss " in done.stderr
    again = failed(train("sft", tmp_path / "sft.toml"))
    assert "--resume goes on with it, or choose another one" in again


@pytest.mark.parametrize(
    ("algorithm", "change", "message"),
    [
        ("sft", ("train = ", 'eval = "none.jsonl"\ntrain = '), "none.jsonl does not exist"),
        ("sft", ("seed = 0", "seed = 0\nlearning_rat = 1"), "no such option; nearest: learning_rate"),
        ("sft", ('base = "demo"', 'base = "/nowhere"'), "base '/nowhere' is not a folder"),
        ("sft", ("threads = 1", "thread = 1"), "unknown key 'thread'; the nearest known one is 'threads'"),
        ("sft", ("threads = 1", 'init_from = "support@000000000000"'), "version support@000000000000 does not exist"),
        ("sft", ("threads = 1", 'init_from = "x"'), "init_from 'x' is neither a version"),
        ("sft", ('route = "support"', 'route = "auto"'), "'auto'"),
        ("sft", ("threads = 1", "processes = 2"), "processes = 2, but 1 take part"),
        ("sft", ("[trainer]", "[lora]\nr = 64\n[trainer]"), "[lora] r is 64, the engines take up to 16"),
        ("sft", ("threads = 1", 'quantization = "nf4"'), "the engines serve the base as it is"),
        ("dpo", ("seed = 0", "seed = 0\nmax_length = 9999"), "from 1 to 512 tokens"),
    ],
)
def test_what_is_wrong_is_one_line_before_long_work(train, tmp_path, algorithm, change, message):
    file = training.run_file(tmp_path, algorithm)
    file.write_text(file.read_text().replace(*change))
    assert message in failed(train(algorithm, file))
    assert not (tmp_path / "runs").exists()


def test_an_unknown_algorithm_and_a_missing_file_are_wrong_usage(train, tmp_path):
    failed(train("ppo", tmp_path / "x.toml"), code=2)
    assert "does not exist" in failed(train("sft", tmp_path / "x.toml"))
