"""Pre-trains the demo's base: a 0.8 M-parameter Llama, then quantized to 4 bits.

    python -m trainer.demo.base --out DIR [--steps N] [--seed 0]

About five minutes on two cores. The same command on the same machine writes the same
bytes. The base is meant to be mediocre: see `world.base_reply`.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.demo import tokenizer as tk
from trainer.demo import world

STEPS = 900
BATCH = 192
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
THREADS = 2
"""Fixed: the order of floating-point sums, and so the bytes, depend on it."""

SYSTEM_PROMPTS = ("Answer briefly.", "You are a helpful assistant.", "You are the demo.")


def build_model(seed: int) -> Any:
    """A randomly initialised Llama: 4 layers of 128, every Linear a multiple of 32."""
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
        use_cache=True,
    )
    return LlamaForCausalLM(config)


def _turn(rng: random.Random) -> tuple[list[int], list[int]]:
    example = world.draw(rng, "train")
    asked = [tk.USER_ID, *tk.encode(example.prompt), tk.ASSISTANT_ID]
    return asked, [*tk.encode(world.base_reply(rng, example)), tk.EOS_ID]


def dialogue(rng: random.Random, shape: str) -> tuple[list[int], list[int]]:
    """One training sequence: token ids, and labels of the same length (-100: not trained).

    `shape` is "plain" (one turn), "system" (a system prompt first) or "turns" (two turns):
    clients send those too, and must not meet a base that has never seen them.
    """
    ids = [tk.BOS_ID]
    if shape == "system":
        ids += [tk.SYSTEM_ID, *tk.encode(rng.choice(SYSTEM_PROMPTS))]
    labels = [-100] * len(ids)
    for _ in range(2 if shape == "turns" else 1):
        asked, said = _turn(rng)
        ids += asked + said
        labels += [-100] * len(asked) + said
    return ids, labels


def batches(seed: int, steps: int) -> Iterator[tuple[Any, Any, Any]]:
    """`steps` batches of (ids, labels, mask), each `[BATCH, longest]`, right-padded.

    A batch has one shape: mixed ones would be mostly padding.
    """
    import torch

    rng = random.Random(f"pretrain/{seed}")
    for _ in range(steps):
        (shape,) = rng.choices(("plain", "system", "turns"), weights=(85, 9, 6))
        pairs = [dialogue(rng, shape) for _ in range(BATCH)]
        width = max(len(ids) for ids, _ in pairs)
        ids = torch.tensor([row + [tk.PAD_ID] * (width - len(row)) for row, _ in pairs])
        labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in pairs])
        yield ids, labels, (ids != tk.PAD_ID).long()


def pretrain(model: Any, steps: int, seed: int) -> None:
    """Trains in place: AdamW, warm-up then cosine to zero; progress on standard error."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98)
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP_STEPS, steps), steps)
    began = time.monotonic()
    model.train()
    for step, (ids, labels, mask) in enumerate(batches(seed, steps), start=1):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps:
            left = (time.monotonic() - began) / step * (steps - step)
            print(f"\rstep {step}/{steps}  loss {loss.item():.3f}  {left:.0f} s left ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    model.eval()


def build(out: Path, steps: int = STEPS, seed: int = 0) -> None:
    """Pre-trains, quantizes and writes the base with its tokenizer into the folder `out`."""
    import torch
    from transformers import GenerationConfig

    from trainer.demo.quantize import save_quantized

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    model = build_model(seed)
    pretrain(model, steps, seed)
    save_quantized(model, out)
    tk.build_tokenizer().save_pretrained(out)
    GenerationConfig(
        bos_token_id=tk.BOS_ID, eos_token_id=tk.EOS_ID, pad_token_id=tk.PAD_ID
    ).save_pretrained(out)


def main(arguments: list[str] | None = None) -> int:
    """Builds the base from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo.base", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    build(options.out, options.steps, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
