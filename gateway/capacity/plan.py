"""From demand and what one engine can do to the number of engines and their slots. Pure; seconds, bytes, tokens.

The batch of an engine is made as large as the objective for the time per token allows, as its memory allows, and no
larger than what was measured. Then engines are added until two things hold: the share of places in use stays below
`utilisation`, and the first token comes in time for `share` of the requests: waiting for a place (M/G/k, as if the
gateway dealt requests out at random; it looks for the least busy engine, which is better) plus the engine's own time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from adapters.errors import ConfigError
from gateway.capacity.queueing import Wait, wait
from gateway.capacity.shapes import Shape, rank_setting
from gateway.capacity.speed import Point, Speed

MOST_REPLICAS = 100_000


@dataclass(frozen=True, slots=True)
class Demand:
    """What comes, and what was promised. `variation`: standard deviation of an answer's tokens by their mean."""

    rps: float
    input_tokens: float
    output_tokens: float
    ttft: float
    tpot: float
    share: float = 0.99
    variation: float = 1.0


@dataclass(frozen=True, slots=True)
class Versions:
    """`served`: distinct ones with traffic at once; `loaded`: with those kept to go back to; `rank`: the largest."""

    served: int = 1
    loaded: int = 2
    rank: int = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engines are configured for, and how full they may be. `memory` of a device in bytes; 0: not known."""

    max_loras: int = 4
    max_cpu_loras: int = 8
    max_lora_rank: int = 16
    memory: float = 0.0
    memory_share: float = 0.9
    utilisation: float = 0.8
    spare: int = 1


@dataclass(frozen=True, slots=True)
class Memory:
    """One engine's. `cache`: what is left for KV; `sequences`: how many of average length fit in; None: not known."""

    weights: int
    adapters: int
    host_adapters: int
    cache: float | None
    per_sequence: int
    sequences: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer. `replicas` includes the spare ones; the other figures are of one engine without them."""

    replicas: int
    needed: int
    for_versions: int
    concurrency: int
    utilisation: float
    rate: float
    saturated: float
    first_token: float
    per_token: float
    wait: Wait
    wait_quantile: float
    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    memory: Memory | None
    warnings: tuple[str, ...] = ()


def plan(demand: Demand, speed: Speed, versions: Versions, limits: Limits, shape: Shape | None = None) -> Plan:
    """Raises ConfigError when no number of engines can do it, with the reason."""
    _check(demand, versions, limits)
    memory = _memory(demand, versions, limits, shape) if shape else None
    point = _batch(demand, speed, memory)
    places = int(point.concurrency)
    needed = _replicas(demand, point, limits)
    for_versions = max(math.ceil(versions.served / limits.max_loras), math.ceil(versions.loaded / limits.max_cpu_loras))
    engines = max(needed, for_versions)
    rate = demand.rps / engines
    waiting = _wait(demand, point, rate)
    found = Plan(
        replicas=engines + limits.spare,
        needed=needed,
        for_versions=for_versions,
        concurrency=places,
        utilisation=rate * point.service(demand.output_tokens) / places,
        rate=rate,
        saturated=point.tokens_per_second / demand.output_tokens,
        first_token=point.first_token + waiting.quantile(demand.share),
        per_token=point.per_token,
        wait=waiting,
        wait_quantile=waiting.quantile(demand.share),
        max_loras=min(max(versions.served, 1), limits.max_loras) if for_versions > 1 else max(versions.served, 1),
        max_cpu_loras=max(min(versions.loaded, limits.max_cpu_loras) if for_versions > 1 else versions.loaded, 1),
        max_lora_rank=rank_setting(versions.rank),
        memory=memory,
    )
    return replace(found, warnings=tuple(_warnings(found, demand, speed, versions, limits)))


def _check(demand: Demand, versions: Versions, limits: Limits) -> None:
    positive = {
        "--rps": demand.rps, "--input-tokens": demand.input_tokens, "--output-tokens": demand.output_tokens,
        "--ttft": demand.ttft, "--tpot": demand.tpot, "--versions": versions.served,
    }  # fmt: skip
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be a positive number")
    if not 0 <= demand.variation < math.inf:
        raise ConfigError("--variation must not be negative: 0 if all answers are as long, 1 if nothing is known")
    if not 0 < demand.share < 1:
        raise ConfigError("--share must lie between 0 and 100 %")
    if not 0 < limits.utilisation < 1:
        raise ConfigError("--utilisation must lie between 0 and 100 %: an engine that is always full never catches up")
    if versions.loaded < versions.served:
        raise ConfigError(f"--loaded {versions.loaded} is less than --versions {versions.served}")


def _memory(demand: Demand, versions: Versions, limits: Limits, shape: Shape) -> Memory:
    """vLLM reserves max_loras slots of the full rank on the device, and keeps max_cpu_loras adapters in host memory."""
    slots = limits.max_loras * shape.adapter(max(limits.max_lora_rank, rank_setting(versions.rank)))
    host = limits.max_cpu_loras * shape.adapter(versions.rank)
    per_sequence = shape.sequence(demand.input_tokens + demand.output_tokens)
    if not limits.memory:
        return Memory(shape.weights, slots, host, None, per_sequence, None)
    cache = limits.memory * limits.memory_share - shape.weights - slots
    if cache < per_sequence:
        gib = 2**30
        raise ConfigError(
            f"one sequence does not fit: of {limits.memory / gib:.1f} GiB {limits.memory_share:.0%} may be used;"
            f" weights take {shape.weights / gib:.1f} GiB and {limits.max_loras} adapter slots {slots / gib:.1f} GiB: "
            "take a larger device, a smaller rank, or fewer slots"
        )
    return Memory(shape.weights, slots, host, cache, per_sequence, int(cache // per_sequence))


def _batch(demand: Demand, speed: Speed, memory: Memory | None) -> Point:
    """The largest batch that keeps the time per token, fits in memory and was measured. Raises ConfigError."""
    most = speed.most
    if memory is not None and memory.sequences is not None:
        most = min(most, memory.sequences)
    for places in range(most, 0, -1):
        point = speed.at(places)
        if point.per_token <= demand.tpot and point.first_token < demand.ttft:
            return point
    alone = speed.at(1)
    raise ConfigError(
        f"a single request takes {alone.first_token:.3g} s to its first token and {alone.per_token:.3g} s a token, the "
        f"objectives are {demand.ttft:.3g} s and {demand.tpot:.3g} s: no number of engines can keep them"
    )


def _wait(demand: Demand, point: Point, rate: float) -> Wait:
    """An answer's time varies with its number of tokens."""
    service = point.service(demand.output_tokens)
    decoding = max(0.0, service - point.first_token)
    return wait(rate, service, demand.variation * decoding / service, int(point.concurrency))


