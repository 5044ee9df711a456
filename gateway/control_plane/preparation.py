"""Gets what loading a version needs: its files where the engines see them, and its probes. In the background."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

from adapters.artifacts import ArtifactStore
from adapters.errors import ConfigError, UnderstudyError
from adapters.probes import Probes
from adapters.tensor_file import TensorInfo, chunks, read_header
from adapters.types import AdapterVersion
from gateway.engines.reconcile import Assigned

RETRY_AFTER = 5.0      # seconds until a failed preparation is tried again

log = logging.getLogger("understudy.controller")


class Preparation:
    """Remembers what is prepared. Fetching gigabytes from a remote store must not hold up anything else."""

    def __init__(self, artifacts: ArtifactStore, clock: Callable[[], float], base_version: str = "") -> None:
        self._artifacts = artifacts
        self._base = base_version.rpartition("@")[2]    # 12 hex digits of the digest; empty: not to be checked
        self._clock = clock
        self._ready: dict[str, Assigned] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stale: set[str] = set()
        self._looked_again: dict[str, str] = {}
        self._failed: dict[str, tuple[str, float]] = {}

    def get(self, version: AdapterVersion) -> Assigned | None:
        """What to assign; None while it is being prepared, which starts at the first call, or when that failed."""
        name = version.name
        waiting = name in self._failed and self._clock() < self._failed[name][1]
        if (name not in self._ready or name in self._stale) and name not in self._tasks and not waiting:
            self._stale.discard(name)
            self._tasks[name] = asyncio.create_task(self._prepare(version))
        return self._ready.get(name)

    def error(self, version: str) -> str:
        """Why the last try failed; empty when none has."""
        return self._failed.get(version, ("", 0.0))[0]

    def again(self, version: str, occasion: str) -> None:
        """Look at the files afresh, once per `occasion`: an engine could not load them."""
        if self._looked_again.get(version) != occasion:
            self._looked_again[version] = occasion
            self._stale.add(version)

    def retain(self, versions: set[str]) -> None:
        """Forget all others."""
        for remembered in (self._ready, self._failed, self._looked_again):
            for name in set(remembered) - versions:
                remembered.pop(name)
        self._stale &= versions

    async def settle(self) -> None:
        """Wait until nothing is being prepared."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _prepare(self, version: AdapterVersion) -> None:
        try:
            self._ready[version.name] = await asyncio.to_thread(self._assign, version)
            self._failed.pop(version.name, None)
        except (UnderstudyError, OSError, ValueError) as error:
            log.error("version %s cannot be prepared: %s", version.name, error)
            self._ready.pop(version.name, None)
            self._failed[version.name] = (str(error), self._clock() + RETRY_AFTER)
        finally:
            del self._tasks[version.name]

    def _assign(self, version: AdapterVersion) -> Assigned:
        if self._base and not version.base_digest.startswith(self._base):
            trained = version.base_digest[:12]
            raise ConfigError(f"trained on base@{trained}, but the engines serve base@{self._base}: train it anew")
        path = self._artifacts.local_path(version.digest)
        recorded = version.manifest.get("probes")
        probes = Probes.from_json(json.dumps(recorded)) if recorded else None
        nothing = probes is None and _changes_nothing(self._artifacts.materialise(version.digest))
        return Assigned(version.name, path, probes, nothing)


def _changes_nothing(directory: Path) -> bool:
    """True when every B matrix is all zero: such an adapter rightly answers like the base."""
    for path in directory.glob("*.safetensors"):
        tensors = read_header(path)
        with path.open("rb") as file:
            for name, tensor in tensors.items():
                if "lora_B" in name and any(_has_value(chunk, tensor) for chunk in chunks(file, tensor)):
                    return False
    return True


def _has_value(chunk: bytes, tensor: TensorInfo) -> bool:
    """True when some element is not zero. The sign bit does not count: -0.0 is zero too."""
    import numpy

    width = (tensor.end - tensor.start) // max(1, math.prod(tensor.shape))
    elements = numpy.frombuffer(chunk, numpy.uint8).reshape(-1, width)
    return bool(elements[:, :-1].any() or (elements[:, -1] & 0x7F).any())
