"""Answers from transformers on the demo base: seeded, with the logprobs of what was sampled."""

from __future__ import annotations

import pytest

from adapters.base import resolve_base
from adapters.errors import TrainingError
from tests.support.suites import make_suite
from trainer.demo.suite import write_suite
from trainer.evaluation.answers import asks
from trainer.evaluation.local import LocalAnswers
from trainer.suite import load_suite

BASE = resolve_base("demo")


def answers(suite, **options):
    found = {}
    LocalAnswers(BASE, None, **options).run(asks(suite), lambda ask, answer: found.__setitem__(ask.key, answer))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    suite = load_suite(write_suite(tmp_path_factory.mktemp("suite"), prompts=4, samples=2))
    return suite, answers(suite)


def test_seeded(found):
    suite, first = found
    assert len(first) == 48 and len({answer.text for answer in first.values()}) > 10
    texts = {key: answer.text for key, answer in answers(suite).items()}
    assert texts == {key: answer.text for key, answer in first.items()}


def test_logprobs_are_those_of_the_whole_answer(found):
    """Recomputed by one forward pass over prompt, answer and end token."""
    import torch

    from trainer.model import load_base, load_tokenizer

    suite, first = found
    model, tokenizer = load_base(BASE), load_tokenizer(BASE)
    checked = 0
    for ask in asks(suite)[:12]:
        answer = first[ask.key]
        if answer.finish != "stop":
            continue
        prompt = tokenizer.apply_chat_template(ask.messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        new = [*tokenizer(answer.text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *new]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        expected = logits.gather(-1, torch.tensor(new)[:, None]).sum().item()
        assert answer.logprob == pytest.approx(expected, abs=1e-3)
        assert (answer.logprob_tokens, answer.output_tokens, answer.input_tokens) == (len(new), len(new), len(ids))
        checked += 1
    assert checked >= 6


def test_a_prompt_beyond_the_context_names_its_row(tmp_path):
    (tmp_path / "long.jsonl").write_text('{"prompt": "' + "a" * 600 + '", "answer": "b"}\n')
    suite = make_suite(tmp_path, '[[slice]]\nname = "long"\nfile = "long.jsonl"\ngraders = ["exact"]\n')
    with pytest.raises(TrainingError, match=r"long.jsonl:1: \d+ tokens and 256 new ones exceed the context"):
        answers(suite)


def test_no_adapter_there(tmp_path):
    with pytest.raises(TrainingError, match="is not an adapter directory"):
        LocalAnswers(BASE, tmp_path).run(asks(make_suite(tmp_path, n=1)), lambda ask, answer: None)
