"""Suites: what is read, what is refused, each in one line before any long work."""

from __future__ import annotations

import json

import pytest

from adapters.errors import ConfigError, TrainingError
from trainer.suite import load_suite, split_north_star
from trainer.suite_rows import read_rows

ROWS = [{"prompt": [{"role": "user", "content": "2+2"}], "answer": "4"}, {"prompt": "3+3", "answer": "6", "level": 1}]


def write(folder, rows=ROWS, suite="", part='graders = ["exact"]', lines=None):
    text = lines if lines is not None else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "sums.jsonl").write_text(text)
    path = folder / "suite.toml"
    path.write_text(f'[suite]\nname = "s"\n{suite}\n[[slice]]\nname = "sums"\nfile = "sums.jsonl"\n{part}\n')
    return path


def test_what_is_read(tmp_path):
    suite = load_suite(write(tmp_path, suite="temperature = 0.5", part='graders = "exact"\nk = 2\nsamples = 4'))
    (part,) = suite.slices
    assert (suite.name, part.name, part.settings.n, part.temperature, part.max_tokens) == ("s", "sums", 4, 0.5, 256)
    assert suite.prompts() == [({"role": "user", "content": "2+2"},), ({"role": "user", "content": "3+3"},)]
    assert part.rows[1].columns == {"answer": "6", "level": 1}
    assert part.rows[1].where.endswith("sums.jsonl:2")
    assert tuple(read_rows(tmp_path / "sums.jsonl")) == part.rows
    assert part.rows[0].id != part.rows[1].id and not part.labelled


def test_a_table_names_a_grader_too(tmp_path):
    part = '[[slice.graders]]\nname = "exact"\nweight = 2\n[slice.graders.options]\nstrip = true'
    (found,) = load_suite(write(tmp_path, part=part)).slices[0].settings.graders
    assert (found.name, found.weight, found.options) == ("exact", 2.0, {"strip": True})


def test_variables_do_not_change_a_frozen_suite(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_SUITE__SEED", "99")
    assert load_suite(write(tmp_path)).settings.seed == 0


def test_limits_and_overrides(tmp_path):
    part = 'graders = ["exact"]\nlimit = 1\nmax_tokens = 9\ntemperature = 0'
    (found,) = load_suite(write(tmp_path, part=part)).slices
    assert (len(found.rows), found.max_tokens, found.temperature) == (1, 9, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"sums.jsonl:2: not JSON .*expected \{\"prompt\""),
        ('{"prompt": "a", "answer": "\\ud83d"}', "not JSON"),
        ('{"prompt": "a", "answer": NaN}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        (json.dumps(ROWS[0]), "the same row as .*sums.jsonl:1: every prompt must be there once"),
        ("[]", 'expected an object with "prompt"'),
        ('{"answer": "4"}', 'expected an object with "prompt"'),
        ('{"prompt": []}', "ending with the user's message"),
        ('{"prompt": ""}', "ending with the user's message"),
        ('{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}', "ending with the user"),
        ('{"prompt": [{"role": "robot", "content": "a"}]}', "not a list of chat messages"),
        ('{"prompt": [{"role": "user", "content": null}]}', "not a list of chat messages"),
        ('{"prompt": "a", "should_refuse": "yes"}', "should_refuse is 'yes': write true or false"),
        ('{"prompt": "a", "should_refuse": true}', "either every row of slice sums has should_refuse, or none"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, line, message):
    with pytest.raises(TrainingError, match=message) as caught:
        load_suite(write(tmp_path, lines=json.dumps(ROWS[0]) + "\n" + line + "\n"))
    assert "sums.jsonl:2" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("suite", "part", "message"),
    [
        ('north_star = "products"', 'graders = ["exact"]', "north_star 'products' is no slice; there are sums"),
        ('north_star = "sums.accuracy"', 'graders = ["exact"]', r"pass_at_1\|pass_at_k\|score"),
        ('north_star = "mean.score"', 'graders = ["exact"]', "north_star 'mean.score'"),
        ("", "", "no graders, and its rows no should_refuse"),
        ("", 'graders = ["exact"]\nk = 4\nsamples = 2', r"samples \(2\) must be at least k \(4\)"),
        ("temperature = 0", 'graders = ["exact"]\nk = 2', "2 samples at temperature 0"),
        ("", 'grader = ["exact"]', "unknown key 'slice.0.grader'; the nearest known one is 'graders'"),
        ('refusals = ["("]', 'graders = ["exact"]', "does not compile"),
        ("", 'graders = ["exact"]\nmargin = 0', "margin"),
    ],
)
def test_bad_settings(tmp_path, suite, part, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_suite(write(tmp_path, suite=suite, part=part))
    assert "\n" not in str(caught.value)


def test_no_prompts_no_file_no_suite(tmp_path):
    with pytest.raises(TrainingError, match="slice sums has no prompts"):
        load_suite(write(tmp_path, lines="\n\n"))
    path = write(tmp_path)
    (tmp_path / "sums.jsonl").unlink()
    with pytest.raises(TrainingError, match="cannot be read"):
        load_suite(path)
    with pytest.raises(ConfigError, match=r"nothing\.toml does not exist: docs/evaluation\.md"):
        load_suite(tmp_path / "nothing.toml")


def test_a_slice_is_there_once(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + '[[slice]]\nname = "sums"\nfile = "sums.jsonl"\ngraders = ["exact"]\n')
    with pytest.raises(ConfigError, match="slice 'sums' is there twice"):
        load_suite(path)


def test_north_stars():
    assert split_north_star("mean") == ("mean", "pass_at_1")
    assert split_north_star("a.score") == ("a", "score")
    assert split_north_star("a") == ("a", "pass_at_1")
