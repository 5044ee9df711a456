"""`[screening]`: what the gateway does about unsafe texts, and the guard service that judges them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from adapters.settings import Section
from gateway.setting_types import Duration, Port, Share, parse_duration

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Mode = Literal["off", "audit", "enforce"]
Direction = Literal["prompt", "response"]
Action = Literal["block", "audit", "allow"]
Missing = Literal["", "block", "allow"]

_LABEL = re.compile(r"S[1-9][0-9]?|injection|unnamed")


def _check_label(label: str) -> str:
    if not _LABEL.fullmatch(label):
        raise ValueError(f"{label!r} is no category: write S1, S2, …, injection, or unnamed (the guard named none)")
    return label


Label = Annotated[str, AfterValidator(_check_label)]


class DirectionScreening(Section):
    """One direction, for all routes or for one: where it differs from the rest of the screening."""

    threshold: Share | None = Field(None, description="as screening.threshold; left out: that one")
    thresholds: dict[Label, Share] = Field(default_factory=dict, description="by category; others: as without it")
    actions: dict[Label, Action] = Field(default_factory=dict, description="by category; others: as without it")
    on_unavailable: Missing = Field("", description="as screening.on_unavailable; empty: that one")


class RouteScreening(Section):
    """One route: where its screening differs. What is left out is as for all routes."""

    mode: Literal["", "off", "audit", "enforce"] = Field("", description="as screening.mode; empty: that one")
    directions: tuple[Direction, ...] | None = Field(None, description="as screening.directions; left out: those")
    threshold: Share | None = Field(None, description="as screening.threshold; left out: that one")
    thresholds: dict[Label, Share] = Field(default_factory=dict, description="by category; others: as without it")
    actions: dict[Label, Action] = Field(default_factory=dict, description="by category; others: as without it")
    on_unavailable: Missing = Field("", description="as screening.on_unavailable; empty: that one")
    refusal: Literal["", "answer", "error"] = Field("", description="as screening.refusal; empty: that one")
    prompt: DirectionScreening = Field(DirectionScreening(), description="where prompts differ")
    response: DirectionScreening = Field(DirectionScreening(), description="where answers differ")


class ScreeningSettings(Section):
    """`[screening]`: Llama Guard on prompts and answers, and the service `understudy guard` that runs it."""

    mode: Mode = Field("off", description="audit: judge, count; enforce: also block")
    directions: tuple[Direction, ...] = Field(("prompt", "response"), description="what is judged")
    on_unavailable: Literal["block", "allow"] = Field("block", description="enforce: what a missing verdict means")
    threshold: Share = Field(0.5, description="P(unsafe) above it is unsafe; `understudy guard calibrate` finds yours")
    thresholds: dict[Label, Share] = Field(default_factory=dict, description="by category: {S6 = 0.9, injection = 0.8}")
    actions: dict[Label, Action] = Field(default_factory=dict, description="by category: block (default), audit, allow")
    partial_threshold: Share = Field(0.8, description="streams: unfinished text is unsafe above it (or the threshold)")
    checkpoint: int = Field(64, ge=1, description="streams: tokens before the first look at an answer; then doubled")
    checkpoint_step: int = Field(0, ge=0, description="streams: most tokens between two looks; 0 = no limit")
    refusal: Literal["answer", "error"] = Field(
        "answer", description="a blocked prompt: answer = 200 with finish_reason content_filter; error = 400"
    )
    message: str = Field("This was blocked by the content policy.", description="what a refusal says")
    timeout: Duration = Field("5s", description="longest wait for a verdict; then there is none")
    concurrency: int = Field(32, ge=1, description="requests to the guard at once, per worker; four times as many wait")
    prompt: DirectionScreening = Field(DirectionScreening(), description="where prompts differ")
    response: DirectionScreening = Field(DirectionScreening(), description="where answers differ")
    routes: dict[str, RouteScreening] = Field(default_factory=dict, description="by route: where it differs")
    injection: bool = Field(True, description="also judge tool results and documents for instructions to the model")
    url: str = Field("", description="a guard service elsewhere; empty = the one of this file, on host and port")
    api_key: str = Field("", description="key that the service asks for and the gateway sends")
    host: str = Field("127.0.0.1", description="address of the service; beyond loopback it needs api_key")
    port: Port = Field(8084, description="port of the service")
    model: str = Field("", description='a Llama Guard checkpoint: path, hub id, or "demo" (a toy with made-up hazards)')
    backend: Literal["transformers", "vllm"] = Field("transformers", description="where it runs: here, or in a vLLM")
    vllm_url: str = Field("", description="backend vllm: the engine that serves it, such as http://10.0.0.7:8000")
    vllm_model: str = Field("", description="backend vllm: its name there; empty = the only one")
    vllm_api_key: str = Field("", description="backend vllm: the engine's --api-key")
    vllm_timeout: Duration = Field("10s", description="backend vllm: longest wait for one batch")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:1")
    threads: int = Field(0, ge=0, description="CPU threads of a pass; 0 = torch's choice (1 for the demo's toy)")
    dtype: Dtype = Field("auto", description="auto: bfloat16 on CUDA, float32 on CPU")
    quantization: Literal["", "int8", "int4"] = Field("", description="quantize when loading, with bitsandbytes")
    categories: dict[str, str] = Field(default_factory=dict, description="your own, S1 = name, …; empty = the model's")
    temperature: float = Field(1.0, gt=0, le=100, description="divides the guard's log odds; calibrate fits it")
    context: int = Field(0, ge=0, description="tokens of one prompt; 0 = what the model was made for")
    max_windows: int = Field(64, ge=1, le=4096, description="pieces of one text; a longer one is unavailable")
    max_batch: int = Field(16, ge=1, description="prompts in one forward pass")
    max_batch_tokens: int = Field(16384, ge=256, description="tokens in one forward pass, padding included")
    queue: int = Field(1024, ge=1, description="prompts that may wait; above it the service answers 503")

    @model_validator(mode="after")
    def _consistent(self) -> ScreeningSettings:
        if self.active and not (self.model or self.url):
            mode = self.mode if self.mode != "off" else "audit or enforce"
            raise ValueError(f'mode = "{mode}" needs model = a Llama Guard checkpoint, or url = a running service')
        if self.url and not re.match(r"https?://[^/]", self.url):
            raise ValueError(f'url = "{self.url}" is no address of a guard: write http://host:port')
        if parse_duration(self.timeout) <= 0:
            raise ValueError("timeout must be more than 0: without a verdict nothing leaves")
        if self.backend == "vllm" and not self.vllm_url and not self.url:
            raise ValueError('backend = "vllm" needs vllm_url = the engine that serves the guard')
        return self

    @property
    def active(self) -> bool:
        """True when anything is screened: everywhere, or on some route."""
        return self.mode != "off" or any(route.mode not in ("", "off") for route in self.routes.values())

    @property
    def lowest_threshold(self) -> float:
        """The lowest that any route or direction has: from there on categories must be known."""
        routes = self.routes.values()
        special: list[DirectionScreening | RouteScreening] = [self.prompt, self.response, *routes]
        special += [part for route in routes for part in (route.prompt, route.response)]
        values = [self.threshold, *self.thresholds.values()]
        for part in special:
            values += [*part.thresholds.values(), *([] if part.threshold is None else [part.threshold])]
        return min(values)

    @property
    def guard_url(self) -> str:
        """Where texts are sent; empty when nothing judges them."""
        if self.url or not self.model:
            return self.url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not listened on
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def served_here(self) -> bool:
        """True when `understudy up` runs the guard."""
        return self.active and bool(self.model) and not self.url
