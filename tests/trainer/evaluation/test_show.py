"""Tables for a terminal: what was measured is there, and what somebody else wrote does not steer it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from tests.support.suites import V, W, make_suite, right, run, write_slice
from trainer.evaluation.comparison import compare
from trainer.evaluation.show import print_comparison, print_evaluation


def printed(show, *arguments):
    out = io.StringIO()
    show(*arguments, Console(file=out, width=160))
    return out.getvalue()


def test_an_evaluation(tmp_path):
    found = run(tmp_path, make_suite(tmp_path), right(0.75)).evaluation
    text = printed(print_evaluation, found)
    assert f"{V} · s · gateway" in text and "0.750 [0.598, 0.858]" in text
    assert "north star mean: 0.750 [0.598, 0.858]" in text and "ECE [95 %]" in text
    assert "sums: 10 prompts wrong by exact, such as sums.jsonl:31: 'sums 30' → 'wrong'" in text
    assert "pass@k" not in text and "refusal" not in text and "cost" not in text


def test_columns_come_with_what_they_show(tmp_path):
    write_slice(tmp_path, "sums", 4)
    (tmp_path / "safe.jsonl").write_text("".join(json.dumps({"prompt": f"p{i}", "should_refuse": False}) + "\n" for i in range(4)))
    text = '[[slice]]\nname = "sums"\nfile = "sums.jsonl"\ngraders = ["exact"]\nk = 2\n[[slice]]\nname = "safe"\nfile = "safe.jsonl"\n'
    suite = make_suite(tmp_path, text, "price_output = 5.0")
    found = run(tmp_path, suite, lambda ask: "I can't help with that." if ask.part.name == "safe" else "1").evaluation
    text = printed(print_evaluation, found)
    assert "pass@k" in text and "@2" in text and "1.000 / -" in text and "a thousand answers cost" in text
    assert "safe: 4 prompts refused, such as" in text


def test_a_comparison(tmp_path):
    suite = make_suite(tmp_path)
    bodies = [run(tmp_path, suite, right(share)).evaluation.body for share in (0.8, 0.4)]
    text = printed(print_comparison, compare(*bodies), V, W)
    assert f"{V} against {W}" in text and "+0.400 [" in text and "16/0" in text and "better" in text
    for value in bodies[1]["slices"]["sums"]["values"]:
        value["pass_at_1"] = None
    text = printed(print_comparison, compare(*bodies), V, W)
    assert "no data" in text and "north star mean: no data" in text


def test_brackets_are_text(tmp_path):
    found = run(tmp_path, make_suite(tmp_path), lambda ask: "[bold red]boo[/] \x1b[2J").evaluation
    text = printed(print_evaluation, replace(found, suite="[red]s"))
    assert "[bold red]boo" in text and "[red]s" in text and "\x1b" not in text
