"""A base checkpoint: where it is, what identifies it, and the shape of every module an adapter may change.

Only safetensors headers are read for shapes. Layouts understood: plain and FP8 (`weight`), compressed-tensors packed
(`weight_packed` with `weight_shape`, or two 4-bit values a byte without), AWQ and GPTQ (`qweight` with `scales`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.base_digest import FileHashes, digest_base
from adapters.errors import ConfigError
from adapters.tensor_file import TensorInfo, parse_json, read_header

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
Progress = Callable[[int, int], None]  # (bytes hashed, bytes in all)


@dataclass(frozen=True)
class BaseModelInfo:
    """What adapters are checked against."""

    path: Path
    digest: str                          # 64 hex digits over config, tensors and tokenizer
    modules: dict[str, tuple[int, int]]  # 'model.layers.0.self_attn.q_proj' → (out_features, in_features)
    num_layers: int
    vocab_size: int

    @property
    def version(self) -> str:
        """How answers of the base alone are marked: base@<12 hex digits>."""
        return f"base@{self.digest[:12]}"


def resolve_base(name: str) -> Path:
    """The folder of a base: "demo" (shipped), a path, or a hub id that was downloaded before. Raises ConfigError."""
    if name == "demo":
        return Path(__file__).parent / "demo_base"
    try:
        path = Path(name).expanduser()
        if name and path.is_dir():
            return path.resolve()
        is_id = _HUB_ID.fullmatch(name) and not path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, of a user who does not exist, or with NUL
        is_id = False
    if not is_id:
        raise ConfigError(f"base {name!r} is not a folder: give a path, a hub id such as org/model, or demo")
    snapshot = _cached_snapshot(name)
    if snapshot is None:
        raise ConfigError(f"base {name!r} is neither a folder nor in the local cache: run `hf download {name}` first")
    return snapshot


def read_base(path: Path, cache_dir: Path | None = None, progress: Progress | None = None) -> BaseModelInfo:
    """Read the base in folder `path`. Hashing reads every byte once; `cache_dir` remembers the result.

    `progress(done, total)` in bytes is called while it hashes. Raises ConfigError when the folder holds no usable base.
    """
    config = _read_config(path)
    files = _tensor_files(path)
    modules: dict[str, tuple[int, int]] = {}
    try:
        for file in files:
            modules |= _modules(file, read_header(file), config)
        digest = digest_base(path, config, files, FileHashes(cache_dir, progress))
    except (OSError, ValueError) as error:
        raise ConfigError(f"base {path} cannot be read: {error}") from None
    text = config.get("text_config")
    text = text if isinstance(text, dict) else {}
    layers, vocabulary = (
        _positive(config.get(key) or text.get(key), key, path) for key in ("num_hidden_layers", "vocab_size")
    )
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    if tied and "lm_head" not in modules and "model.embed_tokens" in modules:
        modules["lm_head"] = modules["model.embed_tokens"]
    return BaseModelInfo(path, digest, modules, layers, vocabulary)


def _cached_snapshot(name: str) -> Path | None:
    """The newest downloaded snapshot in the Hugging Face cache (layout: huggingface_hub, "Understand caching")."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    folder = hub / ("models--" + name.replace("/", "--"))
    try:
        commit = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if (snapshot / "config.json").exists() else None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json((path / "config.json").read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"base {path} has no config.json: give the folder of a Hugging Face checkpoint") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"base {path}: config.json {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"base {path}: config.json is not an object")
    return config


def _tensor_files(path: Path) -> list[Path]:
    """The checkpoint's tensor files by name: those its index lists, or model.safetensors, or all there are."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(parse_json(index.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f"base {path}: {index.name} is not an index of tensor files") from None
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ConfigError(f"base {path}: {index.name} names files outside its folder")
        files = [path / name for name in names]
    elif (path / "model.safetensors").exists():
        files = [path / "model.safetensors"]
    else:
        files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"base {path} has no .safetensors files: convert the checkpoint, or finish its download")
    return files


def _modules(file: Path, tensors: dict[str, TensorInfo], config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear or embedding module in one file."""
    found: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if len(tensor.shape) != 2:
            continue
        if kind == "weight" and tensor.dtype != "U8":  # bitsandbytes packs into U8 and keeps no shape
            found[module] = (tensor.shape[0], tensor.shape[1])
        elif kind == "weight_packed":
            found[module] = _packed_shape(file, tensors.get(f"{module}.weight_shape"), tensor)
        elif kind == "qweight" and (scales := tensors.get(f"{module}.scales")):
            found[module] = _qweight_shape(tensor, scales, config)
    return found


def _packed_shape(file: Path, shape: TensorInfo | None, packed: TensorInfo) -> tuple[int, int]:
    """compressed-tensors: the shape is itself a tensor; NVFP4 has none and packs two values a byte along the input."""
    if shape is None:
        return packed.shape[0], packed.shape[1] * 2
    if shape.dtype not in ("I64", "I32") or shape.shape != (2,):
        raise ValueError(f"{file.name}: weight_shape is not a pair of integers")
    width = 8 if shape.dtype == "I64" else 4
    with file.open("rb") as handle:
        handle.seek(shape.start)
        out, inside = (int.from_bytes(handle.read(width), "little", signed=True) for _ in range(2))
    return out, inside


def _qweight_shape(qweight: TensorInfo, scales: TensorInfo, config: dict[str, Any]) -> tuple[int, int]:
    """AWQ packs (in, out / pack), GPTQ (in / pack, out); scales are (groups, out) in both."""
    quantization = config.get("quantization_config")
    bits = quantization.get("bits", quantization.get("w_bit")) if isinstance(quantization, dict) else None
    if bits not in (2, 3, 4, 8):
        raise ValueError("quantization_config has no bits, and packed weights need them")
    out = scales.shape[-1]
    inside = qweight.shape[0] * 32 // int(bits) if qweight.shape[1] == out else qweight.shape[0]
    return out, inside


def _positive(value: Any, key: str, path: Path) -> int:
    if type(value) is not int or value < 1:
        raise ConfigError(f"base {path}: config.json has no usable {key}")
    return value
