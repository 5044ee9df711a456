"""Loads the base that serves, for training: the very weights the engine uses, dequantised.

Training on the full-precision original and serving a quantized copy makes an adapter that
was fitted to other weights. So a compressed-tensors checkpoint is loaded and its 4-bit
weights are expanded in place; PEFT then puts LoRA on plain Linear layers.

torch and transformers are imported inside the functions: `import trainer` stays cheap.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import adapters
from adapters.errors import TrainingError

DType = Literal["float32", "bfloat16", "float16"]

DEMO_BASE = "demo"
"""The name of the base that ships with the package."""


def demo_base_dir() -> Path:
    """The folder of the base that ships with the package."""
    return Path(adapters.__file__).parent / "demo_base"


def resolve_base(base: str | Path) -> str:
    """What transformers should load for `base`: a path, a hub id, or "demo".

    Raises TrainingError when it is a local path (or the demo) without a config.json.
    """
    folder = demo_base_dir() if str(base) == DEMO_BASE else Path(base)
    if (folder / "config.json").is_file():
        return str(folder)
    looks_local = isinstance(base, Path) or str(base) == DEMO_BASE or str(base).startswith((".", "/", "~"))
    if looks_local or folder.exists():
        raise TrainingError(f"base {str(base)!r}: {folder} is not a checkpoint (no config.json there)")
    return str(base)


def quantization_method(base: str | Path) -> str | None:
    """How the checkpoint's weights are stored ("compressed-tensors", "gptq", …), None if plain.

    Raises TrainingError if its configuration cannot be read.
    """
    source = resolve_base(base)
    try:
        config = _read_config(source)
    except (OSError, ValueError) as error:
        raise TrainingError(f"base {str(base)!r}: {_first_line(error)}") from error
    settings = config.get("quantization_config")
    return None if settings is None else str(settings.get("quant_method", "unknown"))


def load_base(base: str | Path, dtype: DType = "float32") -> Any:
    """The base as a plain transformers causal language model in evaluation mode.

    `dtype` is that of the expanded weights: "float32" on CPUs (fast, and exact enough to
    agree with a bf16 engine within 0.02 nats), "bfloat16" where memory counts.
    Raises TrainingError for a checkpoint that is missing, damaged, or quantized by another
    method than compressed-tensors: that one could not be trained on the weights that serve.
    """
    method = quantization_method(base)
    if method not in (None, "compressed-tensors"):
        raise TrainingError(
            f"base {str(base)!r} is quantized with {method}, which cannot be expanded for training: "
            "serve a compressed-tensors checkpoint, or an unquantized one"
        )
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if method is not None:
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    try:
        with quiet_loading():
            model = AutoModelForCausalLM.from_pretrained(resolve_base(base), **options)
    except Exception as error:  # transformers, safetensors and torch each raise their own kinds
        raise TrainingError(f"base {str(base)!r} cannot be loaded: {_first_line(error)}") from error
    _forget_quantization(model)
    return model.eval()


def load_tokenizer(base: str | Path) -> Any:
    """The base's tokenizer. Raises TrainingError if it is missing or has no chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_base(base))
    except (OSError, ValueError) as error:
        raise TrainingError(f"base {str(base)!r}: no tokenizer: {_first_line(error)}") from error
    if not tokenizer.chat_template:
        raise TrainingError(f"base {str(base)!r}: its tokenizer has no chat template, which training needs")
    return tokenizer


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keeps weight-loading progress bars and one known-harmless warning off the terminal."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
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


def _read_config(source: str) -> dict[str, Any]:
    path = Path(source) / "config.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    from transformers import AutoConfig

    return dict(AutoConfig.from_pretrained(source).to_dict())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
