"""The guard's weights in this process, through transformers: one forward pass per batch. Only this module has torch.

What all prompts begin with (task, categories) is run once at the start; a batch continues from its keys and values.
Rows are padded on the left of what is their own and masked, with positions counted without padding, so that a prompt
gets the same score in any company. Where a score reaches `ask_above`, the same cache goes on to the categories.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from monitors.llama_guard.tokens import UNSAFE, VerdictTokens, verdict_tokens
from monitors.llama_guard.types import GuardError, Prompt, Scored, Tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MULTIMODAL = ("llama4", "mllama")   # Llama Guard 4 12B, Llama Guard 3 11B Vision
_LONGEST_LIST = 64                   # tokens: more categories than any taxonomy has


def load_tokenizer(path: str) -> Tokenizer:
    """The checkpoint's tokenizer. Raises GuardError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers and tokenizers each raise their own kinds
        raise _cannot_load(path, error) from None
    if not tokenizer.is_fast:
        raise GuardError(f"the guard {path} has no tokenizer.json, which cutting long texts needs")
    tokenizer.model_max_length = 1 << 30  # lengths are checked here, without its warnings
    return tokenizer


def context_of(path: str) -> int:
    """Tokens that the checkpoint was made for. Raises GuardError."""
    try:
        config = AutoConfig.from_pretrained(path).get_text_config()
    except Exception as error:
        raise _cannot_load(path, error) from None
    return int(getattr(config, "max_position_embeddings", 0) or 4096)


