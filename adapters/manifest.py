"""Checks a PEFT directory against a base and the engines' limits, before anything is stored or loaded.

vLLM accepts with 200 what would later poison it (wrong shapes, layers the base has not, NaN), so all is checked here.

    DIR/adapter_config.json           required; its canonical form is hashed and stored
    DIR/adapter_model.safetensors     required
    DIR/probes.json                   optional: what the adapter should answer (adapters.probes)
    DIR/manifest.json                 optional: the trainer's own facts, an object; `base_digest` is compared
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.adapter_config import AdapterConfig, check_config
from adapters.adapter_tensors import check_tensors, hash_tensors
from adapters.artifacts import AdapterFile
from adapters.base import BaseModelInfo
from adapters.errors import AdapterRejected
from adapters.probes import Probes
from adapters.tensor_file import parse_json, read_header
from adapters.types import Kind

CONFIG, TENSORS, PROBES, MANIFEST = (
    "adapter_config.json", "adapter_model.safetensors", "probes.json", "manifest.json",
)  # fmt: skip
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "adapter_model.pkl")
_MAX_JSON = 8 * 1024**2  # bytes


@dataclass(frozen=True)
class CheckedAdapter:
    """A directory that may be stored: `files` are the canonical config and the tensor file as it is."""

    files: dict[str, AdapterFile]
    config_canonical_bytes: bytes
    digest: str                # SHA-256 over tensors and canonical config, 64 hex digits
    rank: int                  # the largest in use
    size_bytes: int
    manifest: dict[str, Any]   # manifest.json, with `probes` and the config's base name


def check_adapter(
    directory: Path,
    base: BaseModelInfo,
    *,
    max_rank: int,
    max_bytes: int = 2 * 1024**3,
    kind: Kind = Kind.ADAPTER,
) -> CheckedAdapter:
    """Check the adapter in `directory`; its bytes are read once, never held. Raises AdapterRejected.

    `max_rank`: the engines' --max-lora-rank. `max_bytes`: the largest accepted tensor file. `kind`: a reward model
    may carry a score head.
    """
    try:
        paths = _find_files(directory)
    except OSError as error:  # a name too long, a folder that this user may not enter
        raise AdapterRejected(f"{error.filename} cannot be read: {error.strerror}") from None
    config = check_config(_read_json(paths[CONFIG]), max_rank, kind)
    manifest = _read_manifest(paths, config, base)
    weights = paths[TENSORS]
    try:
        size = weights.stat().st_size
        if size > max_bytes:
            raise AdapterRejected(f"{TENSORS} has {size:,} bytes, {max_bytes:,} at most: use a smaller rank")
        file = AdapterFile.of(weights)  # hashed first: what is stored later must be what is checked now
        tensors = read_header(weights)
        rank = check_tensors(tensors, config, base, kind)
        digest = hash_tensors(weights, tensors)
    except ValueError as error:
        raise AdapterRejected(f"{TENSORS}: {error}: save or copy it again") from None
    except OSError as error:
        raise AdapterRejected(f"{weights} cannot be read: {error.strerror}") from None
    canonical = config.canonical()
    digest.update(canonical)
    files = {CONFIG: AdapterFile.of(canonical), TENSORS: file}
    return CheckedAdapter(files, canonical, digest.hexdigest(), rank, size + len(canonical), manifest)


def _find_files(directory: Path) -> dict[str, Path]:
    """The files that count, by name; everything else in the directory is left where it is."""
    if not directory.is_dir():
        raise AdapterRejected(f"{directory} is not a directory: give the folder that holds {CONFIG}")
    found = {name: directory / name for name in (CONFIG, TENSORS, PROBES, MANIFEST) if _exists(directory / name)}
    if CONFIG not in found:
        inner = sorted(path.parent for path in directory.glob(f"*/{CONFIG}"))
        hint = f"did you mean {inner[-1]}?" if inner else "save the adapter with PEFT's save_pretrained"
        raise AdapterRejected(f"{directory} has no {CONFIG}: {hint}")
    if TENSORS not in found:
        pickles = [name for name in _PICKLES if _exists(directory / name)]
        if pickles:
            raise AdapterRejected(
                f"{directory / pickles[0]} is a pickle, which can run code when it is loaded: "
                "save with safe_serialization=True"
            )
        raise AdapterRejected(f"{directory} has no {TENSORS}: save the adapter with PEFT's save_pretrained")
    root = directory.resolve()
    for path in found.values():
        if not path.resolve().is_relative_to(root):
            raise AdapterRejected(f"{path} is a link that leaves the directory: copy the file itself there")
        if not path.is_file():
            raise AdapterRejected(f"{path} is not a regular file")
    return found


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _read_json(path: Path) -> Any:
    return _parse(path, _read(path))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise AdapterRejected(f"{path.name} has more than {_MAX_JSON:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise AdapterRejected(f"{path} cannot be read: {error.strerror}") from None


def _parse(path: Path, content: bytes) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise AdapterRejected(f"{path.name} {error}") from None


def _read_manifest(paths: dict[str, Path], config: AdapterConfig, base: BaseModelInfo) -> dict[str, Any]:
    manifest = _read_json(paths[MANIFEST]) if MANIFEST in paths else {}
    if not isinstance(manifest, dict):
        raise AdapterRejected(f"{MANIFEST} is not an object")
    for source, claimed in ((MANIFEST, manifest.get("base_digest")), (CONFIG, config.raw.get("base_digest"))):
        if claimed is not None and claimed != base.digest:
            raise AdapterRejected(
                f"{source} names base {str(claimed)[:12]}, the engines serve {base.digest[:12]} ({base.path}): "
                "train on the checkpoint that serves"
            )
    manifest = {**manifest, "base_model_name_or_path": config.raw.get("base_model_name_or_path")}
    if PROBES in paths:
        manifest["probes"] = _read_probes(paths[PROBES], base)
    return manifest


def _read_probes(path: Path, base: BaseModelInfo) -> Any:
    content = _read(path)
    document = _parse(path, content)
    probes = Probes.from_json(json.dumps(document))
    tokens = {token for prefix in probes.prefixes for token in prefix}
    if min(tokens) < 0 or max(tokens) >= base.vocab_size:
        raise AdapterRejected(f"{PROBES} has token ids beyond the base's vocabulary of {base.vocab_size}")
    return document

