"""KTO on the demo base."""

from __future__ import annotations

import re

import pytest

from adapters.errors import ConfigError
from tests.support import training
from trainer import kto
from trainer.demo import measure
from trainer.model import load_tokenizer
from trainer.probes import load_adapter


@pytest.mark.slow
@pytest.mark.long
def test_it_beats_the_base_on_prompts_it_has_never_seen(tmp_path, demo_answers):
    plan, _ = training.run("kto", training.run_file(tmp_path, "kto"))
    asked, base = demo_answers
    tuned = measure.sample(load_adapter("demo", plan.job.run.adapter), [e.prompt for e in asked])
    better = training.mcnemar(base, tuned, asked)
    print(better)
    assert better.gained > better.lost
    assert better.p < 1e-3


def test_the_rarer_thumb_weighs_more(tmp_path):
    rows = training.rows_for("kto", 100)
    few = [row for row in rows if not row["label"]] + [row for row in rows if row["label"]][:10]
    training.write_rows(tmp_path / "few.jsonl", few)
    job = training.plan("kto", training.run_file(tmp_path, "kto", data='train = "few.jsonl"')).job
    down, up = (sum(row.row.data["label"] is label for row in job.dataset.rows) for label in (False, True))
    assert kto.balanced(job) == {"desirable_weight": round(down / up, 4)}
    own = training.plan("kto", training.run_file(tmp_path, "kto", data='train = "few.jsonl"', desirable_weight=1.0)).job
    assert kto.balanced(own) == {}


def test_a_batch_of_one_is_refused(tmp_path):
    job = training.plan("kto", training.run_file(tmp_path, "kto", per_device_train_batch_size=1)).job
    with pytest.raises(ConfigError, match=re.escape("trainer.per_device_train_batch_size is 1")):
        kto.make_trainer(job, load_tokenizer("demo"))
