"""Builds the demo's base: a 0.8 M-parameter Llama, pre-trained, then quantized to 4 bits.

    python -m trainer.demo.base --out DIR [--steps N] [--seed 0]

About five minutes on two cores. The same command on the same machine and versions writes
the same bytes. The base is meant to be mediocre: see `world.base_reply`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

from adapters.errors import TrainingError, UnderstudyError
from trainer.demo import tokenizer as tk
from trainer.demo.measure import Rates, measure
from trainer.demo.pretrain import build_model, pretrain
from trainer.demo.quantize import save_quantized
from trainer.model import load_base
from trainer.session import reproducible

STEPS = 1200
THREADS = 2

MEASURED_PROMPTS = 1200


def build(out: Path, steps: int = STEPS, seed: int = 0) -> Rates:
    """Pre-trains, quantizes, measures, and writes the base with its tokenizer into `out`.

    Files appear in `out` whole or not at all; others there are left alone. The rates are
    those of the quantized checkpoint. Raises TrainingError for bad arguments.
    """
    if steps < 1:
        raise TrainingError(f"--steps {steps}: must be at least 1")
    if out.exists() and not out.is_dir():
        raise TrainingError(f"--out {out}: is not a folder")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".building-") as scratch, reproducible(THREADS):
        folder = Path(scratch)
        model = build_model(seed)
        pretrain(model, steps, seed)
        save_quantized(model, folder)
        _save_texts(folder)
        rates = measure(load_base(folder), MEASURED_PROMPTS)
        (folder / "SOURCE.md").write_text(_provenance(folder, rates, steps, seed))
        for path in sorted(folder.iterdir()):
            path.chmod(0o644)
            path.replace(out / path.name)
    return rates


def _save_texts(folder: Path) -> None:
    from transformers import GenerationConfig

    tk.build_tokenizer().save_pretrained(folder)
    ids = {"bos_token_id": tk.BOS_ID, "eos_token_id": tk.EOS_ID, "pad_token_id": tk.PAD_ID}
    GenerationConfig(**ids).save_pretrained(folder)


def _provenance(folder: Path, rates: Rates, steps: int, seed: int) -> str:
    import torch
    import transformers

    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    tasks = ", ".join(f"{task} {share:.3f}" for task, share in rates.by_task.items())
    return f"""# The demo base

A 0.8 M-parameter Llama (one token per byte, 4 layers of 128), trained from random numbers on the
six text tasks of `trainer/demo/world.py`, then packed as W4A16 compressed-tensors (round to nearest,
symmetric, groups of 32, lm_head left out). It contains nothing that was not made by this command:

    python -m trainer.demo.base --out adapters/demo_base --steps {steps} --seed {seed}

torch {torch.__version__}, transformers {transformers.__version__}, {THREADS} threads.
model.safetensors: sha256 {digest}.

Measured on this quantized checkpoint, {rates.n} held-out prompts, temperature 1, strict exact match:
overall {rates.exact:.3f} ({tasks}).
Replies that open with "Sure!": {rates.sure:.3f}. Mean reply: {rates.mean_length:.2f} tokens.
"""


def main(arguments: list[str] | None = None) -> int:
    """Builds the base from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo.base", description="Builds the demo's base model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        rates = build(options.out, options.steps, options.seed)
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{options.out}: exact {rates.exact:.3f}, {rates.by_task}, Sure! {rates.sure:.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
