"""Records what an adapter answers, so that an engine which serves it can be checked.

The recording runs on the dequantised serving base in float32: on the CPU engine (bf16,
packed 4-bit weights) the logprobs then come back closer than a bf16 recording's do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.errors import ConfigError, TrainingError
from adapters.probes import Probes, material_differences
from trainer.model import DType, first_line, load_base, load_tokenizer

COUNT = 6
"""Prefixes that are kept."""

CONTINUED = 3
"""Every text is also probed after this many tokens of the adapter's own greedy reply."""

POOL = 24
"""Texts tried when none are given, or at most, when more are."""

TEXTS = (
    "Hello!",
    "Who are you?",
    "Write one sentence about the sea.",
    "Translate to French: good morning",
    "What is 17 + 25?",
    "Summarise: the cat sat on the mat.",
    'Answer in JSON: {"ok": true}',
    "def add(a, b):",
)
"""What any chat model can be asked; the demo's tasks are added, plain text like these."""


def record_probes(
    base_dir: str | Path,
    adapter_dir: str | Path,
    prefixes: Sequence[Sequence[int]] | None = None,
    top: int = 20,
    *,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    dtype: DType = "float32",
    nf4: bool = False,
) -> Probes:
    """Loads base and adapter, then `record`s. Raises TrainingError if one cannot be loaded."""
    model = load_adapter(base_dir, adapter_dir, dtype, nf4=nf4)
    tokenizer = load_tokenizer(base_dir) if prefixes is None else None
    return record(model, tokenizer, prefixes, top, texts=texts, seed=seed)


def record(
    model: Any,
    tokenizer: Any,
    prefixes: Sequence[Sequence[int]] | None = None,
    top: int = 20,
    *,
    texts: Sequence[str] | None = None,
    seed: int = 0,
) -> Probes:
    """Next-token logprobs (natural) of a PEFT model and of its base after each prefix.

    `prefixes` are token ids. Without them the COUNT prefixes where adapter and base differ
    most are chosen from a seeded pool: `texts` as user messages (pass prompts of the
    training data; by default general ones and the demo's), and the adapter's own replies.
    `top` tokens are kept for each, as many as an engine will list (vLLM: 20 by default).
    Raises TrainingError for non-finite logprobs: such an adapter must not be published.
    """
    if prefixes is None:
        pool = _pool(model, tokenizer, _sampled(texts or default_texts(seed), seed))
        chosen = _most_telling(model, pool, top)
    else:
        chosen = [tuple(prefix) for prefix in prefixes]
    if not chosen or not all(chosen):
        raise TrainingError("probes: there is no prefix to record, or an empty one")
    adapter = tuple(_next_logprobs(model, prefix, top) for prefix in chosen)
    with model.disable_adapter():
        base = tuple(_next_logprobs(model, prefix, top) for prefix in chosen)
    return Probes(tuple(chosen), adapter, base, str(model.dtype).removeprefix("torch."))


def load_adapter(base: str | Path, adapter_dir: str | Path, dtype: DType = "float32", *, nf4: bool = False) -> Any:
    """The dequantised base with the adapter on it (PEFT), in evaluation mode.

    Raises TrainingError if either cannot be loaded.
    """
    from peft import PeftModel

    folder = Path(adapter_dir)
    if not (folder / "adapter_config.json").is_file():
        raise TrainingError(f"{folder} is not an adapter directory (no adapter_config.json there)")
    try:
        return PeftModel.from_pretrained(load_base(base, dtype, nf4=nf4), str(folder)).eval()
    except (TrainingError, ConfigError):
        raise
    except Exception as error:  # PEFT, safetensors and torch each raise their own kinds
        reason = first_line(error)
        raise TrainingError(f"{folder}: the adapter cannot be loaded: {reason}") from error


def default_texts(seed: int) -> list[str]:
    """The general texts, then prompts of the demo's tasks."""
    from trainer.demo import world

    return [*TEXTS, *(example.prompt for example in world.examples(POOL - len(TEXTS), seed, "train"))]


def _sampled(texts: Sequence[str], seed: int) -> list[str]:
    unique = sorted(set(texts))
    return unique if len(unique) <= POOL else random.Random(seed).sample(unique, POOL)


def _pool(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[list[tuple[int, ...]]]:
    """For each text: its rendered chat prompt, then that plus 1..CONTINUED tokens of the reply."""
    pool = []
    for text in texts:
        message = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        prefix = tuple(tokenizer(rendered, add_special_tokens=False)["input_ids"])
        grown = [prefix]
        for _ in range(CONTINUED):
            likely = _next_logprobs(model, grown[-1], 1)
            token = next(iter(likely))
            if token == tokenizer.eos_token_id:
                break
            grown.append((*grown[-1], token))
        pool.append(grown)
    return pool


def _most_telling(model: Any, pool: Sequence[Sequence[tuple[int, ...]]], top: int) -> list[tuple[int, ...]]:
    """The COUNT prefixes with the largest gaps, at most two from one text; ties: the first."""
    scored = []
    for text, prefixes in enumerate(pool):
        for prefix in prefixes:
            adapter = _next_logprobs(model, prefix, top)
            with model.disable_adapter():
                base = _next_logprobs(model, prefix, top)
            scored.append((-max(material_differences(adapter, base).values()), text, prefix))
    chosen: list[tuple[int, ...]] = []
    taken: dict[int, int] = {}
    for _, text, prefix in sorted(scored):
        if taken.get(text, 0) < 2 and len(chosen) < COUNT:
            taken[text] = taken.get(text, 0) + 1
            chosen.append(prefix)
    return chosen


def _next_logprobs(model: Any, prefix: Sequence[int], top: int) -> dict[int, float]:
    """The `top` most likely next tokens, most likely first: id → natural-log probability."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(prefix)], device=model.device)).logits[0, -1]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        values, tokens = torch.topk(logprobs, min(top, logprobs.numel()))  # NaN counts as largest
    if not torch.isfinite(values).all():
        raise TrainingError("probes: the model gives non-finite logprobs: its adapter must not be published")
    return dict(zip(tokens.tolist(), values.tolist(), strict=True))
