"""Answers of the model in training, and how far it has moved: for prompt filters and health looks.

Everything random happens inside `torch.random.fork_rng` with a seed of its own, so a run is the same, bit for bit,
however often it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Prompt = Sequence[Mapping[str, Any]]

LOGITS_AT_ONCE = 32_000_000
"""Numbers of one forward pass's logits, at most: 128 MB in float32, twice that with the reference's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled completion. `ids` include the token that ended it; `text` has no special tokens."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] = ()     # of `ids` under whoever sampled them, nats; where that is known


@dataclass(frozen=True, slots=True)
class Movement:
    """Means per answer token, in nats: KL(policy ‖ reference) and the policy's entropy."""

    kl: float
    entropy: float


def render(tokenizer: Any, prompt: Prompt, template: Mapping[str, Any] | None = None) -> list[int]:
    """The prompt's token ids, ready for an answer. `template`: keywords of the chat template."""
    messages = [dict(message) for message in prompt]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False, **(template or {})
    )
    return [int(i) for i in ids]


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    samples: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    batch: int = 128,
) -> list[list[Answer]]:
    """`samples` answers to each prompt (token ids), from the whole distribution: no top-k, no top-p.

    The global random state and the model's mode are left as they were.
    """
    repeated = [list(prompt) for prompt in prompts for _ in range(samples)]
    ends = end_tokens(model, tokenizer)
    answers: list[Answer] = []
    with evaluating(model), forked(seed):
        for start in range(0, len(repeated), batch):
            answers += _sample_batch(
                model, tokenizer, repeated[start : start + batch],
                ends=ends, max_tokens=max_tokens, temperature=temperature,
            )  # fmt: skip
    return [answers[i : i + samples] for i in range(0, len(answers), samples)]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end an answer: the tokenizer's and all that the model declares (as TRL counts them)."""
    declared = model.generation_config.eos_token_id
    declared = [] if declared is None else declared if isinstance(declared, list) else [declared]
    return sorted({*map(int, declared), int(tokenizer.eos_token_id)})


def _sample_batch(
    model: Any, tokenizer: Any, prompts: list[list[int]], *, ends: list[int], max_tokens: int, temperature: float
) -> list[Answer]:
    import torch

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.no_grad():
        output = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, pad_token_id=pad, eos_token_id=ends, **how
        )
    said = [_until_end(row, ends) for row in output[:, width:].tolist()]
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    return [Answer(tuple(p), tuple(s), text) for p, s, text in zip(prompts, said, texts, strict=True)]


def _until_end(ids: list[int], ends: list[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1]
    return ids


def movement(
    model: Any, answers: Sequence[Answer], *, reference: str | None = None, temperature: float = 1.0
) -> Movement:
    """KL(policy ‖ reference) and entropy over whole next-token distributions, averaged over the answers' tokens.

    `reference`: a PEFT adapter of `model` ("ref"), None: the base under it. Exact at every position the policy
    visited, where TRL's logged `kl` is a sampled estimate (Schulman's k3), and measured at any beta.
    Raises ValueError for answers without tokens.
    """
    import torch

    total, kl, entropy = 0, 0.0, 0.0
    with evaluating(model), torch.no_grad():
        for chunk in _chunks(answers, int(model.config.get_text_config().vocab_size)):
            logps, mask = _log_distributions(model, chunk, temperature)
            with referring(model, reference):
                others, _ = _log_distributions(model, chunk, temperature)
            probabilities = logps.exp()
            kl += float(((probabilities * (logps - others)).sum(-1) * mask).sum())
            entropy += float((-(probabilities * logps).sum(-1) * mask).sum())
            total += int(mask.sum())
    if not total:
        raise ValueError("the answers have no tokens")
    return Movement(kl / total, entropy / total)


def token_logprobs(model: Any, answers: Sequence[Answer]) -> list[tuple[float, ...]]:
    """The model's own logprob of every answer token, nats, at temperature 1: what an engine reports as it samples."""
    import torch

    found: list[tuple[float, ...]] = []
    with evaluating(model), torch.no_grad():
        for chunk in _chunks(answers, int(model.config.get_text_config().vocab_size)):
            logps, _ = _log_distributions(model, chunk, 1.0)
            for row, answer in zip(logps, chunk, strict=True):
                start = len(answer.prompt_ids) - 1
                places = torch.arange(start, start + len(answer.ids), device=row.device)
                found.append(tuple(row[places, torch.tensor(answer.ids, device=row.device)].tolist()))
    return found


def logprob_gap(model: Any, answers: Sequence[Answer]) -> float:
    """Mean |sampler − model| of the answers' token logprobs, nats; NaN when the sampler gave none that are finite."""
    gaps = [
        abs(theirs - ours)
        for answer, own in zip(answers, token_logprobs(model, answers), strict=True)
        for theirs, ours in zip(answer.logprobs, own, strict=True)
        if math.isfinite(theirs)
    ]
    return sum(gaps) / len(gaps) if gaps else math.nan


def _chunks(answers: Sequence[Answer], vocabulary: int) -> Iterator[Sequence[Answer]]:
    longest = max((len(answer.prompt_ids) + len(answer.ids) for answer in answers), default=1)
    rows = max(1, LOGITS_AT_ONCE // (longest * vocabulary))
    for start in range(0, len(answers), rows):
        yield answers[start : start + rows]


def _log_distributions(model: Any, answers: Sequence[Answer], temperature: float) -> tuple[Any, Any]:
    """log p(next token | …) at every answer token, shape (rows, length − 1, vocabulary), and which places count."""
    import torch

    rows = [[*answer.prompt_ids, *answer.ids] for answer in answers]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=model.device)
    seen = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=model.device)
    starts = torch.tensor([len(answer.prompt_ids) for answer in answers], device=model.device)
    counts = seen.bool() & (torch.arange(length, device=model.device) >= starts[:, None])
    logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1].float() / temperature
    return torch.log_softmax(logits, dim=-1), counts[:, 1:].float()


@contextmanager
def referring(model: Any, reference: str | None) -> Iterator[None]:
    """The model as its reference: the adapter of that name, or None: no adapter."""
    from trl.trainer.utils import use_adapter

    with use_adapter(model, reference):
        yield


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off for a while."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Random numbers from `seed`; outside, nothing has happened."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
