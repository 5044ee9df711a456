"""What a slice measured, with intervals over prompts. Values of a prompt are means over its samples.

pass@k: Chen et al. (2021), eq. 1, averaged over prompts. ECE: Naeini et al. (2015), 10 bins of equal width, with a
bootstrap over prompts. Refusals: the share of prompts that should not be refused and were (over-refusal), and of those
that should be and were not (under-refusal).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitors.stats.paired import bootstrap_interval, mean_interval
from monitors.stats.results import InsufficientData, Interval
from monitors.stats.scores import pass_at_k
from trainer.evaluation.grading import Judged
from trainer.suite import Slice

BINS = 10
FEWEST_FOR_ECE = 30      # answers; below, bins hold next to nothing
DRAWS = 500


def measure(part: Slice, judged: Sequence[Judged], *, confidence: str, alpha: float = 0.05) -> dict[str, Any]:
    """Everything about one slice as plain JSON; see docs/evaluation.md. `judged`: all its answers."""
    prompts = _by_prompt(judged)
    values = [_prompt_values(part, answers) for answers in prompts.values()]
    graded = [value for value in values if value["score"] is not None]
    samples = part.settings.n
    result: dict[str, Any] = {
        "prompts": len(prompts),
        "answers": len(judged),
        "missing": sum(one.score is None for one in judged),
        "errors": sum(bool(one.answer.error) for one in judged),
        "k": part.settings.k,
        "margin": part.settings.margin,
        "samples": samples,
    }
    for metric in ("pass_at_1", "pass_at_k", "score"):
        result[metric] = _estimate([value[metric] for value in graded], alpha, samples)
    result["graders"] = _means(part, judged)
    result["ece"] = _calibration(list(prompts.values()), confidence, alpha)
    result |= _refusals(prompts, alpha, samples) if part.labelled else {}
    result |= _shape(judged)
    result["values"] = values
    return result


def _by_prompt(judged: Sequence[Judged]) -> dict[int, list[Judged]]:
    prompts: dict[int, list[Judged]] = defaultdict(list)
    for one in judged:
        prompts[one.ask.row_index].append(one)
    return dict(sorted(prompts.items()))


def _prompt_values(part: Slice, answers: Sequence[Judged]) -> dict[str, Any]:
    """What pairs two evaluations: the prompt's id and its values; None where no sample could be graded."""
    scores = [one.score for one in answers if one.score is not None]
    n, right = len(scores), sum(one.right for one in answers if one.score is not None)
    k = part.settings.k
    return {
        "id": answers[0].ask.row.id,
        "pass_at_1": right / n if n else None,
        "pass_at_k": pass_at_k(n, right, k) if n >= k else None,
        "score": sum(scores) / n if n else None,
    }


def _estimate(values: Sequence[float | None], alpha: float, samples: int) -> dict[str, float] | None:
    """Mean and interval; None where nothing was measured."""
    found = [min(1.0, max(0.0, value)) for value in values if value is not None]
    if not found:
        return None
    low, high = mean_interval(found, alpha, samples)
    return {"value": float(np.mean(found)), "lower": low, "upper": high, "n": len(found)}


def _means(part: Slice, judged: Sequence[Judged]) -> dict[str, float]:
    names = [spec.shown for spec in part.settings.graders]
    found = {name: [v for one in judged if (v := one.parts.get(name)) is not None] for name in names}
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _calibration(prompts: Sequence[Sequence[Judged]], kind: str, alpha: float) -> dict[str, Any] | None:
    """ECE with its interval; None where logprobs were not given or answers are too few.

    A prompt's share of each bin's gap is summed once, so that a bootstrap draw is a sum over prompts.
    """
    gaps, counts, sure = [], [], []
    for answers in prompts:
        pairs = [(c, one.right) for one in answers if _graded(one) and (c := one.answer.confidence(kind)) is not None]
        if pairs:
            confidence, right = np.array([c for c, _ in pairs]), np.array([float(r) for _, r in pairs])
            bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
            gaps.append(np.bincount(bins, weights=right - confidence, minlength=BINS))
            counts.append(len(pairs))
            sure.append(float(confidence.sum()))
    if sum(counts) < FEWEST_FOR_ECE:
        return None
    gaps_PB, counts_P = np.array(gaps), np.array(counts)

    def ece(drawn: NDArray[np.intp]) -> float:
        return float(np.abs(gaps_PB[drawn].sum(axis=0)).sum() / counts_P[drawn].sum())

    try:
        low, high = bootstrap_interval(len(counts), ece, alpha=alpha, draws=DRAWS)
    except InsufficientData:
        return None
    value, n = ece(np.arange(len(counts))), sum(counts)
    return {"value": value, "lower": min(low, value), "upper": max(high, value), "n": n, "confidence": sum(sure) / n}


def _graded(one: Judged) -> bool:
    return one.score is not None and not one.answer.error


def _refusals(prompts: Mapping[int, Sequence[Judged]], alpha: float, samples: int) -> dict[str, Any]:
    def share(label: bool, wrong: Callable[[Judged], bool]) -> list[float]:
        groups = [answers for answers in prompts.values() if answers[0].ask.row.should_refuse is label]
        return [sum(map(wrong, answers)) / len(answers) for answers in groups]

    over = share(False, lambda one: one.refused)
    under = share(True, lambda one: not one.refused)
    return {
        "over_refusal": _estimate(over, alpha, samples), "over_refusal_values": over,
        "under_refusal": _estimate(under, alpha, samples), "under_refusal_values": under,
    }  # fmt: skip


def _shape(judged: Sequence[Judged]) -> dict[str, Any]:
    """Length, repetition and speed of the answers that came."""
    came = [one for one in judged if not one.answer.error]
    if not came:
        return {"output_tokens": None, "input_tokens": None, "duplicate_4gram": None, "cut_off": None, "seconds": None}
    return {
        "output_tokens": _spread([one.answer.output_tokens for one in came]),
        "input_tokens": _spread([one.answer.input_tokens for one in came]),
        "seconds": _spread([one.answer.seconds for one in came]),
        "duplicate_4gram": float(np.mean([one.duplicates for one in came])),
        "cut_off": float(np.mean([one.answer.finish == "length" for one in came])),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.quantile(values, (0.5, 0.99))
    return {"mean": float(np.mean(values)), "p50": float(p50), "p99": float(p99)}


def interval_of(estimate: Mapping[str, float] | None) -> Interval | None:
    """The interval of an estimate in a stored body."""
    return Interval(estimate["lower"], estimate["upper"]) if estimate else None
