"""Answers from transformers on the dequantised base, without any engine: for machines that train and do not serve.

Batches are seeded by their first sample, so the same suite on the same machine gives the same answers. Sampling and
arithmetic differ from an engine's: local evaluations are compared with local ones only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError
from trainer.evaluation.answers import Answer, Ask, storable
from trainer.model import first_line, load_base, load_tokenizer

BATCH = 64


class LocalAnswers:
    """`adapter`: a folder as PEFT saves it; None: the base answers."""

    def __init__(self, base: Path, adapter: Path | None, *, top_p: float = 1.0, batch: int = BATCH) -> None:
        self._base = base
        self._adapter = adapter
        self._top_p = top_p
        self._batch = batch

    def run(self, asks: Sequence[Ask], answered: Callable[[Ask, Answer], None]) -> None:
        """See Answering. Raises TrainingError. Loads torch and transformers."""
        from trainer.probes import load_adapter

        model = load_adapter(self._base, self._adapter) if self._adapter else load_base(self._base)
        tokenizer = load_tokenizer(self._base)
        for _, group in groupby(asks, key=lambda ask: ask.part.name):  # one slice: one way of sampling
            part = list(group)
            for start in range(0, len(part), self._batch):
                batch = part[start : start + self._batch]
                for ask, answer in zip(batch, self._answers(model, tokenizer, batch), strict=True):
                    answered(ask, answer)

    def _answers(self, model: Any, tokenizer: Any, batch: list[Ask]) -> list[Answer]:
        import torch

        rows = [_tokens(tokenizer, ask, model) for ask in batch]
        width = max(map(len, rows))
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        began = time.monotonic()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(batch[0].seed)
            output = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=batch[0].part.max_tokens, pad_token_id=pad,
                return_dict_in_generate=True, output_logits=True, **_sampling(batch[0].part.temperature, self._top_p),
            )  # fmt: skip
        seconds = time.monotonic() - began
        new = output.sequences[:, width:]
        logprobs = torch.stack(output.logits, dim=1).float().log_softmax(-1).gather(-1, new.unsqueeze(-1)).squeeze(-1)
        ends = _end_tokens(model, tokenizer)
        return [
            _answer(tokenizer, new[i].tolist(), logprobs[i].tolist(), ends, prompt=len(rows[i]), seconds=seconds)
            for i in range(len(batch))
        ]


def _tokens(tokenizer: Any, ask: Ask, model: Any) -> list[int]:
    try:
        text = tokenizer.apply_chat_template(ask.messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise whatever they like
        raise TrainingError(f"{ask.row.where}: the chat template refuses the prompt: {first_line(error)}") from error
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    longest = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    if longest and len(found) + ask.part.max_tokens > longest:
        raise TrainingError(
            f"{ask.row.where}: {len(found)} tokens and {ask.part.max_tokens} new ones exceed the context of {longest}"
        )
    return found


def _sampling(temperature: float, top_p: float) -> dict[str, Any]:
    if temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    found = ends if isinstance(ends, list) else [ends, tokenizer.eos_token_id]
    return frozenset(token for token in found if token is not None)


def _answer(
    tokenizer: Any, tokens: list[int], logprobs: list[float], ends: frozenset[int], *, prompt: int, seconds: float
) -> Answer:
    """What came up to the end token, which belongs to the answer's probability but not to its text."""
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    count = len(tokens) if end is None else end + 1
    text = storable(tokenizer.decode(tokens[: count if end is None else end], skip_special_tokens=True))
    finish = "length" if end is None else "stop"
    return Answer(text, finish, prompt, count, seconds, sum(logprobs[:count]), count)
