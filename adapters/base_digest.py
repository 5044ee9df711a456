"""What identifies a base: a SHA-256 over config, tensors and tokenizer. Big files are hashed once and remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt", "special_tokens_map.json",
    "spiece.model", "tekken.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
)  # fmt: skip
_NOT_IDENTITY = ("_name_or_path", "transformers_version")  # say who wrote the file, not what the model is


class FileHashes:
    """SHA-256 of files, remembered in `cache_dir`/base-files.json while path, size, times and inode stay the same."""

    def __init__(self, cache_dir: Path | None, progress: Callable[[int, int], None] | None = None) -> None:
        self._file = cache_dir / "base-files.json" if cache_dir else None
        self._progress = progress
        self._known = self._load()

    def sha256(self, paths: Sequence[Path]) -> list[str]:
        """The hash of each file, in order. Raises OSError."""
        stats = {path: path.stat() for path in paths}
        keys = {path: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for path, s in stats.items()}
        new = [path for path in paths if self._known.get(str(path.resolve()), {}).get("key") != keys[path]]
        total, done = sum(stats[path].st_size for path in new), 0
        for path in new:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(8 << 20):
                    digest.update(chunk)
                    done += len(chunk)
                    if self._progress:
                        self._progress(done, total)
            self._known[str(path.resolve())] = {"key": keys[path], "sha256": digest.hexdigest()}
        if new:
            self._save()
        return [self._known[str(path.resolve())]["sha256"] for path in paths]

    def _load(self) -> dict[str, Any]:
        """A cache that cannot be read only costs time."""
        try:
            known = json.loads(self._file.read_bytes()) if self._file else {}
            return {k: v for k, v in known.items() if isinstance(v, dict) and isinstance(v.get("sha256"), str)}
        except (OSError, ValueError, AttributeError):
            return {}

    def _save(self) -> None:
        if self._file is None:
            return
        new = self._file.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(self._known), encoding="utf-8")
            new.replace(self._file)
        except OSError:  # likewise
            with suppress(OSError):
                new.unlink()


def digest_base(path: Path, config: dict[str, Any], tensors: Sequence[Path], hashes: FileHashes) -> str:
    """SHA-256 (hex) over config.json in canonical form, then name and hash of every tensor and tokenizer file."""
    identity = {key: value for key, value in config.items() if key not in _NOT_IDENTITY}
    digest = hashlib.sha256(b"understudy base 1\n")
    digest.update(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())
    files = [*tensors, *(path / name for name in _TOKENIZER_FILES if (path / name).is_file())]
    for file, content in zip(files, hashes.sha256(files), strict=True):
        digest.update(f"\n{file.name} {content}".encode())
    return digest.hexdigest()
