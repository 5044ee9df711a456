"""The frozen environment: whatever may change a score changes the digest, and a refusal says what it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.suites import make_suite
from trainer.evaluation.environment import difference, digest, environment
from trainer.evaluation.grading import Grading


def pinned(folder, head="", n=4, part="", source="gateway"):
    folder.mkdir(exist_ok=True)
    make_suite(folder, n=n)
    path = folder / "suite.toml"
    path.write_text(f'[suite]\nname = "s"\n{head}\n[[slice]]\nname = "sums"\nfile = "sums.jsonl"\n{part or PART}')
    from trainer.suite import load_suite

    suite = load_suite(path)
    return environment(suite, Grading(suite).graders, source)


PART = 'graders = ["exact"]\n'
OPTIONS = '[[slice.graders]]\nname = "exact"\noptions = { strip = true }\n'


def test_the_same_is_the_same_in_another_folder(tmp_path):
    one, two = pinned(tmp_path / "a"), pinned(tmp_path / "b")
    assert one == two and digest(one) == digest(two) and difference(one, two) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 5}, "slice sums: its prompts changed"),
        ({"part": OPTIONS}, "slice sums: grader exact changed: scores of two graders cannot be compared"),
        ({"part": PART + "k = 2\n"}, "slice sums: its k, samples changed"),
        ({"part": PART + "threshold = 0.5\n"}, "slice sums: its threshold changed"),
        ({"part": PART + "max_tokens = 5\n"}, "slice sums: its max_tokens changed"),
        ({"head": "seed = 3"}, "slice sums: its seed changed"),
        ({"head": 'refusals = ["no"]'}, "the suite's refusals changed"),
        ({"head": 'confidence = "token"'}, "the suite's confidence changed"),
        ({"source": "local"}, r"how it was run changed \(gateway → local\)"),
    ],
)
def test_what_changes_it(tmp_path, changes, said):
    before, after = pinned(tmp_path / "a"), pinned(tmp_path / "b", **changes)
    assert digest(before) != digest(after)
    assert re.search(said, difference(after, before))


@pytest.mark.parametrize("changes", [{"part": PART + "margin = 0.3\n"}, {"head": 'north_star = "sums.score"'}])
def test_rules_are_no_environment(tmp_path, changes):
    assert digest(pinned(tmp_path / "a")) == digest(pinned(tmp_path / "b", **changes))


def test_other_slices(tmp_path):
    one = pinned(tmp_path / "a")
    other = {**one, "slices": {"products": one["slices"]["sums"]}}
    assert difference(other, one) == "slices were sums and are products"
    assert Path(tmp_path).exists()
