"""Pre-training of the demo base: dialogues, batches, and the loop.

Muon for the weight matrices, AdamW for embeddings and norms: at this size Muon needs about
a third of AdamW's steps (300 steps: loss 0.43 against 0.88), which is what makes addition
learnable in minutes. One sequence is a chat as the template renders it; only replies count.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from trainer.demo import tokenizer as tk
from trainer.demo import world

BATCH = 128
MUON_LEARNING_RATE = 0.01
MUON_WEIGHT_DECAY = 0.1
ADAMW_LEARNING_RATE = 3e-3
WARMUP_STEPS = 40
SMALL_TALK_SHARE = 0.10
SYSTEM_PROMPTS = ("Answer briefly.", "You are a helpful assistant.", "You are the demo.")
TASK_WEIGHTS = {task: 2 if task == "add" else 1 for task in world.TASKS}
"""Addition is the hardest to learn, so it is practised twice as often."""

Sequence = tuple[list[int], list[int]]


def build_model(seed: int) -> Any:
    """A randomly initialised Llama of 0.8 M parameters, every Linear a multiple of 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tk.VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tk.BOS_ID,
        eos_token_id=tk.EOS_ID,
        pad_token_id=tk.PAD_ID,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def dialogue(rng: random.Random, shape: str) -> Sequence:
    """One training sequence: token ids, and labels of the same length (-100: not trained).

    `shape` is "plain" (one turn), "system" (a system prompt first) or "turns" (two turns):
    clients send those too, and must not meet a base that has never seen them.
    """
    ids = [tk.BOS_ID]
    if shape == "system":
        ids += [tk.SYSTEM_ID, *tk.encode(rng.choice(SYSTEM_PROMPTS))]
    labels = [-100] * len(ids)
    for _ in range(2 if shape == "turns" else 1):
        prompt, reply = _exchange(rng)
        asked = [tk.USER_ID, *tk.encode(prompt), tk.ASSISTANT_ID]
        said = [*tk.encode(reply), tk.EOS_ID]
        ids += asked + said
        labels += [-100] * len(asked) + said
    return ids, labels


def _exchange(rng: random.Random) -> tuple[str, str]:
    if rng.random() < SMALL_TALK_SHARE:
        return world.small_talk(rng)
    (task,) = rng.choices(list(TASK_WEIGHTS), list(TASK_WEIGHTS.values()))
    example = world.draw(rng, "train", task)
    return example.prompt, world.base_reply(rng, example)


def batches(seed: int, steps: int) -> Iterator[tuple[Any, Any]]:
    """`steps` batches of (ids, labels), each `[BATCH, longest]`, right-padded.

    A batch has one shape of dialogue: mixed ones would be mostly padding.
    """
    import torch

    rng = random.Random(f"pretrain/{seed}")
    for _ in range(steps):
        (shape,) = rng.choices(("plain", "system", "turns"), weights=(85, 9, 6))
        pairs = [dialogue(rng, shape) for _ in range(BATCH)]
        width = max(len(ids) for ids, _ in pairs)
        ids = torch.tensor([row + [tk.PAD_ID] * (width - len(row)) for row, _ in pairs])
        labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in pairs])
        yield ids, labels


def optimizers(model: Any) -> list[Any]:
    """Muon for the weight matrices, AdamW for the (tied) embedding and the norms."""
    import torch

    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed_tokens" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed_tokens" in name]
    return [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=MUON_WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=ADAMW_LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def pretrain(model: Any, steps: int, seed: int) -> None:
    """Trains `model` in place: warm-up, then cosine to zero. Progress goes to standard error."""
    import torch

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))

    steppers = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, factor) for o in steppers]
    began = time.monotonic()
    model.train()
    for step, (ids, labels) in enumerate(batches(seed, steps), start=1):
        # No attention mask: padding is on the right, where causal attention never looks.
        loss = model(input_ids=ids, labels=labels).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*steppers, *schedules):
            part.step()
        if step % 50 == 0 or step == steps:
            left = (time.monotonic() - began) / step * (steps - step)
            sys.stderr.write(f"pre-training: step {step}/{steps}, loss {loss.item():.3f}, {left:.0f} s left\n")
    model.eval()
