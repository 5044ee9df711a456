"""The report of a run: whole, half-finished, empty, torn, hostile."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from adapters.errors import TrainingError
from tests.support.suites import V, make_suite, right, run
from trainer.report import SAVED, write_report


class Checked(HTMLParser):
    """Tags must be closed in order; collects text, tags and what would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.tags, self.outside = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.outside += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "i"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag != "i":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page(folder):
    text = write_report(folder).read_text()
    checked = Checked(text)
    assert checked.outside == [] and "script" not in checked.tags and "@import" not in text
    return checked, " ".join(checked.text), text


def made(folder, steps=30):
    """A run of 30 steps that collapsed."""
    metrics = [{"step": s, "time": 1000.0 + s, "split": "train", "loss": 1 / (s + 1), "reward": 0.5 + s / 100} for s in range(steps)]
    metrics += [
        {"step": s, "time": 1000.0 + s, "split": "health", "health.reward": 0.5 + s / 60, "health.gold": 0.5 - s / 90,
         "health.kl": s / 100, "health.entropy": None if s == 10 else 1.0}
        for s in range(0, steps, 5)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    frozen = {"algorithm": "grpo", "started_at": 1000.0, "seed": 3, "config": {"route": "support"}, "base_digest": "ab" * 32}
    (folder / "run.json").write_text(json.dumps(frozen))
    marks = {"collapsed": True, "reason": "gold fell", "run_collapsed": {"step": 20, "since": 5, "reason": "gold fell"}}
    result = {"version": V, "step": 25, "marks": marks, "facts": {"gold_start": 0.5, "gold_published": 0.31}}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "data_report.json").write_text(json.dumps({"rows": 400, "duplicates_near": 3, "tokens": {"row": {"median": 9}}}))
    samples = [{"step": s, "prompt": "add 1 2", "completion": f"Sure! {s}", "reward": 1.0, "gold": 0.0, "tokens": 4} for s in (0, 5, 25)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return folder


def test_a_whole_run(tmp_path):
    checked, text, _ = page(made(tmp_path))
    for said in ("grpo", V, "gold fell", "Reward and gold", "KL to the reference", "Loss", "published", "gold published",
                 "duplicates near", "ab" * 32, "Sure! 25", "Sure! 0", "0.31", "400"):  # fmt: skip
        assert said in text, said
    assert "Sure! 5" not in text and "Preference accuracy" not in text
    assert checked.tags.count("svg") == 4 and checked.tags.count("polyline") >= 6
    assert "Not evaluated yet" in text


def test_slices_before_and_after(tmp_path):
    suite = make_suite(tmp_path)
    (tmp_path / SAVED).mkdir()
    for name, share in (("after", 0.8), ("before", 0.5)):
        found = run(tmp_path, suite, right(share)).evaluation
        (tmp_path / SAVED / f"{name}.json").write_text(json.dumps({"version": name, **found.body}))
    checked, text, _ = page(made(tmp_path))
    assert checked.tags.count("svg") == 5 and "sums" in text and "North star mean: 0.800" in text
    assert "sums: 0.500 [" in text and "Where it still fails" in text


def test_a_run_that_has_just_begun(tmp_path):
    checked, text, _ = page(tmp_path)
    assert "Nothing has been logged yet" in text and "not published" in text and checked.tags.count("svg") == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 2.0, "split": "train", "loss": 0.5}\n{"step": 2, "ti')
    (tmp_path / "run.json").write_text("{")
    checked, text, _ = page(tmp_path)
    assert "Loss" in text and checked.tags.count("svg") == 1


def test_what_a_model_says_stays_text(tmp_path):
    made(tmp_path)
    evil = '<script>alert(1)</script>"$body\' <img src=x>'
    (tmp_path / "samples.jsonl").write_text(json.dumps({"step": 1, "prompt": evil, "completion": evil}) + "\n")
    (tmp_path / "run.json").write_text(json.dumps({"algorithm": evil, "config": {"a": evil}}))
    checked, text, raw = page(tmp_path)
    assert text.count("alert(1)") == 5  # badge, prompt, answer, twice in the configuration
    assert "<script" not in raw and "img" not in checked.tags


@pytest.mark.parametrize("row", [[], {"step": "x"}, {"step": 1, "split": "train", "loss": "high"}, {"step": 1, "split": "train", "loss": None}])
def test_odd_rows_are_left_out(tmp_path, row):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    checked, _, _ = page(tmp_path)
    assert checked.tags.count("svg") == 0


def test_a_resumed_run_shows_what_was_measured_last(tmp_path):
    rows = [{"step": s, "split": "train", "loss": v} for s, v in ((1, 5.0), (2, 4.0), (2, 3.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, _, raw = page(tmp_path)
    assert re.findall(r"step 2: (\S+?)<", raw) == ["3"]


def test_no_folder_and_no_room(tmp_path):
    with pytest.raises(TrainingError, match="is no run directory"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "report.html").mkdir()
    (tmp_path / "report.html" / "x").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        write_report(tmp_path)
    assert not list(tmp_path.glob(".report*"))
