"""Reads the header of a safetensors file without trusting it: 8 bytes of length, JSON, then the tensors' bytes.

Format: https://github.com/huggingface/safetensors (README, "Format"). Every bound is checked here, because an engine
given a wrong file answers with a 500, or worse, with 200.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_MAX_HEADER = 32_000_000  # bytes: 200 a tensor, for more tensors than any model has; the reference allows 100 MB
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: its type, shape, and where its bytes lie in the file, [start, end)."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, in the order of their bytes. Raises ValueError (what is wrong) and OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError("the file is shorter than a safetensors header")
        length = int.from_bytes(prefix, "little")
        if length > size - 8:
            raise ValueError(f"the header claims {length} bytes of a file of {size}: truncated, or not safetensors")
        if length > _MAX_HEADER:
            raise ValueError(f"the header has {length:,} bytes, {_MAX_HEADER:,} at most")
        entries = _parse(file.read(length))
    entries.pop("__metadata__", None)
    data = 8 + length
    tensors = {name: _tensor(name, entry, data) for name, entry in entries.items()}
    return _check_layout(tensors, data, size)


def chunks(file: BinaryIO, tensor: TensorInfo, size: int = 8 << 20) -> Iterator[bytes]:
    """The tensor's bytes in pieces of at most `size` bytes (a multiple of every element's). Raises ValueError."""
    file.seek(tensor.start)
    left = tensor.end - tensor.start
    while left:
        piece = file.read(min(size, left))
        if not piece:
            raise ValueError("the file became shorter while it was read")
        left -= len(piece)
        yield piece


def parse_json(text: bytes | str) -> Any:
    """Strict JSON: no duplicate keys, no NaN or Infinity, no absurd nesting. Raises ValueError."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None


def _parse(header: bytes) -> dict[str, Any]:
    try:
        entries = parse_json(header)
    except ValueError as error:
        raise ValueError(f"the safetensors header {error}") from None
    if not isinstance(entries, dict):
        raise ValueError("the safetensors header is not an object")
    return entries


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"has the key {twice[:80]!r} twice")
    return found


def _refuse_constant(text: str) -> None:
    raise ValueError(f"contains {text}, which is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"contains {text[:40]}, which is too large")
    return value


def _tensor(name: str, entry: Any, data: int) -> TensorInfo:
    """Check one entry by itself: known type, sane shape, as many bytes as the shape needs."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"tensor {name[:200]!r} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"tensor {name[:200]!r} has the unknown type {str(dtype)[:40]!r}")
    if not _naturals(shape) or len(shape) > 16:
        raise ValueError(f"tensor {name[:200]!r} has no valid shape")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name[:200]!r} has no valid data_offsets")
    start, end = offsets
    bits = math.prod(shape) * _BITS[dtype]
    if end < start or (end - start) * 8 != bits:
        raise ValueError(f"tensor {name[:200]!r} is {dtype} {shape} but has {end - start} bytes")
    return TensorInfo(dtype, tuple(shape), data + start, data + end)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_layout(tensors: dict[str, TensorInfo], data: int, size: int) -> dict[str, TensorInfo]:
    """The tensors lie one after the other and fill the file exactly: no overlap, no gap, nothing behind them."""
    edge = data
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    for name, tensor in ordered.items():
        if tensor.start != edge:
            kind = "overlaps the one before" if tensor.start < edge else "leaves a gap before it"
            raise ValueError(f"tensor {name[:200]!r} {kind}")
        edge = tensor.end
    if edge != size:
        state = "truncated" if edge > size else "longer than its tensors"
        raise ValueError(f"the file is {state}: {size} bytes, its header describes {edge}")
    return ordered
