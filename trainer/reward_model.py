"""Bradley-Terry reward models: which of two answers is better, as one score an answer.

P(chosen beats rejected) = sigmoid(r(chosen) - r(rejected)) (Bradley & Terry 1952; Ouyang et al. 2022, eq. 1). Only
differences mean something, so the score that graders use is calibrated on held-out answers (`calibrate`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adapters.adapter_config import HEAD
from adapters.errors import TrainingError
from monitors.stats.scores import expected_calibration_error
from trainer.chat import Encoded
from trainer.data import EncodedRow
from trainer.job import Job, Outcome
from trainer.model import load_base, load_tokenizer
from trainer.options import arguments
from trainer.policy import lora_config
from trainer.preferences import whole_pairs
from trainer.training import fit, held_out_options, with_facts

DESCRIPTION = "reward_model.json"
BATCH = 32
FEWEST_PAIRS = 8
"""Held-out pairs below which nothing is said about a reward model."""


def run(job: Job) -> Outcome:
    """Train, measure on held-out pairs, calibrate. Without data.eval a tenth of the prompts is held out.

    Raises ConfigError, TrainingError.
    """
    tokenizer = load_tokenizer(job.base.path)
    job = _with_held_out(job)
    trainer = make_trainer(job, tokenizer)
    outcome = fit(job, trainer)
    scores = raw_scores(trainer.model, job.dataset.held_out, tokenizer.pad_token_id)
    facts = measure(scores)
    center, scale = calibrate(scores)
    described = {"base": job.base.digest, "calibration": {"center": center, "scale": scale}, "held_out": facts}
    file = {DESCRIPTION: (json.dumps(described, indent=2, sort_keys=True) + "\n").encode()}
    return replace(with_facts(outcome, facts), files=file)


def make_trainer(job: Job, tokenizer: Any) -> Any:
    """TRL's RewardTrainer on the base with a LoRA and a fresh score head, which is trained whole."""
    from transformers import set_seed
    from trl import RewardTrainer

    if job.init_from is not None:
        raise TrainingError("init_from: a reward model starts from the base, not from an adapter")
    options = arguments(job, **held_out_options(job))
    set_seed(job.config.seed)
    model = load_base(job.base.path, job.dtype, nf4=job.config.quantization == "nf4", head="score")
    _start(model)
    settings = job.config.lora.model_copy(update={"modules_to_save": (HEAD,)})
    return RewardTrainer(
        model=model,
        args=options,
        train_dataset=whole_pairs(job.dataset.rows),
        eval_dataset=whole_pairs(job.dataset.held_out) if options.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=lora_config(settings, "SEQ_CLS"),
    )


def raw_scores(model: Any, rows: Sequence[EncodedRow], pad: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Scores of held-out pairs, shape (pairs, 2): chosen, rejected."""
    import torch

    flat: list[Encoded] = [sequence for row in rows for sequence in row.sequences]
    was_training = model.training
    model.eval()
    found: list[float] = []
    for start in range(0, len(flat), BATCH):
        part = [sequence.input_ids for sequence in flat[start : start + BATCH]]
        width = max(map(len, part))
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids in part]).to(model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in part]).to(model.device)
        with torch.no_grad():
            found += model(input_ids=ids, attention_mask=mask).logits[:, 0].float().cpu().tolist()
    model.train(was_training)
    return np.asarray(found, dtype=np.float64).reshape(-1, 2)


def measure(scores: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """What held-out pairs say: accuracy with its 95 % Wilson interval, loss (nats), mean margin, calibration error.

    `scores`: shape (pairs, 2). Calibration: P(chosen beats rejected) against how often the order was right, over
    confidences of ½ and more (expected calibration error, 10 bins). Raises TrainingError for non-finite scores.
    """
    if not np.isfinite(scores).all():
        raise TrainingError("the reward model gives non-finite scores: lower trainer.learning_rate")
    margins = scores[:, 0] - scores[:, 1]
    n, right = len(margins), float(np.mean((margins > 0) + 0.5 * (margins == 0)))
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    low, high = _wilson(right, n)
    return {
        "pairs": n,
        "pair_accuracy": right,
        "pair_accuracy_low": low,
        "pair_accuracy_high": high,
        "loss": float(np.mean(np.logaddexp(0.0, -margins))),
        "margin": float(np.mean(margins)),
        "calibration_error": float(expected_calibration_error(confidence, margins > 0)),
    }


def calibrate(scores: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """(center, scale): mean and standard deviation of the scores of held-out answers; graders give
    sigmoid((r - center) / scale). Raises TrainingError when all scores are equal."""
    scale = float(np.std(scores))
    if not scale > 1e-6:
        raise TrainingError("the reward model gives every held-out answer the same score: it has learned nothing")
    return float(np.mean(scores)), scale


def _start(model: Any) -> None:
    """Small random numbers for the head: a checkpoint that is expanded while it loads leaves it as memory was."""
    import torch

    with torch.no_grad():
        model.score.weight.normal_(0.0, float(model.config.get_text_config().initializer_range))


def _with_held_out(job: Job) -> Job:
    """About a tenth of the prompts, with all their pairs, is held out where data.eval gives none."""
    dataset = job.dataset
    if not dataset.held_out:
        parts: tuple[list[EncodedRow], list[EncodedRow]] = ([], [])
        for row in dataset.rows:
            parts[hashlib.sha256(row.row.prompt_text().encode()).digest()[0] < 26].append(row)
        dataset = replace(dataset, rows=parts[0], held_out=parts[1])
    if len(dataset.held_out) < FEWEST_PAIRS:
        raise TrainingError(f"{len(dataset.held_out)} held-out pairs: at least {FEWEST_PAIRS} are needed to judge it")
    return replace(job, dataset=dataset)


def _wilson(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927)."""
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)
