"""`understudy guard`: wrong use in one line, the self-test, and calibration on the demo's guard."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.guard.labelled import read_labelled
from tests.support.commands import failed, good
from trainer.demo import guard_world


@pytest.fixture
def run(tmp_path):
    config = tmp_path / "understudy.toml"
    config.write_text('[screening]\nmodel = "demo"\n')

    def invoke(*arguments, config=config):
        return CliRunner().invoke(app, ["guard", *map(str, arguments), "-c", str(config)])

    return invoke


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "labelled.jsonl"
    rows = [example.row() for example in guard_world.examples(300, 5, "held_out", "prompt")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_calibration_finds_a_threshold_that_the_service_takes(run, labelled, tmp_path):
    found = json.loads(good(run("calibrate", "--data", labelled, "--fpr", 0.05, "--plot", tmp_path / "p.svg", "--json")))
    benign = sum(not row.unsafe for row in read_labelled(labelled))
    assert (found["benign"], found["unsafe"]) == (benign, 300 - benign)
    assert 0 < found["threshold"] < 1 and found["measured_fpr"] <= 0.05 and found["recall"] > 0.8
    low, high = found["fpr_interval"]
    assert low < 0.05 < high
    assert (tmp_path / "p.svg").read_text().startswith("<svg ")


def test_calibration_prints_lines_for_the_configuration(run, labelled, tmp_path):
    lines = good(run("calibrate", "--data", labelled, "--fpr", "0.05")).splitlines()
    (tmp_path / "next.toml").write_text("\n".join(['[screening]\nmodel = "demo"', *lines[-2:]]))
    assert lines[-2].startswith("threshold = ") and lines[-1].startswith("temperature = ")
    assert "told safe from unsafe" in good(run("--check", config=tmp_path / "next.toml"))


@pytest.mark.parametrize(("text", "message"), [
    ("", "has no rows"), ("x", ":1 is not JSON"), ('{"prompt": "a"}', 'a row needs "unsafe"'),
    ('{"prompt": "a", "unsafe": 1}', 'a row needs "unsafe"'), ('{"unsafe": true}', 'a row needs "messages"'),
    ('{"prompt": "a", "unsafe": false}', "needs at least 99 benign texts, there are 1"),
])  # fmt: skip
def test_labelled_texts_that_do_not_do(run, tmp_path, text, message):
    (tmp_path / "bad.jsonl").write_text(text)
    assert message in failed(run("calibrate", "--data", tmp_path / "bad.jsonl"))


def test_a_missing_file_and_a_missing_model(run, tmp_path):
    assert "cannot be read" in failed(run("calibrate", "--data", tmp_path / "none.jsonl"))
    (tmp_path / "empty.toml").write_text("")
    assert "screening.model names no guard" in failed(run("--check", config=tmp_path / "empty.toml"))


def test_a_row_that_cannot_be_judged_is_named(run, labelled):
    with labelled.open("a") as file:
        file.write('{"messages": [], "unsafe": false}\n')
    assert "labelled.jsonl:301 cannot be judged" in failed(run("calibrate", "--data", labelled, "--fpr", "0.1"))


@pytest.mark.parametrize(("text", "message"), [
    ('mode = "enforce"', 'mode = "enforce" needs model'), ('backend = "vllm"', "needs vllm_url"),
    ("threshold = 1.5", "screening.threshold"), ("treshold = 0.5", "nearest known one is 'threshold'"),
    ('host = "0.0.0.0"\nmodel = "demo"', "screening.host is 0.0.0.0, which others can reach: set screening.api_key"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_one_line(run, tmp_path, text, message):
    (tmp_path / "bad.toml").write_text(f"[screening]\n{text}\n")
    assert message in failed(run(config=tmp_path / "bad.toml"))
