import itertools
import random

import pytest
import torch

from trainer.demo import pretrain as pre
from trainer.demo import tokenizer as tk


@pytest.mark.parametrize("shape", ["plain", "system", "turns"])
def test_a_dialogue_is_what_the_chat_template_renders(shape):
    tokenizer = tk.build_tokenizer()
    ids, _ = pre.dialogue(random.Random(3), shape)
    text = tokenizer.decode(ids)
    messages = []
    for part in text.removeprefix("<|bos|>").replace("<|eos|>", "").split("<|")[1:]:
        role, content = part.split("|>", 1)
        messages.append({"role": role, "content": content})
    assert [m["role"] for m in messages] == {
        "plain": ["user", "assistant"],
        "system": ["system", "user", "assistant"],
        "turns": ["user", "assistant"] * 2,
    }[shape]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == text


def test_only_replies_and_their_eos_are_trained():
    ids, labels = pre.dialogue(random.Random(4), "turns")
    assert len(ids) == len(labels)
    inside = False
    for token, label in zip(ids, labels, strict=True):
        assert label == (token if inside else -100)
        inside = (inside or token == tk.ASSISTANT_ID) and token != tk.EOS_ID


def test_batches_are_padded_on_the_right_and_repeatable():
    first, again = (list(itertools.islice(pre.batches(5, 3), 3)) for _ in range(2))
    for (ids, labels), (ids_again, labels_again) in zip(first, again, strict=True):
        assert ids.shape == labels.shape == (pre.BATCH, ids.shape[1])
        assert (ids[:, 0] == tk.BOS_ID).all()
        assert (labels[ids == tk.PAD_ID] == -100).all()
        assert torch.equal(ids, ids_again)
        assert torch.equal(labels, labels_again)


def test_the_model_is_small_and_every_linear_fits_the_4_bit_kernels():
    model = pre.build_model(0)
    assert 0.75e6 < sum(p.numel() for p in model.parameters()) < 1.0e6
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            assert module.in_features % 32 == 0, name
            assert module.out_features % 32 == 0, name


def test_every_matrix_is_optimised_exactly_once():
    model = pre.build_model(0)
    held = [id(p) for o in pre.optimizers(model) for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
