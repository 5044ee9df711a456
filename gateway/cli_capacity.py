"""`understudy capacity`: how many engines a load needs, from traffic, versions and ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli_support import ConfigFile, Json, note, print_fields, print_json

if TYPE_CHECKING:
    from gateway.capacity.ask import Answer

Number = float | None
Count = int | None


def capacity_command(
    *,
    rps: Annotated[Number, typer.Option(help="requests a second at peak; default: from the records here")] = None,
    input_tokens: Annotated[Number, typer.Option(help="mean tokens of a prompt; default: likewise")] = None,
    output_tokens: Annotated[Number, typer.Option(help="mean tokens of an answer; default: likewise")] = None,
    variation: Annotated[Number, typer.Option(help="standard deviation of an answer's tokens by their mean")] = None,
    ttft: Annotated[str, typer.Option(metavar="TIME", help="objective for the time to the first token")] = "1s",
    tpot: Annotated[str, typer.Option(metavar="TIME", help="objective for the time per output token")] = "100ms",
    share: Annotated[str, typer.Option(metavar="SHARE", help="of requests that must keep --ttft")] = "99%",
    engine: Annotated[
        list[str] | None, typer.Option(metavar="K:TOKENS[:TTFT]", help="one engine, K at once: tokens/s, seconds")
    ] = None,
    measure: Annotated[str, typer.Option(metavar="K,K,…", help="measure one with K at once instead: 1,4,16,64")] = "",
    watch: Annotated[str, typer.Option(metavar="TIME", help="read a busy engine's metrics for so long instead")] = "",
    url: Annotated[str, typer.Option(help="the engine to measure or watch; default: the first one here")] = "",
    model: Annotated[str, typer.Option(help="what to ask it for: the base, or a version that it holds")] = "",
    versions: Annotated[Count, typer.Option(min=1, help="distinct versions with traffic; default: as here")] = None,
    loaded: Annotated[Count, typer.Option(min=1, help="… and those kept to go back to; default: as here")] = None,
    rank: Annotated[Count, typer.Option(min=1, help="the largest adapter's; default: as here")] = None,
    gpu_memory: Annotated[float, typer.Option(min=0, help="GiB of an engine's device; 0: do not look at it")] = 0.0,
    kv_bytes: Annotated[int, typer.Option(min=1, max=4, help="bytes a number in the KV cache; 1 for fp8")] = 2,
    utilisation: Annotated[str, typer.Option(metavar="SHARE", help="of an engine's places in use, at most")] = "80%",
    spare: Annotated[int, typer.Option(min=0, help="engines more, for failures and restarts")] = 1,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """How many engines a load needs, and which slots: from traffic, objectives, engines' speed, versions and ranks."""
    from gateway.capacity.ask import Asked, answer

    asked = Asked(
        rps, input_tokens, output_tokens, variation, ttft, tpot, share, tuple(engine or ()), measure, watch, url, model,
        versions, loaded, rank, gpu_memory, kv_bytes, utilisation, spare,
    )  # fmt: skip
    found = answer(asked, config, note)
    print_json(found.to_json()) if as_json else _show(found)


def _show(found: Answer) -> None:
    plan, demand, needs = found.plan, found.demand, found.versions
    if found.records:
        note(f"traffic: the busiest minute of the last {found.records:,} records here")
    spare = plan.replicas - max(plan.needed, plan.for_versions)
    why = "traffic" if plan.needed >= plan.for_versions else f"{needs.served} versions, {needs.loaded} loaded"
    fields = {
        "engines": f"{plan.replicas}: {plan.replicas - spare} for the {why}, and {spare} to spare",
        "requests_at_once": f"{plan.concurrency} an engine (--max-num-seqs), {plan.utilisation:.0%} of them in use",
        "requests": f"{plan.rate:.3g} a second for each engine, which could do {plan.saturated:.3g}",
        "first_token": f"{demand.share:.4g} of them within {plan.first_token:.3g} s (objective {demand.ttft:.3g} s)",
        "per_token": f"{plan.per_token * 1e3:.3g} ms (objective {demand.tpot * 1e3:.3g} ms)",
        "waiting": f"{plan.wait.probability:.1%} of the requests wait for a place",
        "max_loras": plan.max_loras,
        "max_cpu_loras": plan.max_cpu_loras,
        "max_lora_rank": plan.max_lora_rank,
    }
    print_fields(fields | _memory(found))
    for warning in plan.warnings:
        note(f"warning: {warning}")


def _memory(found: Answer) -> dict[str, str]:
    memory = found.plan.memory
    if memory is None:
        return {}
    sizes = {
        "weights": memory.weights, "adapter_slots": memory.adapters, "adapters_in_host_memory": memory.host_adapters,
        "kv_cache_a_request": memory.per_sequence,
    }  # fmt: skip
    if memory.cache is not None:
        sizes["kv_cache"] = int(memory.cache)
    said = {name: f"{size / 2**30:.3g} GiB" for name, size in sizes.items()}
    return said | ({"requests_that_fit": f"{memory.sequences}"} if memory.sequences is not None else {})