def _replicas(demand: Demand, point: Point, limits: Limits) -> int:
    """The smallest number with both objectives kept; they get easier with every engine. Raises ConfigError."""
    places, service = int(point.concurrency), point.service(demand.output_tokens)

    def enough(engines: int) -> bool:
        rate = demand.rps / engines
        if rate * service > limits.utilisation * places:
            return False
        return point.first_token + _wait(demand, point, rate).quantile(demand.share) <= demand.ttft

    low, high = 0, 1
    while not enough(high):
        low, high = high, high * 2
        if high > MOST_REPLICAS:
            raise ConfigError(f"more than {MOST_REPLICAS} engines would be needed: look at the numbers again")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _warnings(found: Plan, demand: Demand, speed: Speed, versions: Versions, limits: Limits) -> list[str]:
    said = []
    if found.concurrency == speed.most and found.per_token < 0.8 * demand.tpot:
        said.append(
            f"nothing was measured beyond {speed.most} requests at once, where a token takes {found.per_token:.3g} s "
            f"and may take {demand.tpot:.3g} s: measure more, fewer engines may do"
        )
    if found.memory and found.memory.sequences is not None and found.memory.sequences < speed.most:
        said.append(
            f"memory is what limits the batch: {found.memory.sequences} sequences of "
            f"{demand.input_tokens + demand.output_tokens:.0f} tokens fit; an fp8 KV cache would hold twice as many"
        )
    if found.for_versions > 1:
        said.append(
            f"{versions.served} versions serve, {versions.loaded} are loaded, but an engine takes {limits.max_loras} "
            f"and {limits.max_cpu_loras}: each version is on some engines only, so a version with more than its equal "
            "share of the traffic overloads those: raise engine.max_loras and engine.max_cpu_loras if memory allows"
        )
    if versions.rank > limits.max_lora_rank:
        refused = f"engine.max_lora_rank = {limits.max_lora_rank} refuses rank {versions.rank}"
        said.append(f"{refused}: set {found.max_lora_rank}")
    if found.for_versions <= 1 and (versions.served == limits.max_loras or versions.loaded == limits.max_cpu_loras):
        said.append("every slot is taken: a rollout needs one more of engine.max_loras and engine.max_cpu_loras")
    if limits.spare == 0:
        said.append(f"without a spare engine, one that fails leaves {found.replicas - 1} for the whole load")
    return said
