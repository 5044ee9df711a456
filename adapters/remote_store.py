"""Artifacts in any fsspec file system, such as S3. It cannot rename folders atomically: the marker is written last."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from adapters.artifact_files import MARKER, AdapterFile, check_digest, copy, marker, read_marker
from adapters.errors import ArtifactError, ConfigError


class RemoteStore:
    """`<url>/<digest>/…`; without its marker an artifact does not exist. See artifact_files.Store."""

    def __init__(self, url: str) -> None:
        self.root = _public(url.rstrip("/"))
        self._fs, self._path = _connect(url.rstrip("/"))

    def publish(self, digest: str, files: Mapping[str, AdapterFile]) -> None:
        """Files first, the marker last. Two publishers of one digest write the same bytes."""
        if self.exists(digest):
            return
        with self._translated(f"artifact {digest[:12]} cannot be stored"):
            self._fs.makedirs(self._at(digest), exist_ok=True)
            for name, file in {**files, MARKER: AdapterFile.of(marker(files))}.items():
                with self._fs.open(self._at(digest, name), "wb") as sink:
                    copy(name, file, sink)

    def exists(self, digest: str) -> bool:
        """True when every file is there with its size."""
        with self._translated(f"artifact {digest[:12]} cannot be looked up"):
            self._fs.invalidate_cache()
            try:
                files = self.files(digest)
                return all(self._fs.size(self._at(digest, name)) == file.size for name, file in files.items())
            except (FileNotFoundError, ValueError):
                return False

    def verify(self, digest: str) -> None:
        """Download every byte and compare."""
        with self._translated(f"artifact {digest[:12]} is damaged, push it again"):
            for name, file in self.files(digest).items():
                with _Nowhere() as sink:
                    copy(name, file, cast("BinaryIO", sink))

    def delete(self, digest: str) -> bool:
        """The marker first: what is half deleted does not exist."""
        with self._translated(f"artifact {digest[:12]} cannot be deleted"):
            self._fs.invalidate_cache()
            if not self._fs.exists(self._at(digest)):
                return False
            if self._fs.exists(self._at(digest, MARKER)):
                self._fs.rm_file(self._at(digest, MARKER))
            if self._fs.exists(self._at(digest)):  # object stores have no empty folders
                self._fs.rm(self._at(digest), recursive=True)
            return True

    def list(self) -> list[str]:
        """The digests of what is there, whole or not."""
        with self._translated("the artifact store cannot be listed"):
            self._fs.invalidate_cache()
            if not self._fs.exists(self._path):
                return []
            names = (entry.rstrip("/").rsplit("/", 1)[-1] for entry in self._fs.ls(self._path, detail=False))
            return sorted(name for name in names if len(name) == 64)

    def sweep(self, older_than: float) -> int:
        """Nothing to do: parts are under their digest, and the next publisher of it overwrites them."""
        del older_than
        return 0

    def files(self, digest: str) -> dict[str, AdapterFile]:
        """The files of an artifact, to be read. Raises FileNotFoundError and ValueError."""
        content = self._fs.cat_file(self._at(digest, MARKER))
        return read_marker(content, lambda name: cast("BinaryIO", self._fs.open(self._at(digest, name), "rb")))

    def _at(self, digest: str, name: str = "") -> str:
        return f"{self._path}/{check_digest(digest)}/{name}".rstrip("/")

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except ArtifactError:
            raise
        except Exception as error:  # every fsspec implementation raises its own client library's errors
            text = " ".join(str(error).split()) or type(error).__name__
            raise ArtifactError(f"{action} in {self.root}: {text}") from error


class _Nowhere:
    """A sink that keeps nothing."""

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write(self, data: bytes) -> int:
        return len(data)


def _connect(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"artifacts.url {_public(url)}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"artifacts.url {_public(url)} is no fsspec URL: {error}") from None
    return fs, path.rstrip("/")


def _public(url: str) -> str:
    """The URL as messages may show it: without a user or password."""
    return re.sub(r"//[^/@]*@", "//", url)
