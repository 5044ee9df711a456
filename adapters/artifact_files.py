"""What the artifact stores share: files with their hashes, and the list of files that marks an artifact as whole."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from adapters.errors import ArtifactError

MARKER = "complete.json"
_CHUNK = 1 << 20  # bytes
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, then repeat",
    errno.EDQUOT: "the disk quota is used up: free some space, then repeat",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "this user may not write there: check owner and permissions",
    errno.EPERM: "this user may not write there: check owner and permissions",
}


@dataclass(frozen=True)
class AdapterFile:
    """One file to store: where its bytes come from, and what they must be."""

    open: Callable[[], BinaryIO]
    size: int      # bytes
    sha256: str    # 64 hex digits

    @classmethod
    def of(cls, source: Path | bytes) -> AdapterFile:
        """Hash a file or bytes as they are now. Raises OSError."""
        if isinstance(source, bytes):
            content = source
            return cls(lambda: io.BytesIO(content), len(content), hashlib.sha256(content).hexdigest())
        path = source
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return cls(lambda: path.open("rb"), file.tell(), digest.hexdigest())


class Store(Protocol):
    """Keeps artifacts by digest. All methods raise ArtifactError; a digest that is not there is one too."""

    def publish(self, digest: str, files: Mapping[str, AdapterFile]) -> None:
        """Store the files, whole or not at all. Mends what is there when it is damaged, else leaves it."""

    def exists(self, digest: str) -> bool:
        """True when every file is there with its size."""

    def verify(self, digest: str) -> None:
        """Read every byte and compare."""

    def delete(self, digest: str) -> bool:
        """Remove it; False when it was not there."""

    def list(self) -> list[str]:
        """The digests of what is there."""

    def sweep(self, older_than: float) -> int:
        """Remove what interrupted publishers left more than `older_than` seconds ago; how many."""


def check_digest(digest: str) -> str:
    """The digest itself: it becomes a path, so nothing else may pass. Raises ArtifactError."""
    if not _DIGEST.fullmatch(digest):
        raise ArtifactError(f"{digest[:80]!r} is not a digest of 64 hex digits")
    return digest


def copy(name: str, file: AdapterFile, sink: BinaryIO) -> None:
    """Copy the bytes into `sink` and compare them. Raises ArtifactError when they are not what was announced."""
    digest, size = hashlib.sha256(), 0
    with file.open() as source:
        while chunk := source.read(_CHUNK):
            sink.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    if (size, digest.hexdigest()) != (file.size, file.sha256):
        raise ArtifactError(f"{name} changed while it was read, or is damaged: repeat when nothing writes to it")


def marker(files: Mapping[str, AdapterFile]) -> bytes:
    """The bytes of complete.json."""
    listed = {name: {"size": file.size, "sha256": file.sha256} for name, file in files.items()}
    return json.dumps({"files": listed}, sort_keys=True, indent=1).encode()


def read_marker(content: bytes, open_file: Callable[[str], BinaryIO]) -> dict[str, AdapterFile]:
    """The files that a complete.json lists; `open_file(name)` reads one. Raises ValueError."""
    try:
        return {name: _listed(name, facts, open_file) for name, facts in json.loads(content)["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{MARKER} is damaged: {error}") from None


def _listed(name: str, facts: dict[str, str], open_file: Callable[[str], BinaryIO]) -> AdapterFile:
    if Path(name).name != name:
        raise ValueError(f"{MARKER} names a file outside its folder")
    return AdapterFile(lambda: open_file(name), int(facts["size"]), str(facts["sha256"]))


def failure(action: str, error: OSError) -> ArtifactError:
    """One line for an error of the operating system."""
    return ArtifactError(f"{action}: {_ADVICE.get(error.errno or 0, error.strerror or str(error))}")
