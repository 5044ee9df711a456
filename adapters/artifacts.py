"""The artifact store of `[artifacts]`: adapter files by their digest, whole or not at all, never changed afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapters.artifact_files import AdapterFile, Store, check_digest
from adapters.errors import ArtifactError, ConfigError
from adapters.local_store import LocalStore
from adapters.remote_store import RemoteStore
from adapters.settings import ArtifactSettings

__all__ = ["AdapterFile", "ArtifactStore"]


class ArtifactStore:
    """Publishes and reads artifacts. Methods raise ArtifactError in one line; blocking, so never on an event loop."""

    def __init__(self, settings: ArtifactSettings, data_dir: Path) -> None:
        self._engine_path = settings.engine_path.rstrip("/")
        self._cache = LocalStore(data_dir / "cache" / "artifacts")
        self._remote: RemoteStore | None = None
        local = _local_root(settings.url, data_dir)
        if local is None:
            self._remote = RemoteStore(settings.url)
        self._store: Store = self._remote or LocalStore(local or data_dir)
        self._local = LocalStore(local) if local else self._cache

    def publish(self, digest: str, files: Mapping[str, AdapterFile]) -> str:
        """Store the files under `digest`; the same digest again changes nothing, or mends what is damaged."""
        self._store.publish(check_digest(digest), files)
        return digest

    def local_path(self, digest: str) -> str:
        """The directory that engines load from. Copies a remote artifact first, unless engines see the store itself."""
        if self._engine_path:
            return f"{self._engine_path}/{check_digest(digest)}"
        return str(self.materialise(digest))

    def materialise(self, digest: str) -> Path:
        """A directory on this machine with the artifact's files. Raises ArtifactError when there is none."""
        if self._local.exists(digest):
            return self._local.path(digest)
        if self._remote is None:
            raise ArtifactError(
                f"artifact {digest[:12]} is missing or damaged in {self._local.root}: push it again, or set "
                "artifacts.url to a store that all hosts share"
            )
        try:
            files = self._remote.files(digest)
        except Exception as error:  # likewise: each fsspec implementation has its own errors
            text = " ".join(str(error).split()) or type(error).__name__
            raise ArtifactError(f"artifact {digest[:12]} cannot be read from {self._remote.root}: {text}") from error
        self._cache.publish(digest, files)
        return self._cache.path(digest)

    def exists(self, digest: str) -> bool:
        """True when every file is there with its size."""
        return self._store.exists(digest)

    def verify(self, digest: str) -> None:
        """Read every byte and compare it with what was stored."""
        self._store.verify(digest)

    def delete(self, digest: str) -> bool:
        """Remove the artifact and its local copy; was it there? Only adapters.registry knows when that is safe."""
        self._cache.delete(digest)
        return self._store.delete(digest)

    def list(self) -> list[str]:
        """The digests of what is there."""
        return self._store.list()

    def sweep(self, older_than: float = 3600.0) -> int:
        """Remove what killed pushes left more than `older_than` seconds ago; returns how many."""
        return self._store.sweep(older_than) + (self._cache.sweep(older_than) if self._remote else 0)


def _local_root(url: str, data_dir: Path) -> Path | None:
    """The directory of a local store; None for a remote one."""
    if url == "file":
        return data_dir / "artifacts"
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return Path(unquote(parts.path))
    if url.startswith("/"):
        return Path(url)
    if not parts.scheme or parts.scheme == "file" or "://" not in url:
        raise ConfigError(f'artifacts.url is {url!r}: write "file", an absolute path, or an fsspec URL such as s3://…')
    return None
