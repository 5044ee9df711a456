"""Finds registered reward models: the registry says what a version is, the artifact store has its files."""

from __future__ import annotations

from adapters.artifacts import ArtifactStore
from adapters.errors import ConfigError
from adapters.registry import Registry
from adapters.types import Stage
from monitors.rewards.types import FindVersion, StoredVersion


def version_finder(registry: Registry, artifacts: ArtifactStore) -> FindVersion:
    """A finder for `build_grader`. It raises NotFound, ConfigError and ArtifactError."""

    def find(name: str) -> StoredVersion:
        version = registry.get(name)
        if version.stage in (Stage.QUARANTINED, Stage.ARCHIVED):
            raise ConfigError(f"version {name} is {version.stage.value}: grade with another one")
        return StoredVersion(artifacts.materialise(version.digest), version.manifest, version.kind.value)

    return find
