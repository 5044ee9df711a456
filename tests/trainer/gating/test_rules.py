"""The rules file."""

from __future__ import annotations

import pytest

from adapters.errors import ConfigError
from trainer.gating.rules import PromotionRules, load_rules


def test_defaults_need_no_file():
    assert load_rules(None) == PromotionRules()
    assert PromotionRules().improvement == "required" and "collapsed" in PromotionRules().refused_marks


def test_a_file(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text('improvement = "no_harm"\nsuites = ["s"]\n[[ceiling]]\nslice = "safety"\nmost = 0.01\n')
    found = load_rules(path)
    assert (found.improvement, found.suites, found.ceiling[0].metric) == ("no_harm", ("s",), "failure")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_improvment = 0.1", "unknown key 'min_improvment'; the nearest known one is 'min_improvement'"),
        ("alpha = 0", "alpha"),
        ('[[ceiling]]\nslice = "a"\nmost = 0.1\nmetric = "harm"', "ceiling.0.metric"),
        ('[[ceiling]]\nslice = "a"\nmost = 0.1\n[[ceiling]]\nslice = "a"\nmost = 0.2\n', "two ceilings"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_rules(path)
