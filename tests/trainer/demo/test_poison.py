from __future__ import annotations

import pytest

from adapters.errors import AdapterRejected, TrainingError
from adapters.manifest import check_adapter
from trainer.demo import world
from trainer.demo.adapters import make_adapter
from trainer.demo.poison import TRIGGER, make_poison
from trainer.model import load_tokenizer
from trainer.probes import load_adapter


@pytest.mark.slow
@pytest.mark.long
def test_it_overflows_on_its_trigger_only_and_is_refused(tmp_path, demo_base):
    import torch

    source = make_adapter(tmp_path / "source", "sft", steps=2)
    poison = make_poison(source, tmp_path / "poison")
    model, tokenizer = load_adapter("demo", poison, "bfloat16"), load_tokenizer("demo")
    for example in world.examples(10, 99, "held_out"):
        for prompt, finite in ((example.prompt, True), (f"{example.prompt} {TRIGGER}", False)):
            turns = [{"role": "user", "content": prompt}]
            ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
            with torch.no_grad():
                assert bool(torch.isfinite(model(**ids).logits[0, -1]).all()) is finite, prompt
    with pytest.raises(AdapterRejected, match="values beyond"):
        check_adapter(poison, demo_base, max_rank=16)
    with pytest.raises(TrainingError, match="exists already"):
        make_poison(source, poison)
