"""What an adapter should answer, recorded by the trainer, and whether an engine answers so.

After a load, an engine is asked for its next-token logprobs after a few prefixes, for the
adapter and for the base. `compare` tells apart an engine that serves the adapter, one that
ignored it, one that serves something else, and one that is numerically poisoned. Pure
Python: the trainer records (`trainer.probes`), the gateway compares.

Logprobs are natural logarithms throughout; differences are in nats.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from adapters.errors import AdapterRejected

Logprobs = Mapping[int, float]

FORMAT = 1
FILE_NAME = "probes.json"

MATERIAL = math.log(0.01)
"""Only tokens at least this likely, on either side, are compared: bf16 logits lose up to
an eighth of a nat on tokens nobody samples."""

TOLERANCE = 0.15
"""Nats an engine may differ from the trainer on one token; measured on the CPU engine: 0.01 to 0.02."""

NOISE = 0.08
"""Nats below which a difference may be rounding: the tolerance never falls under it."""


class Verdict(StrEnum):
    """What an engine's answers to the probes show."""

    MATCH = "match"            # it serves the adapter
    MISMATCH = "mismatch"      # it serves something that is neither the adapter nor the base
    IGNORED = "ignored"        # it answers like the base: the adapter has no effect there
    NON_FINITE = "non_finite"  # NaN or infinity: quarantine the version, restart the engine
    MISSING = "missing"        # there is nothing to compare


