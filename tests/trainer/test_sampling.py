"""Answers and how far the policy has moved: on the demo base, against numbers worked out by hand."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from trainer.demo import tokenizer as tk
from trainer.model import load_base, load_tokenizer
from trainer.sampling import (
    Answer,
    end_tokens,
    evaluating,
    logprob_gap,
    movement,
    render,
    sample,
    token_logprobs,
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo")


@pytest.fixture(scope="module")
def model():
    """The base with an adapter that changes its answers."""
    torch.manual_seed(3)
    made = get_peft_model(load_base("demo"), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    return made.eval()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [render(tokenizer, [{"role": "user", "content": text}]) for text in ("last abc", "reverse abcdef", "add 1 2")]


def by_hand(model, answer):
    """log p(. | …) at every answer token; shape (tokens, vocabulary)."""
    ids = torch.tensor([[*answer.prompt_ids, *answer.ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    start = len(answer.prompt_ids) - 1
    return torch.log_softmax(logits[start : start + len(answer.ids)].double(), -1)


def test_a_prompt_is_what_the_engine_would_be_given(tokenizer):
    assert render(tokenizer, [{"role": "user", "content": "ab"}]) == [tk.BOS_ID, tk.USER_ID, *tk.encode("ab"), tk.ASSISTANT_ID]


def test_sampling_is_repeatable_and_changes_nothing_else(model, tokenizer, prompts):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model.train()
    first = sample(model, tokenizer, prompts, max_tokens=6, samples=2, seed=1)
    assert model.training
    assert torch.rand(1) == expected
    assert first == sample(model, tokenizer, prompts, max_tokens=6, samples=2, seed=1)
    assert first != sample(model, tokenizer, prompts, max_tokens=6, samples=2, seed=2)
    assert [len(several) for several in first] == [2, 2, 2]
    model.eval()


def test_answers_end_with_the_token_that_ended_them(model, tokenizer, prompts):
    for several in sample(model, tokenizer, prompts, max_tokens=5, samples=4, seed=1, batch=5):
        for answer in several:
            assert 1 <= len(answer.ids) <= 5
            assert tk.EOS_ID not in answer.ids[:-1]
            assert answer.text == tk.decode(list(answer.ids))
            assert len(answer.ids) == 5 or answer.ids[-1] == tk.EOS_ID
    assert end_tokens(model, tokenizer) == [tk.EOS_ID]


def test_kl_and_entropy_are_the_whole_distributions(model, tokenizer, prompts):
    answers = [a for several in sample(model, tokenizer, prompts, max_tokens=6, samples=2, seed=4) for a in several]
    kl = entropy = tokens = 0.0
    for answer in answers:
        own = by_hand(model, answer)
        with model.disable_adapter():
            base = by_hand(model, answer)
        kl += float((own.exp() * (own - base)).sum())
        entropy -= float((own.exp() * own).sum())
        tokens += len(answer.ids)
    found = movement(model, answers)
    assert found.kl == pytest.approx(kl / tokens, rel=1e-3)
    assert found.kl > 0.01
    assert found.entropy == pytest.approx(entropy / tokens, rel=1e-3)


def test_kl_is_nothing_to_itself_and_measured_to_a_named_reference(model, tokenizer, prompts):
    answers = [several[0] for several in sample(model, tokenizer, prompts, max_tokens=4, seed=4)]
    model.add_adapter("ref", model.peft_config["default"])
    try:
        for name, parameter in model.named_parameters():
            if ".default." in name:
                model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
        assert movement(model, answers, reference="ref").kl == pytest.approx(0, abs=1e-6)
        assert model.active_adapter == "default"
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained
        assert all(".default." in name for name in trained)
    finally:
        model.delete_adapter("ref")


def test_logprobs_of_the_answers_own_tokens(model, tokenizer, prompts):
    answers = [several[0] for several in sample(model, tokenizer, prompts, max_tokens=4, seed=4)]
    for answer, found in zip(answers, token_logprobs(model, answers), strict=True):
        expected = by_hand(model, answer)[range(len(answer.ids)), list(answer.ids)]
        assert found == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_gap_is_the_mean_distance_of_what_is_known(model, tokenizer, prompts):
    (answer,) = sample(model, tokenizer, prompts[:1], max_tokens=4, seed=4)[0]
    (own,) = token_logprobs(model, [answer])
    shifted = Answer(answer.prompt_ids, answer.ids, answer.text, tuple(value + 0.25 for value in own))
    assert logprob_gap(model, [shifted]) == pytest.approx(0.25, abs=1e-4)
    unknown = Answer(answer.prompt_ids, answer.ids, answer.text, (math.nan,) * len(own))
    assert math.isnan(logprob_gap(model, [unknown]))
    assert logprob_gap(model, [shifted, unknown]) == pytest.approx(0.25, abs=1e-4)


def test_no_tokens_measure_nothing(model):
    with pytest.raises(ValueError, match="no tokens"):
        movement(model, [])


def test_evaluating_puts_the_mode_back():
    layer = torch.nn.Dropout(0.5).train()
    with pytest.raises(RuntimeError), evaluating(layer):
        assert not layer.training
        raise RuntimeError
    assert layer.training