class TransformersBackend:
    """A Llama Guard checkpoint on a CPU or a GPU. `quantization`: "", "int8" or "int4" (bitsandbytes)."""

    name = "transformers"

    def __init__(self, path: str, tokenizer: Tokenizer, *, device: str = "auto", dtype: str = "auto",
                 quantization: str = "") -> None:  # fmt: skip
        self._path = path
        self._tokenizer = tokenizer
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if self._device.startswith("cuda") and not torch.cuda.is_available():
            raise GuardError("screening.device is cuda, but torch sees no GPU here: set it to cpu, or mend torch")
        known = "bfloat16" if self._device.startswith("cuda") else "float32"  # a CPU is slow and less exact in bfloat16
        self._dtype = _DTYPES[known if dtype == "auto" else dtype]
        self._quantization = quantization
        self._tokens: VerdictTokens = verdict_tokens(tokenizer)
        self._ends = {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|eot|>"])} - {None}
        self._opening = tuple(tokenizer(f"{UNSAFE}\n", add_special_tokens=False)["input_ids"])
        self._model: Any = None
        self._heads: dict[tuple[int, ...], Any] = {}

    def prepare(self, heads: Sequence[tuple[int, ...]]) -> None:
        """Load the weights and run the heads. Raises GuardError."""
        if self._model is None:
            self._model = self._load()
        with torch.inference_mode():
            for head in heads:
                if head and head not in self._heads:
                    ids_1_H = torch.tensor([head], device=self._device)
                    self._heads[head] = self._model(input_ids=ids_1_H, use_cache=True, logits_to_keep=1).past_key_values

    def score(self, prompts: Sequence[Prompt], ask_above: float) -> list[Scored]:
        """One per prompt, in order. Prompts with the same head share a pass."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, prompt in enumerate(prompts):
            head = prompt.ids[: prompt.head]
            groups.setdefault(head if head in self._heads else (), []).append(place)
        scored: dict[int, Scored] = {}
        with torch.inference_mode():
            for head, places in groups.items():
                batch = [prompts[place] for place in places]
                scored |= zip(places, self._pass(head, batch, ask_above), strict=True)
        return [scored[place] for place in range(len(prompts))]

    def _pass(self, head: tuple[int, ...], prompts: Sequence[Prompt], ask_above: float) -> list[Scored]:
        tails = [prompt.ids[len(head) :] for prompt in prompts]
        width, rows = max(map(len, tails)), len(tails)
        ids_B_T = torch.zeros(rows, width, dtype=torch.long)
        mask_B_HT = torch.ones(rows, len(head) + width, dtype=torch.long)
        for row, tail in enumerate(tails):
            ids_B_T[row, width - len(tail) :] = torch.tensor(tail)
            mask_B_HT[row, len(head) : len(head) + width - len(tail)] = 0
        cache = None
        if head:
            cache = copy.deepcopy(self._heads[head])
            cache.batch_repeat_interleave(rows)
        state = _State(self._model, mask_B_HT.to(self._device), cache)
        logits_B_V = state.advance(ids_B_T.to(self._device))
        telling = torch.tensor([*self._tokens.safe, *self._tokens.unsafe], device=self._device)
        logprobs = logits_B_V.float().log_softmax(-1)[:, telling].cpu().tolist()
        names = telling.tolist()
        scored = [self._tokens.scored(dict(zip(names, row, strict=True))) for row in logprobs]
        asked = [
            row for row, one in enumerate(scored)
            if prompts[row].codes and one.margin is not None and one.margin >= ask_above
        ]  # fmt: skip
        for row, text in zip(asked, self._categories(state, asked), strict=True):
            scored[row] = Scored(scored[row].margin, text)
        return scored

    def _categories(self, state: _State, rows: list[int]) -> list[str]:
        """What the guard writes after "unsafe", greedily, for some rows of a batch: goes on from the cache."""
        if not rows:
            return []
        state.keep(rows)
        ids_B_T = torch.tensor([self._opening] * len(rows), device=self._device)
        written: list[list[int]] = [[] for _ in rows]
        for _ in range(_LONGEST_LIST):
            ids_B_T = state.advance(ids_B_T).argmax(-1, keepdim=True)
            going = False
            for row, (token,) in zip(written, ids_B_T.tolist(), strict=True):
                if not (row and row[-1] in self._ends):
                    row.append(token)
                    going = going or token not in self._ends
            if not going:
                break
        texts = (self._tokenizer.decode([token for token in row if token not in self._ends]) for row in written)
        return [f"{UNSAFE}\n{text}" for text in texts]

    def _load(self) -> Any:
        options: dict[str, Any] = {"dtype": self._dtype}
        level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(self._path)
            if self._quantization:
                exact = transformers.BitsAndBytesConfig(
                    load_in_8bit=self._quantization == "int8", load_in_4bit=self._quantization == "int4",
                    bnb_4bit_compute_dtype=torch.bfloat16,
                )  # fmt: skip
                options |= {"quantization_config": exact, "device_map": self._device}
            elif getattr(config, "quantization_config", None) and Path(self._path).is_dir():
                options["dtype"] = "auto"  # a checkpoint that is quantized knows its own
            kind = "AutoModelForImageTextToText" if config.model_type in _MULTIMODAL else "AutoModelForCausalLM"
            model = getattr(transformers, kind).from_pretrained(self._path, **options)
            return (model if self._quantization else model.to(self._device)).eval()
        except Exception as error:
            raise _cannot_load(self._path, error) from None
        finally:
            logging.set_verbosity(level)


class _State:
    """A batch on its way through the model: its mask [B, so far], its positions and its cache."""

    def __init__(self, model: Any, mask_B_T: Any, cache: Any) -> None:
        self._model = model
        self._mask_B_T = mask_B_T
        self._cache = cache
        self._begun = False

    def advance(self, ids_B_T: Any) -> Any:
        """Run these tokens; the logits [B, V] of what comes next."""
        width = ids_B_T.shape[1]
        if self._begun:
            more = torch.ones(ids_B_T.shape, dtype=self._mask_B_T.dtype, device=self._mask_B_T.device)
            self._mask_B_T = torch.cat([self._mask_B_T, more], dim=1)
        positions_B_T = (self._mask_B_T.cumsum(1) - 1).clamp(min=0)[:, -width:]
        out = self._model(
            input_ids=ids_B_T, attention_mask=self._mask_B_T, position_ids=positions_B_T,
            past_key_values=self._cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        self._begun, self._cache = True, out.past_key_values
        return out.logits[:, -1]

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        chosen = torch.tensor(rows, device=self._mask_B_T.device)
        self._mask_B_T = self._mask_B_T[chosen]
        self._cache.batch_select_indices(chosen)


def _cannot_load(path: str, error: Exception) -> GuardError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return GuardError(f"the guard {path} cannot be loaded: {line}")
