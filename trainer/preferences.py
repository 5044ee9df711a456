"""Rows of DPO, KTO and reward models as TRL takes them once tokenised, and DPO's pair accuracy on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.chat import Encoded
from trainer.data import EncodedRow
from trainer.health import Proxy


def messages(rows: Sequence[EncodedRow], *columns: str) -> Any:
    """The named columns, lists of messages: for DPO and KTO, which take no token ids.

    TRL renders them by the same template; trainer.chat has made sure that this is what serving sees.
    """
    from datasets import Dataset

    return Dataset.from_list([{name: row.row.data[name] for name in columns} for row in rows])


def whole_pairs(rows: Sequence[EncodedRow]) -> Any:
    """chosen_ids and rejected_ids, prompt included: for reward models."""
    from datasets import Dataset

    both = (row.sequences for row in rows)
    return Dataset.from_list([{"chosen_ids": c.input_ids, "rejected_ids": r.input_ids} for c, r in both])


def pair_accuracy(rows: Sequence[EncodedRow], reference: str | None, batch: int = 64) -> Proxy:
    """1 for each held-out pair whose chosen answer has gained more than the rejected one, ½ for a tie, else 0.

    The implicit reward of DPO is β·(log π(y|x) - log π_ref(y|x)) (Rafailov et al. 2023, eq. 5); β only scales it.
    `reference`: the adapter that is the reference; None: the base.
    """

    def accuracy(model: Any) -> list[float | None]:
        from trainer.sampling import evaluating, referring

        flat = [sequence for row in rows for sequence in row.sequences]
        with evaluating(model):
            now = sums(model, flat, batch)
            with referring(model, reference):
                before = sums(model, flat, batch)
        gained = [a - b for a, b in zip(now, before, strict=True)]
        return [0.5 * (1 + (c > r) - (c < r)) for c, r in zip(gained[::2], gained[1::2], strict=True)]

    return accuracy


def sums(model: Any, sequences: Sequence[Encoded], batch: int) -> list[float]:
    """Sum of the logprobs (nats) of each sequence's trained tokens."""
    import torch

    found: list[float] = []
    for start in range(0, len(sequences), batch):
        part = sequences[start : start + batch]
        width = max(len(s.input_ids) for s in part)
        ids = torch.tensor([s.input_ids + [0] * (width - len(s.input_ids)) for s in part])
        labels = torch.tensor([s.labels + [-100] * (width - len(s.labels)) for s in part])[:, 1:]
        mask = torch.tensor([[1] * len(s.input_ids) + [0] * (width - len(s.input_ids)) for s in part])
        device = model.device
        with torch.no_grad():
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, :-1].float()
        scored = labels != -100
        picked = logits.gather(-1, labels.clamp(min=0).to(device)[..., None])[..., 0] - logits.logsumexp(-1)
        found += [float(value) for value in (picked.cpu() * scored).sum(-1)]
    return found
