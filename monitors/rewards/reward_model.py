"""A Bradley-Terry reward model in this process: the serving base, dequantised, with LoRA and a score head.

The only module of monitors/rewards that loads torch. Scores are computed in float32 on a CPU and in bfloat16 on a GPU.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, CompressedTensorsConfig
from transformers.utils import logging

from adapters.errors import GraderError
from monitors.rewards.types import Message, Sample, text_of


class RewardModel:
    """Raw scores of (prompt, answer). One thread at a time. Raises GraderError when it cannot be loaded."""

    def __init__(self, folder: Path, base: Path, *, batch_size: int = 16, max_length: int = 0) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._batch_size = batch_size
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(base))
            self._model = _load(folder, base, self._device)
        except Exception as error:  # transformers, peft, safetensors and torch each raise their own kinds
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise GraderError(f"the reward model {folder} cannot be loaded: {line}") from error
        if not self._tokenizer.chat_template:
            raise GraderError(f"the base {base} has no chat template, which a reward model needs")
        config = self._model.config.get_text_config()
        pad = self._tokenizer.pad_token_id
        self._pad = self._tokenizer.eos_token_id if pad is None else pad
        config.pad_token_id = self._pad  # the head reads the last token that is no padding
        longest = int(getattr(config, "max_position_embeddings", 0) or 1 << 20)
        self._max_length = min(max_length or longest, longest)
        self._tokenizer.model_max_length = 1 << 30  # lengths are checked here, without its warnings
        self._marks = [str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special]

    def raw(self, samples: Sequence[Sample]) -> list[float | None]:
        """One raw score per sample, unbounded. None: the prompt alone is too long. -inf: the answer makes it so, or
        holds a special token's text, with which it could end its turn and write another."""
        tokens = [self._tokens(sample) for sample in samples]
        order = sorted((place for place, ids in enumerate(tokens) if ids), key=lambda place: len(tokens[place] or ()))
        raw: list[float | None] = [None if ids is None else float("-inf") for ids in tokens]
        for start in range(0, len(order), self._batch_size):  # equal lengths together: less padding
            batch = order[start : start + self._batch_size]
            for place, value in zip(batch, self._forward([tokens[place] or [] for place in batch]), strict=True):
                raw[place] = value
        return raw

    def _tokens(self, sample: Sample) -> list[int] | None:
        """As TRL's RewardTrainer: the whole conversation through the chat template. [] for -inf."""
        if any(mark in sample.completion for mark in self._marks):
            return []
        prompt = [_plain(message) for message in sample.prompt]
        answer = {"role": "assistant", "content": sample.completion}
        ids = self._render([*prompt, answer])
        if len(ids) <= self._max_length:
            return ids
        return None if prompt and len(self._render(prompt)) >= self._max_length else []

    def _render(self, messages: list[Message]) -> list[int]:
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # templates raise jinja's errors
            raise GraderError(f"the base's chat template refuses a prompt: {error}") from None
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _forward(self, batch: list[list[int]]) -> list[float]:
        longest = max(map(len, batch))
        ids_B_T = torch.tensor([ids + [self._pad] * (longest - len(ids)) for ids in batch])
        mask_B_T = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in batch])
        with torch.inference_mode():
            output = self._model(input_ids=ids_B_T.to(self._device), attention_mask=mask_B_T.to(self._device))
        return [float(value) for value in output.logits[:, 0].float().cpu()]


def load_base(base: Path, dtype: torch.dtype) -> Any:
    """The serving base, dequantised, with a head that is not trained yet."""
    config = AutoConfig.from_pretrained(str(base), num_labels=1)
    options: dict[str, Any] = {"config": config, "dtype": dtype}
    if quantization := getattr(config, "quantization_config", None):
        import compressed_tensors  # noqa: F401 - before stderr is redirected: its logger keeps the one it finds

        # The checkpoint has no head: taken for a packed one, it would be unpacked from whatever is in memory.
        quantization["ignore"] = [*quantization.get("ignore", ()), "score"]
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    with _quiet():
        model = AutoModelForSequenceClassification.from_pretrained(str(base), **options)
    _forget_quantization(model)
    return model


def _load(folder: Path, base: Path, device: str) -> Any:
    """The base with the adapter and its head, in evaluation mode."""
    model = load_base(base, torch.float32 if device == "cpu" else torch.bfloat16)
    with _quiet():
        return PeftModel.from_pretrained(model, str(folder)).to(device).eval()


def _forget_quantization(model: Any) -> None:
    """Drops what dequantising leaves behind, so that PEFT sees ordinary Linear layers (as trainer.model does)."""
    for module in model.modules():
        for name in ("weight_scale", "weight_shape", "weight_zero_point", "quantization_scheme", "quantization_status"):
            if hasattr(module, name):
                delattr(module, name)
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    model.is_quantized = False


@contextlib.contextmanager
def _quiet() -> Any:
    """No progress bars, and no warning about the head, which is random until PEFT loads the trained one."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def _plain(message: Message) -> Message:
    return {"role": message.get("role", "user"), "content": text_of(message)}
