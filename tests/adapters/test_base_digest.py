"""What identifies a base, and that big files are hashed once."""

from __future__ import annotations

import numpy
import pytest

from adapters.base import read_base
from tests.support import peft


def test_the_digest_is_of_content_not_of_place(tmp_path):
    first = peft.write_base(tmp_path / "a", _name_or_path="/home/a", transformers_version="5.1")
    second = peft.write_base(tmp_path / "b", _name_or_path="/home/b", transformers_version="5.2")
    assert read_base(first).digest == read_base(second).digest


@pytest.mark.parametrize("change", ["weights", "config", "tokenizer", "template"])
def test_the_digest_changes_with(tmp_path, change):
    folder = peft.write_base(tmp_path / "b")
    before = read_base(folder, tmp_path / "cache").digest
    if change == "weights":
        peft.write_base(folder, {**peft.plain_tensors(), "model.norm.weight": numpy.ones(peft.HIDDEN, "f4")})
    elif change == "config":
        peft.write_base(folder, rope_theta=5)
    elif change == "tokenizer":
        (folder / "tokenizer.json").write_text('{"a": 1}')
    else:
        (folder / "chat_template.jinja").write_text("{{ x }}")
    assert read_base(folder, tmp_path / "cache").digest != before


def test_big_files_are_hashed_once(tmp_path):
    folder, cache, calls = peft.write_base(tmp_path / "b"), tmp_path / "cache", []
    first = read_base(folder, cache, lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 0
    calls.clear()
    assert read_base(folder, cache, lambda done, total: calls.append((done, total))) == first
    assert calls == []
    (cache / "base-files.json").write_text("{ nonsense")
    assert read_base(folder, cache) == first


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path):
    (tmp_path / "file").write_text("")
    folder = peft.write_base(tmp_path / "b")
    assert read_base(folder, tmp_path / "file" / "cache") == read_base(folder)
