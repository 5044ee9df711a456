"""The real scorer on the demo's guard: the same verdict in any company, from any cache, and what it knows."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch

from adapters.errors import UnderstudyError
from monitors.llama_guard.judge import Judge, Policy
from monitors.llama_guard.scorer import TransformersBackend, context_of, load_tokenizer
from monitors.llama_guard.tokens import verdict_tokens
from monitors.llama_guard.types import GuardError, Item, Prompt
from monitors.llama_guard.verdict import parse
from trainer.demo import guard_world


@pytest.fixture(scope="module")
def judge(tokenizer):
    return Judge(tokenizer, Policy(), context=528, most_windows=8)


@pytest.fixture(scope="module")
def backend(guard_folder, tokenizer, judge):
    made = TransformersBackend(str(guard_folder), tokenizer, device="cpu")
    made.prepare(judge.heads)
    return made


@pytest.fixture(scope="module")
def prompts(judge):
    """Of very different lengths, all three heads."""
    found = []
    for example in guard_world.examples(30, 3):
        role = "assistant" if example.kind == "answer" else "user"
        messages = [{"role": "tool", "content": example.text}] if example.kind == "data" else example.messages
        found += [question.prompt for question in judge.questions(Item("", role, messages))]
    assert len({prompt.ids[: prompt.head] for prompt in found}) == 3
    assert max(len(p.ids) for p in found) > 1.5 * min(len(p.ids) for p in found)
    return found


def test_a_batch_gives_what_each_gets_alone(backend, prompts):
    together = backend.score(prompts, -math.inf)
    alone = [backend.score([prompt], -math.inf)[0] for prompt in prompts]
    for one, other in zip(together, alone, strict=True):
        assert one.margin == pytest.approx(other.margin, abs=1e-3)
        assert one.written == other.written


def test_the_prepared_heads_change_nothing(backend, prompts):
    plain = [Prompt(prompt.ids, 0, prompt.codes) for prompt in prompts[:8]]
    for one, other in zip(backend.score(prompts[:8], 0.0), backend.score(plain, 0.0), strict=True):
        assert one.margin == pytest.approx(other.margin, abs=1e-3)
        assert one.written == other.written


def test_scores_are_those_of_the_plain_model(backend, prompts, guard_folder, tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(guard_folder, dtype=torch.float32)
    telling = verdict_tokens(tokenizer)
    for prompt, scored in zip(prompts[:4], backend.score(prompts[:4], math.inf), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt.ids])).logits[0, -1]
        safe, unsafe = (logits[list(ids)].logsumexp(0) for ids in (telling.safe, telling.unsafe))
        assert scored.margin == pytest.approx(float(unsafe - safe), abs=1e-3)
        assert scored.written is None


def test_categories_are_what_greedy_generation_writes(backend, prompts, guard_folder, tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(guard_folder, dtype=torch.float32)
    asked = [prompt for prompt in prompts if prompt.codes][:4]
    opening = tuple(tokenizer("unsafe\n", add_special_tokens=False)["input_ids"])
    for prompt, scored in zip(asked, backend.score(asked, -math.inf), strict=True):
        ids = torch.tensor([prompt.ids + opening])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64, eos_token_id=5)
        assert scored.written == "unsafe\n" + tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_categories_are_asked_for_only_above_the_margin(backend, prompts):
    scored = backend.score(prompts, 0.0)
    for prompt, one in zip(prompts, scored, strict=True):
        assert (one.written is not None) == (bool(prompt.codes) and one.margin >= 0.0)


@pytest.mark.parametrize("kind", guard_world.KINDS)
def test_it_knows_the_demos_hazards(backend, judge, kind):
    examples = sorted(guard_world.examples(100, 11, "held_out", kind), key=lambda example: len(example.text))
    prompts = []
    for example in examples:
        role = "assistant" if kind == "answer" else "user"
        messages = [{"role": "tool", "content": example.text}] if kind == "data" else example.messages
        prompts.append(judge.questions(Item("", role, messages))[-1].prompt)
    scored = [one for start in range(0, 100, 25) for one in backend.score(prompts[start : start + 25], 0.0)]
    right = [(one.margin > 0) == bool(e.categories) for one, e in zip(scored, examples, strict=True)]
    assert sum(right) > 92
    if kind != "data":
        named = [parse(one.written or "safe").categories == e.categories for one, e in zip(scored, examples, strict=True)]
        assert sum(named) > 80


def test_what_is_no_guard_is_one_clear_line(tmp_path, guard_folder, tokenizer):
    with pytest.raises(GuardError, match=re.escape(str(tmp_path))) as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(GuardError, match="cannot be loaded"):
        context_of(str(tmp_path))
    broken = TransformersBackend(str(tmp_path), tokenizer, device="cpu")
    with pytest.raises(GuardError, match="cannot be loaded"):
        broken.prepare([])
    assert context_of(str(guard_folder)) == 528


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_said(guard_folder, tokenizer):
    with pytest.raises(UnderstudyError, match="torch sees no GPU"):
        TransformersBackend(str(guard_folder), tokenizer, device="cuda")


def test_bfloat16_gives_the_same_verdicts(guard_folder, tokenizer, judge, backend, prompts):
    half = TransformersBackend(str(guard_folder), copy.deepcopy(tokenizer), device="cpu", dtype="bfloat16")
    half.prepare(judge.heads)
    clear = [p for p, s in zip(prompts, backend.score(prompts, math.inf), strict=True) if abs(s.margin) > 1]
    assert len(clear) > 10
    for one, other in zip(backend.score(clear, math.inf), half.score(clear, math.inf), strict=True):
        assert (one.margin > 0) == (other.margin > 0)
