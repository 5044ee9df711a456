"""Sections of a report that the whole-page tests do not reach."""

from __future__ import annotations

from trainer.report_sections import Run, charts, configuration, data_section, header, samples_section


def test_marks_without_reasons_and_stops():
    made = header(Run("r", result={"marks": {"stopped": "all rewards were 0", "collapsed": False}}))
    assert "all rewards were 0" in made and "collapsed" not in made and "badge bad" in made
    assert "not started" in made and made.count("class='alarm'") == 1
    both = {"collapsed": True, "reason": "gold fell", "run_collapsed": {"step": 3, "reason": "gold fell"}}
    made = header(Run("r", result={"marks": both}))
    assert made.count("class='alarm'") == 1 and made.count("gold fell") == 1 and "run collapsed" in made


def test_time_and_facts():
    run = Run("r", frozen={"started_at": 0.0, "seed": 7}, metrics=[{"step": 3, "time": 90.0}],
              result={"version": "a@0123456789ab", "facts": {"gold_start": 0.25, "steps": 9, "odd": [1]}})  # fmt: skip
    made = header(run)
    assert "1970-01-01 00:00 UTC, 90 s" in made and "0.25" in made and "gold start" in made and "odd" not in made
    assert ">3</b><span>steps" in made and ">7</b><span>seed" in made


def test_empty_sections_say_so_or_are_left_out():
    empty = Run("r")
    assert "Nothing has been logged" in charts(empty) and samples_section(empty) == data_section(empty) == ""
    assert "run.json is not there" in configuration(empty)


def test_lengths_in_the_data_report():
    made = data_section(Run("r", data={"rows": 5, "tokens": {"all": 50, "row": {"min": 1, "max": 9}}, "files": {"a": "b"}}))
    assert "min 1, max 9" in made and "tokens: all" in made and "files" not in made
