"""The user's own rewards."""

from __future__ import annotations

import sys

import pytest

from adapters.errors import ConfigError, GraderError
from monitors.rewards.build import build_grader
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample

SAMPLES = [Sample(({"role": "user", "content": "q"},), text, {"answer": "yes", "extra": None}) for text in ("yes", "no!")]


@pytest.fixture
def made(tmp_path):
    def make(source, function="score", module="mine", **options):
        path = tmp_path / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return build_grader(RewardSpec(name=f"{module}:{function}", options=options), tmp_path)

    return make


def test_one_answer_at_a_time(made):
    grader = made("def score(prompt, completion, **columns):\n    return float(completion == columns['answer'])")
    assert grader.name == "mine:score" and grader.score(SAMPLES) == [1.0, 0.0] and grader.score([]) == []


def test_a_list_at_a_time_and_numpy_is_fine(made):
    grader = made("import numpy\ndef score(samples):\n    return numpy.array([len(s.completion) == 3 for s in samples], 'f4')")
    assert grader.score(SAMPLES) == [1.0, 1.0]


def test_columns_by_name_and_a_missing_one_is_a_missing_score(made):
    source = "def score(completion, prompt, answer, extra=7):\n    return float(completion == answer)"
    assert made(source).score([*SAMPLES, Sample((), "yes")]) == [1.0, 0.0, None]
    source = "def score(prompt, completion, extra):\n    return 1.0"
    assert made(source, module="other").score(SAMPLES) == [None, None]


def test_none_is_missing_and_options_are_arguments(made):
    source = "def score(prompt, completion, *, wanted):\n    return None if completion == 'no!' else wanted"
    assert made(source, wanted=0.25).score(SAMPLES) == [0.25, None]


def test_another_scale(made):
    source = "def score(prompt, completion):\n    return len(completion)"
    assert made(source, scale=[0, 6]).score(SAMPLES) == [0.5, 0.5]
    for scale in ([1, 1], [0], "ab", [0, float("inf")]):
        with pytest.raises(ConfigError, match=r"options\.scale is"):
            made(source, scale=scale)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('answer')", "raised KeyError: 'answer'"),
        ("return float('nan')", "returned nan for sample 0"),
        ("return 1e400", "returned inf for sample 0"),
        ("return 3.5", r"returned 3.5 for sample 0: outside 0 to 1 \(options.scale"),
        ("return 'good'", "returned 'good' for sample 0, no number"),
        ("return [1.0]", r"returned \[1.0\] for sample 0, no number"),
    ],
)
def test_what_a_function_may_not_do(made, body, message):
    with pytest.raises(GraderError, match=message) as caught:
        made(f"def score(prompt, completion):\n    {body}").score(SAMPLES)
    assert "mine:score" in str(caught.value)


@pytest.mark.parametrize("result", ["[1.0]", "1.0", "'ab'", "None"])
def test_a_batch_function_returns_one_score_for_each(made, result):
    with pytest.raises(GraderError, match="was given 2 samples and must return a list"):
        made(f"def score(samples):\n    return {result}").score(SAMPLES)


def test_neighbours_can_be_imported_and_nothing_is_hidden(made, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "understudy_test_helper.py").write_text("VALUE = 0.5")
    source = (
        "from dataclasses import dataclass\nimport understudy_test_helper as helper\n@dataclass\nclass D:\n    x: int = 0\n"
        "def score(samples):\n    return [helper.VALUE for _ in samples]"
    )
    assert made(source, module="deep.mine").score(SAMPLES) == [0.5, 0.5]
    assert str(tmp_path / "deep") not in sys.path and "mine" not in sys.modules
    (tmp_path / "json.py").write_text("raise RuntimeError('the one beside the file')")
    with pytest.raises(ConfigError, match="RuntimeError: the one beside the file"):
        build_grader(RewardSpec(name="json:dumps"), tmp_path)


def test_an_installed_module(tmp_path):
    with pytest.raises(ConfigError, match=r"its parameters are \(p, q\)"):
        build_grader(RewardSpec(name="math:dist"), tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:score", "nowhere.py does not exist, and no module 'nowhere' is installed"),
        ("mine:other", "has no function 'other'"),
        ("mine:NUMBER", "has no function 'NUMBER'"),
        ("../mine:score", "is not a module name"),
        ("mine:few", r"write f\(samples\) or f\(prompt, completion"),
        ("broken:score", "fails to load: SyntaxError"),
        ("needs:score", "no module 'not_there' is installed"),
    ],
)
def test_wrong_names_are_found_before_a_run(made, tmp_path, name, message):
    made("NUMBER = 1\ndef few(completion): pass\ndef score(samples): pass")
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "needs.py").write_text("import not_there")
    with pytest.raises(ConfigError, match=message):
        build_grader(RewardSpec(name=name), tmp_path)


def test_the_fingerprint_follows_source_and_options(made):
    source = "def score(prompt, completion, x=1):\n    return 1.0"
    prints = {made(source).fingerprint, made(source, x=2).fingerprint, made(source + " # changed").fingerprint}
    assert len(prints) == 3 and made(source).fingerprint in prints
