"""Loads the base that serves, for training: the very weights the engine uses, dequantised.

Training on the full-precision original and serving a quantized copy makes an adapter that
was fitted to other weights. So a compressed-tensors checkpoint is loaded and its packed
weights are expanded in place; PEFT then puts LoRA on plain Linear layers.

torch and transformers are imported inside the functions: `import trainer` stays cheap.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from adapters.base import resolve_base
from adapters.errors import ConfigError, TrainingError

DType = Literal["float32", "bfloat16", "float16"]

DEMO_BASE = "demo"
"""The name of the base that ships with the package."""

TRAINABLE = (None, "compressed-tensors")
"""Storage methods whose weights can be expanded to what the engine computes with."""


def quantization_method(base: str | Path) -> str | None:
    """How the checkpoint's weights are stored ("compressed-tensors", "gptq", …), None if plain.

    Raises ConfigError if there is no such checkpoint or its config.json is unreadable.
    """
    path = resolve_base(str(base)) / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8")).get("quantization_config")
    except FileNotFoundError:
        raise ConfigError(f"base {str(base)!r}: {path} is not there") from None
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"base {str(base)!r}: {path} cannot be read: {error}") from error
    return None if settings is None else str(settings.get("quant_method", "unknown"))


def has_gpu() -> bool:
    """True where training runs on a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def load_base(
    base: str | Path, dtype: DType = "float32", *, nf4: bool = False, head: Literal["text", "score"] = "text"
) -> Any:
    """The base as a plain transformers model in evaluation mode: a language model, or one score for a text.

    `base` is a path, a downloaded hub id, or "demo". `dtype` is that of the expanded
    weights: "float32" on CPUs (fast, and closest to what the engine answers), "bfloat16"
    where memory counts. `nf4`: keep or make 4-bit NF4 weights (bitsandbytes) instead of
    expanding. Raises ConfigError if there is no such checkpoint, TrainingError if it is
    damaged or quantized by a method that could not be trained on the weights that serve.
    """
    method = quantization_method(base)
    if method not in TRAINABLE and not (nf4 and method == "bitsandbytes"):
        hint = ", or set quantization = \"nf4\"" if method == "bitsandbytes" else ""
        raise TrainingError(
            f"base {str(base)!r} is quantized with {method}, which cannot be expanded for training: "
            f"serve a compressed-tensors checkpoint, or an unquantized one{hint}"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    options: dict[str, Any] = {"dtype": getattr(torch, dtype), **_quantization(method, dtype, nf4=nf4)}
    kind = AutoModelForCausalLM
    if head == "score":
        kind, options = AutoModelForSequenceClassification, {**options, "config": _headed(base)}
    try:
        with quiet_loading():
            model = kind.from_pretrained(str(resolve_base(str(base))), **options)
    except Exception as error:  # transformers, safetensors and torch each raise their own kinds
        raise TrainingError(f"base {str(base)!r} cannot be loaded: {first_line(error)}") from error
    if not nf4:
        _forget_quantization(model)
    return model.eval()


def _headed(base: str | Path) -> Any:
    """The base's configuration with a score head, which the checkpoint has not: taken for a packed one, it would be
    unpacked from whatever is in memory, with a random shape."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(resolve_base(str(base))), num_labels=1)
    if getattr(config, "quantization_config", None) and "ignore" in config.quantization_config:
        config.quantization_config["ignore"] = [*config.quantization_config["ignore"], "score"]
    return config


def _quantization(method: str | None, dtype: DType, *, nf4: bool) -> dict[str, Any]:
    """What from_pretrained must be told: expand compressed-tensors, or make NF4 weights of plain ones."""
    if nf4 and method is None:
        import torch
        from transformers import BitsAndBytesConfig

        # vLLM's bitsandbytes loader quantizes to NF4 in blocks of 64 without double quantization: so here.
        made = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
        )
        return {"quantization_config": made}
    if method != "compressed-tensors":
        return {}
    import compressed_tensors  # noqa: F401 - before stderr is redirected: its logger keeps the one it finds
    from transformers import CompressedTensorsConfig

    return {"quantization_config": CompressedTensorsConfig(dequantize=True)}


def load_tokenizer(base: str | Path) -> Any:
    """The base's tokenizer. Raises TrainingError if it is missing or has no chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(resolve_base(str(base))))
    except (OSError, ValueError) as error:
        raise TrainingError(f"base {str(base)!r}: no tokenizer: {first_line(error)}") from error
    if not tokenizer.chat_template:
        raise TrainingError(f"base {str(base)!r}: its tokenizer has no chat template, which training needs")
    return tokenizer


def first_line(error: BaseException) -> str:
    """The first line of a foreign error's message: libraries write paragraphs."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keeps progress bars of weight loading, and one known-harmless warning, off the terminal."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    # compressed-tensors has no switch for its bars; they go wherever stderr points when made.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        # We override one loading attribute on purpose; transformers warns that the rest is ignored.
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        try:
            yield
        finally:
            if bars:
                logging.enable_progress_bar()


def _forget_quantization(model: Any) -> None:
    """Drops what dequantising leaves behind, so that PEFT sees ordinary Linear layers."""
    for module in model.modules():
        for name in ("weight_scale", "weight_shape", "weight_zero_point", "quantization_scheme", "quantization_status"):
            if hasattr(module, name):
                delattr(module, name)
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    model.is_quantized = False