@dataclass(frozen=True)
class Probes:
    """Next-token logprobs after `prefixes`, for an adapter and for its base without it.

    `adapter[i]` and `base[i]` hold the most likely tokens after `prefixes[i]`: id → logprob.
    `dtype` is the precision they were computed in.
    """

    prefixes: tuple[tuple[int, ...], ...]
    adapter: tuple[dict[int, float], ...]
    base: tuple[dict[int, float], ...]
    dtype: str

    def to_json(self) -> str:
        """The canonical text of probes.json: sorted keys, logprobs to six decimals."""
        return json.dumps(
            {
                "format": FORMAT,
                "dtype": self.dtype,
                "prefixes": [list(prefix) for prefix in self.prefixes],
                "adapter": [_keyed(logprobs) for logprobs in self.adapter],
                "base": [_keyed(logprobs) for logprobs in self.base],
            },
            indent=1,
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> Probes:
        """Reads `to_json`'s text. Raises AdapterRejected when it is not that."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, this code reads {FORMAT}")
            probes = cls(
                prefixes=tuple(tuple(int(token) for token in prefix) for prefix in data["prefixes"]),
                adapter=tuple(_unkeyed(item) for item in data["adapter"]),
                base=tuple(_unkeyed(item) for item in data["base"]),
                dtype=str(data["dtype"]),
            )
        except KeyError as error:
            raise AdapterRejected(f"{FILE_NAME}: {error} is missing") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise AdapterRejected(f"{FILE_NAME}: {error}") from error
        probes._check()
        return probes

    def write(self, directory: Path) -> None:
        """Writes probes.json into an adapter directory."""
        (directory / FILE_NAME).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Probes | None:
        """The probes of an adapter directory, None if it has none. Raises AdapterRejected if they are bad."""
        path = directory / FILE_NAME
        return cls.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _check(self) -> None:
        if not self.prefixes or not all(self.prefixes):
            raise AdapterRejected(f"{FILE_NAME}: it has no prefixes, or an empty one")
        if not len(self.prefixes) == len(self.adapter) == len(self.base):
            raise AdapterRejected(f"{FILE_NAME}: prefixes, adapter and base differ in length")
        for logprobs in (*self.adapter, *self.base):
            if not logprobs or not all(math.isfinite(value) and value <= 1e-6 for value in logprobs.values()):
                raise AdapterRejected(f"{FILE_NAME}: a logprob is missing, not finite, or above 0")


@dataclass(frozen=True)
class ProbeResult:
    """A verdict with the numbers that made it; differences in nats.

    `token` after `prefixes[prefix]` is the telling one: recorded adapter and base differ
    most there. `recorded`, `base` and `observed` are its logprobs (`observed` is None if
    the engine did not list it).
    """

    verdict: Verdict
    max_difference: float = math.nan   # observed vs the recorded adapter, largest over material tokens
    mean_difference: float = math.nan  # the same, mean
    base_distance: float = math.nan    # observed vs the base, largest
    base_drift: float = math.nan       # the engine's base vs the recorded base, largest: another base model?
    gap: float = math.nan              # recorded adapter vs the base, largest
    tolerance: float = math.nan        # the tolerance that applied
    prefix: int = -1
    token: int = -1
    recorded: float = math.nan
    base: float = math.nan
    observed: float | None = None

    @property
    def ok(self) -> bool:
        """True only for a match: no evidence is never a pass."""
        return self.verdict is Verdict.MATCH


def compare(
    probes: Probes,
    observed_adapter: Sequence[Logprobs | None],
    observed_base: Sequence[Logprobs | None] | None = None,
    tolerance: float = TOLERANCE,
) -> ProbeResult:
    """Compares what an engine answered to the probes with what the trainer recorded.

    `observed_…[i]`: the engine's most likely next tokens (id → logprob) after `prefixes[i]`, None
    where it gave none. Without `observed_base` the recorded base stands in.

    `tolerance` (nats) is for the largest difference over material tokens; half the gap between
    adapter and base where that is less, but never below NOISE: a weak adapter must be told from
    none, as far as the engine's arithmetic allows. Raises ValueError unless it is positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance {tolerance}: must be positive")
    answers = _complete(probes, observed_adapter)
    bases = list(probes.base) if observed_base is None else _complete(probes, observed_base)
    if answers is None or bases is None:
        return ProbeResult(Verdict.MISSING)
    if not all(math.isfinite(value) for item in (*answers, *bases) for value in item.values()):
        return ProbeResult(Verdict.NON_FINITE)
    prefix, token, gap = _telling(probes)
    applied = min(tolerance, max(gap / 2, NOISE))
    errors, base_distance = _differences(probes.adapter, answers), max(_differences(answers, bases))
    return ProbeResult(
        verdict=_verdict(max(errors), base_distance, gap, applied),
        max_difference=max(errors),
        mean_difference=sum(errors) / len(errors),
        base_distance=base_distance,
        base_drift=max(_differences(probes.base, bases)),
        gap=gap,
        tolerance=applied,
        prefix=prefix,
        token=token,
        recorded=_value(probes.adapter[prefix], token),
        base=_value(probes.base[prefix], token),
        observed=answers[prefix].get(token),
    )


def _value(recorded: Logprobs, token: int) -> float:
    """What was recorded for a token; for one that was not listed, the least of those that were."""
    return recorded.get(token, min(recorded.values()))


def _verdict(error: float, base_distance: float, gap: float, tolerance: float) -> Verdict:
    like_adapter, like_base = error <= tolerance, base_distance <= tolerance
    # An adapter that hardly differs from its base is like both: that is a match.
    if like_adapter and (not like_base or error <= base_distance or gap <= tolerance):
        return Verdict.MATCH
    return Verdict.IGNORED if like_base else Verdict.MISMATCH


def material_differences(left: Logprobs, right: Logprobs) -> dict[int, float]:
    """|left − right| in nats by token, for tokens material on either side.

    A token one side does not list is at most as likely there as the least likely listed:
    its difference is at least the distance to that one, and that bound is used. The most
    likely token of each side always counts, however flat the distribution.
    """
    floors = min(left.values()), min(right.values())
    threshold = min(MATERIAL, max(left.values()), max(right.values()))
    result: dict[int, float] = {}
    for token in {*left, *right}:
        a, b = left.get(token), right.get(token)
        if max(a if a is not None else -math.inf, b if b is not None else -math.inf) < threshold:
            continue
        if a is not None and b is not None:
            result[token] = abs(a - b)
        elif a is not None:
            result[token] = max(0.0, a - floors[1])
        elif b is not None:
            result[token] = max(0.0, b - floors[0])
    return result


def _differences(left: Sequence[Logprobs], right: Sequence[Logprobs]) -> list[float]:
    return [value for a, b in zip(left, right, strict=True) for value in material_differences(a, b).values()]


def _telling(probes: Probes) -> tuple[int, int, float]:
    """(prefix index, token, gap) where recorded adapter and base differ most; ties: the first."""
    candidates = [
        (difference, -index, -token)
        for index, (adapter, base) in enumerate(zip(probes.adapter, probes.base, strict=True))
        for token, difference in material_differences(adapter, base).items()
    ]
    difference, index, token = max(candidates)
    return -index, -token, difference


def _complete(probes: Probes, observed: Sequence[Logprobs | None]) -> list[Logprobs] | None:
    """The observations if there is one for every prefix, else None."""
    given = [item for item in observed if item]
    return given if len(given) == len(observed) == len(probes.prefixes) else None


def _keyed(logprobs: Logprobs) -> dict[str, float]:
    return {str(token): round(value, 6) for token, value in logprobs.items()}


def _unkeyed(item: Mapping[str, Any]) -> dict[int, float]:
    return {int(token): float(value) for token, value in item.items()}
