"""Brings one version up on one engine: load, confirm, probe. A 200 from the engine proves nothing; its logprobs do."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from adapters.errors import EngineRefused, ProbeFailed
from adapters.probes import ProbeResult, Verdict, compare
from gateway.engines.client import EngineClient
from gateway.engines.reconcile import Assigned

log = logging.getLogger("understudy.engines")

UNRECORDED = "none"            # the probe's verdict when the adapter came without probes
_DIGITS = 6

# Without recorded probes: a few short prefixes of token ids that every vocabulary has.
_ANY_PREFIXES = tuple((1, 3 + n, 11 + 2 * n) for n in range(8))


@dataclass(frozen=True, slots=True)
class BroughtUp:
    """How it went. `probe` is kept with the holding: the verdict and the numbers behind it."""

    ready: bool
    error: str = ""
    probe: dict[str, Any] = field(default_factory=dict)

    @property
    def poisoned(self) -> bool:
        """True when the engine computed NaN: its memory cannot be trusted until it restarts."""
        return self.probe.get("verdict") == Verdict.NON_FINITE


async def bring_up(client: EngineClient, assigned: Assigned, base: str, listed: bool) -> BroughtUp:
    """Load `assigned` unless it is `listed` already, confirm and probe it; what fails is unloaded again.

    `base`: the base's name on this engine. Raises EngineUnavailable when the engine goes away meanwhile: that says
    nothing about the version.
    """
    try:
        if not listed:
            await _load(client, assigned)
        result = await _check(client, assigned, base)
    except EngineRefused as error:
        result = BroughtUp(False, _explain(error))
    except ProbeFailed as error:
        result = BroughtUp(False, str(error))
    if not result.ready and not result.poisoned:  # a poisoned engine is not touched again: it restarts
        await _take_off(client, assigned.version)
    return result


async def _load(client: EngineClient, assigned: Assigned) -> None:
    try:
        await client.load(assigned.version, assigned.path)
    except EngineRefused as error:
        if "already been loaded" not in str(error):  # somebody was faster: whether it is ours is checked next
            raise
    models = await client.models()
    found = models.get(assigned.version)
    if found is None:
        raise ProbeFailed("the engine said it loaded it, but does not list it")
    if found.root != assigned.path:
        raise ProbeFailed(f"the engine lists it from {found.root}, not from {assigned.path}")


async def _check(client: EngineClient, assigned: Assigned, base: str) -> BroughtUp:
    prefixes: Sequence[Sequence[int]] = assigned.probes.prefixes if assigned.probes else _ANY_PREFIXES
    # The base first: if it is not finite now, something else has spoilt this engine, not this version.
    observed_base = await client.probe(base, prefixes)
    if not _finite(observed_base):
        reason = "the base itself answers NaN: this engine was poisoned earlier"
        return BroughtUp(False, reason, {"verdict": Verdict.NON_FINITE.value, "blame": "engine"})
    observed = await client.probe(assigned.version, prefixes)
    if not _finite(observed):
        reason = "its logprobs are not finite (NaN or infinity): the weights are broken, or overflow on this engine"
        return BroughtUp(False, reason, {"verdict": Verdict.NON_FINITE.value, "blame": assigned.version})
    if assigned.probes is None:
        return _weakly(assigned, observed, observed_base)
    result = compare(assigned.probes, observed, observed_base)
    if result.max_difference <= result.tolerance < result.base_drift:
        # The adapter is right, and it is the base's answer that is not: some engines mix adapters into it.
        log.warning(
            "%s answers for the base with an adapter's weights (off by %.3f nats): see docs/engine.md on #48421",
            client.url, result.base_drift,
        )  # fmt: skip
        result = compare(assigned.probes, observed)
    return BroughtUp(result.ok, "" if result.ok else _numbers(result), _record(result))


def _weakly(assigned: Assigned, observed: Sequence[dict[int, float]], base: Sequence[dict[int, float]]) -> BroughtUp:
    """Without the trainer's record: finite, and different from the base unless it cannot be."""
    if list(observed) == list(base) and not assigned.changes_nothing:
        reason = "the engine answers exactly like the base: it ignores the adapter"
        return BroughtUp(False, reason, {"verdict": Verdict.IGNORED.value})
    return BroughtUp(True, "", {"verdict": UNRECORDED})


def _finite(answers: Sequence[dict[int, float]]) -> bool:
    return all(math.isfinite(value) for answer in answers for value in answer.values())


def _record(result: ProbeResult) -> dict[str, Any]:
    """JSON without NaN, which PostgreSQL's would refuse."""
    values = asdict(result)
    values["verdict"] = result.verdict.value
    return {
        name: round(value, _DIGITS) if isinstance(value, float) else value
        for name, value in values.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


def _numbers(result: ProbeResult) -> str:
    if result.verdict is Verdict.MISSING:
        return "the engine left out some of the probed positions"
    what = {
        Verdict.IGNORED: "the engine ignores the adapter: it answers like the base",
        Verdict.MISMATCH: "the engine does not reproduce the trainer's logprobs",
    }[result.verdict]
    observed = "not listed" if result.observed is None else f"{result.observed:.3f}"
    return (
        f"{what} (off by up to {result.max_difference:.3f} nats, {result.tolerance:.3f} allowed; token {result.token} "
        f"after prefix {result.prefix}: trainer {result.recorded:.3f}, base {result.base:.3f}, engine {observed})"
    )


def _explain(error: EngineRefused) -> str:
    text = f"the engine refused it ({error.status}): {error}"
    if error.status == 404 and "Not Found" in str(error):
        return f"{text}: start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora"
    return text


async def _take_off(client: EngineClient, version: str) -> None:
    try:
        await client.unload(version)
    except EngineRefused:
        return  # still listed: the next look will try again
