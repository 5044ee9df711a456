"""Artifacts in a local (or mounted) directory: written aside, flushed to disk, and renamed into place."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from adapters.artifact_files import MARKER, AdapterFile, check_digest, copy, failure, marker, read_marker
from adapters.errors import ArtifactError


class LocalStore:
    """`<root>/<digest>/` per artifact, `<root>/.incoming/` for what is being written. See artifact_files.Store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / ".incoming"

    def path(self, digest: str) -> Path:
        """The directory of an artifact, there or not."""
        return self.root / check_digest(digest)

    def publish(self, digest: str, files: Mapping[str, AdapterFile]) -> None:
        """Atomic: a process killed at any point leaves the old state, and perhaps a folder for `sweep`."""
        final = self.path(digest)
        try:
            if self._is_sound(digest):
                return
            self._incoming.mkdir(parents=True, exist_ok=True)
            _fsync(self.root)
            temporary = self._aside(digest)
            try:
                _write(temporary, files)
                self._move(temporary, final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            raise failure(f"artifact {digest[:12]} cannot be stored in {self.root}", error) from error

    def exists(self, digest: str) -> bool:
        """True when every file is there with its size."""
        folder = self.path(digest)
        try:
            return all((folder / name).stat().st_size == file.size for name, file in self._files(digest).items())
        except (OSError, ValueError):
            return False

    def verify(self, digest: str) -> None:
        """Read every byte and compare. Raises ArtifactError when one is missing or different."""
        try:
            for name, file in self._files(digest).items():
                found = AdapterFile.of(self.path(digest) / name)
                if (found.size, found.sha256) != (file.size, file.sha256):
                    raise ValueError(f"{name} is not what was stored")
        except FileNotFoundError as error:
            raise ArtifactError(f"artifact {digest[:12]} lacks {error.filename}: push it again") from None
        except (OSError, ValueError) as error:
            raise ArtifactError(f"artifact {digest[:12]} is damaged ({error}): push it again") from None

    def delete(self, digest: str) -> bool:
        """Move it aside in one step, then remove it."""
        aside = self._aside(digest)
        try:
            if not self.path(digest).exists():
                return False
            self._incoming.mkdir(parents=True, exist_ok=True)
            self.path(digest).rename(aside)
            shutil.rmtree(aside)
            return True
        except FileNotFoundError:
            return False  # somebody else deleted it meanwhile
        except OSError as error:
            raise failure(f"artifact {digest[:12]} cannot be deleted from {self.root}", error) from error

    def list(self) -> list[str]:
        """The digests of what is there, whole or damaged."""
        try:
            return sorted(entry.name for entry in self.root.iterdir() if len(entry.name) == 64 and entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failure(f"artifact store {self.root} cannot be read", error) from error

    def sweep(self, older_than: float) -> int:
        """Remove parts that nobody has written to for `older_than` seconds."""
        limit, swept = time.time() - older_than, 0
        for part in self._incoming.iterdir() if self._incoming.is_dir() else ():
            try:
                newest = max(path.stat().st_mtime for path in (part, *part.rglob("*")))
            except OSError:
                continue  # its publisher moved it just now
            if newest < limit:
                shutil.rmtree(part, ignore_errors=True)
                swept += 1
        return swept

    def _files(self, digest: str) -> dict[str, AdapterFile]:
        folder = self.path(digest)
        return read_marker((folder / MARKER).read_bytes(), lambda name: (folder / name).open("rb"))

    def _is_sound(self, digest: str) -> bool:
        if not self.path(digest).exists():
            return False
        try:
            self.verify(digest)
        except ArtifactError:
            return False
        return True

    def _aside(self, digest: str) -> Path:
        return self._incoming / f"{check_digest(digest)[:12]}.{os.getpid()}.{secrets.token_hex(4)}"

    def _move(self, temporary: Path, final: Path) -> None:
        try:
            temporary.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if self._is_sound(final.name):
                return  # somebody else stored the same bytes meanwhile
            damaged = self._aside(final.name)
            final.rename(damaged)
            temporary.rename(final)
            shutil.rmtree(damaged, ignore_errors=True)
        _fsync(self.root)


def _write(folder: Path, files: Mapping[str, AdapterFile]) -> None:
    folder.mkdir()
    for name, file in {**files, MARKER: AdapterFile.of(marker(files))}.items():
        with (folder / name).open("xb") as sink:
            copy(name, file, sink)
            sink.flush()
            os.fsync(sink.fileno())
    _fsync(folder)


def _fsync(folder: Path) -> None:
    """Make a directory's entries survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
