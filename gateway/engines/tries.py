"""How often each version has failed on one replica, and when it may be tried again."""

from __future__ import annotations

FIRST = 0.5        # seconds until a failed version is tried again; doubles
MOST = 60.0


class Tries:
    """Failures by version; forgotten when the version succeeds, is not wanted any more, or the engine restarts."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self._again_at: dict[str, float] = {}

    def failed(self, version: str, now: float) -> int:
        """One more failure; how many there are now."""
        count = self.failures.get(version, 0) + 1
        self.failures[version] = count
        self._again_at[version] = now + min(MOST, FIRST * 2.0 ** min(count - 1, 30))
        return count

    def succeeded(self, version: str) -> None:
        """It is fine now."""
        self.failures.pop(version, None)
        self._again_at.pop(version, None)

    def hurry(self, version: str) -> None:
        """Do not wait for its next try."""
        self._again_at.pop(version, None)

    def waiting(self, now: float) -> frozenset[str]:
        """Versions that must not be tried yet."""
        return frozenset(version for version, at in self._again_at.items() if at > now)

    def retain(self, versions: set[str]) -> None:
        """Forget all others."""
        for version in set(self.failures) - versions:
            self.succeeded(version)
