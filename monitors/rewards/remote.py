"""Scores from another `understudy reward`: POST {url}/v1/score (docs/rewards.md has the wire format)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from adapters.errors import GraderError, GraderUnavailable
from monitors.rewards.http_client import Client
from monitors.rewards.types import Sample, Scores, is_score

_BATCH = 64                  # samples in one request
_COMPOSITE = "composite"     # the service's own weighted mean


class RemoteScores:
    """One grader of a scoring service. Its fingerprint is fixed at the first contact: a change is an error."""

    def __init__(self, name: str, url: str, grader: str, timeout: float, key_variable: str) -> None:
        self._name = name
        self._url = url
        self._grader = grader
        self._client = Client(name, url, timeout=timeout, key_variable=key_variable)
        self._fingerprint = ""

    @property
    def fingerprint(self) -> str:
        """The service's fingerprint of its grader. Raises GraderUnavailable when it cannot be asked."""
        self.prepare()
        return self._fingerprint

    def prepare(self) -> None:
        """Ask what is there. Raises GraderUnavailable and GraderError."""
        if not self._fingerprint:
            self._check(self._client.post("/v1/score", {"samples": []}))

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One score per sample; None for all of a request that failed. Raises GraderError when the grader changed."""
        scores: Scores = []
        for batch in (samples[start : start + _BATCH] for start in range(0, len(samples), _BATCH)):
            try:
                answer = self._client.post("/v1/score", {"samples": list(_wire(batch))})
                self._check(answer)
                scores += self._read(answer, len(batch))
            except GraderUnavailable:
                scores += [None] * len(batch)
        return scores

    def _check(self, answer: Any) -> None:
        known = answer.get("fingerprints")
        if not isinstance(known, dict) or not known:
            raise GraderError(f"reward {self._name!r}: {self._url} is no scoring service: it names no fingerprints")
        if not self._grader and _COMPOSITE in known:
            self._grader = _COMPOSITE
        if not self._grader and len(known) > 1:
            raise GraderError(f"reward {self._name!r}: {self._url} has {sorted(known)}: name one as options.grader")
        self._grader = self._grader or next(iter(known))
        if self._grader not in known:
            raise GraderError(f"reward {self._name!r}: {self._url} has {sorted(known)}, no {self._grader!r}")
        if not known[self._grader]:
            raise GraderUnavailable(f"reward {self._name!r}: {self._grader!r} at {self._url} is not ready yet")
        found = str(known[self._grader])
        if self._fingerprint and found != self._fingerprint:
            raise GraderError(
                f"reward {self._name!r}: the grader at {self._url} changed while it was used (fingerprint "
                f"{self._fingerprint[:12]}, now {found[:12]}): its scores cannot be compared any more"
            )
        self._fingerprint = found

    def _read(self, answer: Any, count: int) -> Scores:
        rows = answer.get("scores")
        if not isinstance(rows, list) or len(rows) != count:
            raise GraderError(f"reward {self._name!r}: {self._url} did not answer with {count} scores")
        by_id = {str(row["id"]): row["scores"].get(self._grader) for row in rows}
        values = [by_id.get(str(place)) for place in range(count)]
        if not all(map(is_score, values)):
            raise GraderError(f"reward {self._name!r}: {self._url} answered with scores that are not in 0..1")
        return values


def _wire(samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    for place, sample in enumerate(samples):
        yield {
            "id": str(place),
            "prompt": list(sample.prompt),
            "completion": sample.completion,
            "columns": dict(sample.columns),
        }
