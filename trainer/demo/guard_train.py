"""Training of the demo's guard: batches of one kind, whose common prompt head is run once, and the loop.

Most of a guard's prompt is the same for all (task, categories). A batch runs it once and shares its keys and values,
gradients included, so that a step costs a third of what it would. Only the verdict is trained.
"""

from __future__ import annotations

import math
import random
import sys
import time
from typing import Any

from monitors.llama_guard.conversation import alternating, turns
from monitors.llama_guard.judge import common_head
from monitors.llama_guard.prompt import LEAD, Role, Template
from monitors.llama_guard.taxonomy import INJECTION_CATEGORIES
from trainer.demo import guard_tokenizer as gt
from trainer.demo import guard_world
from trainer.demo.pretrain import optimizers

BATCH = 64
LONG_BATCH = 16
LONG_BATCHES = 0.35
"""Long texts have batches of their own, this share: beside short ones most would be padding."""

CODE_WEIGHTS = (6.0, 1.5)
"""Of the tokens that name categories, first and second time: one in six says which, and that takes longest to learn.

The first time they are learned at the expense of safe and unsafe, which the second puts right.
"""

WARMUP_STEPS = 30
_IGNORED = -100


def build_model(seed: int) -> Any:
    """A randomly initialised Llama of 0.4 M parameters: 0.8 MB in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=gt.VOCAB_SIZE,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=gt.CONTEXT,
        bos_token_id=gt.BOS_ID,
        eos_token_id=gt.EOT_ID,
        pad_token_id=gt.PAD_ID,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


class Encoder:
    """Examples → token ids, as the guard service renders them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = Template(tokenizer)
        self.codes = sorted({self.ids(f"S{number}")[-1] for number in range(1, 15)})
        """The tokens that tell categories apart."""

    def prompt(self, example: guard_world.Example) -> list[int]:
        """The prompt with the two newlines that a verdict begins with."""
        role: Role = "assistant" if example.kind == "answer" else "user"
        categories = INJECTION_CATEGORIES if example.kind == "data" else None
        text = self._template.render(alternating(turns(example.messages), role), categories)
        return self.ids(text) + self.ids(LEAD)

    def verdict(self, example: guard_world.Example) -> list[int]:
        """What the guard should write, with its end."""
        text = "unsafe\n" + ",".join(example.categories) if example.categories else "safe"
        return [*self.ids(text), gt.EOT_ID]

    def ids(self, text: str) -> list[int]:
        """Token ids; special tokens are what they are in a rendered prompt."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def batch_loss(model: Any, encoder: Encoder, drawn: list[guard_world.Example], code_weight: float) -> Any:
    """Weighted mean cross-entropy of the verdicts' tokens. The common head runs once, as a cache all rows share."""
    import torch
    from transformers import DynamicCache

    prompts = [encoder.prompt(example) for example in drawn]
    verdicts = [encoder.verdict(example) for example in drawn]
    head = len(common_head(prompts))
    tails = [prompt[head:] + verdict for prompt, verdict in zip(prompts, verdicts, strict=True)]
    width = max(map(len, tails))
    ids_B_T = torch.tensor([tail + [gt.PAD_ID] * (width - len(tail)) for tail in tails])
    labels_B_T = torch.full_like(ids_B_T, _IGNORED)
    for row, (tail, verdict) in enumerate(zip(tails, verdicts, strict=True)):
        labels_B_T[row, len(tail) - len(verdict) : len(tail)] = torch.tensor(verdict)
    cache = DynamicCache(config=model.config)
    model.model(input_ids=torch.tensor([prompts[0][:head]]), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(tails))
    # Padding is on the right, where causal attention never looks: no mask.
    hidden_B_T_D = model.model(input_ids=ids_B_T, past_key_values=cache, use_cache=True).last_hidden_state
    told = labels_B_T[:, 1:] != _IGNORED
    labels_N = labels_B_T[:, 1:][told]
    loss_N = torch.nn.functional.cross_entropy(model.lm_head(hidden_B_T_D[:, :-1][told]), labels_N, reduction="none")
    weight_N = torch.where(torch.isin(labels_N, torch.tensor(encoder.codes)), code_weight, 1.0)
    return (loss_N * weight_N).sum() / weight_N.sum()


def train(model: Any, tokenizer: Any, steps: int, seed: str, code_weight: float) -> None:
    """Trains `model` in place: warm-up, then cosine to zero. Progress goes to standard error."""
    import torch

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))

    encoder, rng = Encoder(tokenizer), random.Random(seed)
    steppers = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, factor) for o in steppers]
    began = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        (kind,) = rng.choices(guard_world.KINDS, guard_world.WEIGHTS)
        hidden = rng.random() < LONG_BATCHES
        size = LONG_BATCH if hidden else BATCH
        drawn = [guard_world.draw(rng, "train", kind, hidden) for _ in range(size)]
        loss = batch_loss(model, encoder, drawn, code_weight)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*steppers, *schedules):
            part.step()
        if step % 25 == 0 or step == steps:
            left = (time.monotonic() - began) / step * (steps - step)
            sys.stderr.write(f"guard: step {step}/{steps}, {kind} loss {loss.item():.3f}, {left:.0f} s left\n")
    model.eval()
