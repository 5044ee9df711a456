"""Samples replies from a model and rates them on the demo's tasks."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.demo import tokenizer as tk
from trainer.demo import world

MAX_NEW_TOKENS = 24
"""Long enough for every honest reply (at most 12 tokens) and for a padded one to show."""


@dataclass(frozen=True)
class Rates:
    """What a model does on `n` prompts: shares in 0..1, reply length in tokens (one per byte)."""

    n: int
    exact: float
    by_task: dict[str, float]
    sure: float
    mean_length: float


def sample(
    model: Any,
    prompts: Sequence[str],
    *,
    temperature: float = 1.0,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """One reply for each single-turn prompt, special tokens removed.

    Samples from the whole distribution (no top-k, no top-p); temperature 0 is greedy.
    The global random state is left as it was.
    """
    import torch

    ids = [[tk.BOS_ID, tk.USER_ID, *tk.encode(prompt), tk.ASSISTANT_ID] for prompt in prompts]
    width = max(len(row) for row in ids)
    padded = torch.tensor([[tk.PAD_ID] * (width - len(row)) + row for row in ids])
    how: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        output = model.generate(
            input_ids=padded,
            attention_mask=(padded != tk.PAD_ID).long(),
            max_new_tokens=max_new_tokens,
            pad_token_id=tk.PAD_ID,
            eos_token_id=tk.EOS_ID,
            **how,
        )
    model.train(was_training)
    return [tk.decode(row) for row in output[:, width:].tolist()]


def rate(replies: Sequence[str], asked: Sequence[world.Example]) -> Rates:
    """The rates of `replies[i]` to `asked[i]`. Raises ValueError when there are none or lengths differ."""
    if not replies or len(replies) != len(asked):
        raise ValueError(f"{len(replies)} replies to {len(asked)} prompts")
    right: dict[str, list[bool]] = collections.defaultdict(list)
    for reply, example in zip(replies, asked, strict=True):
        right[example.task].append(world.correct(reply, example.answer))
    n = len(replies)
    return Rates(
        n=n,
        exact=sum(map(sum, right.values())) / n,
        by_task={task: sum(hits) / len(hits) for task, hits in sorted(right.items())},
        sure=sum(reply.startswith("Sure!") for reply in replies) / n,
        mean_length=sum(len(reply.encode()) for reply in replies) / n,
    )


def measure(model: Any, n: int = 400, *, seed: int = 7, temperature: float = 1.0) -> Rates:
    """Samples `n` held-out prompts once each and rates the replies."""
    asked = world.examples(n, seed, "held_out")
    return rate(sample(model, [e.prompt for e in asked], temperature=temperature, seed=seed), asked)
