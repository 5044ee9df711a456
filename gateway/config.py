"""understudy.toml: one file plus the environment, frozen, read once. Every key is listed in docs/configuration.md."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from adapters.errors import ConfigError
from adapters.settings import NO_CONFIGURATION, ArtifactSettings, DatabaseSettings, Section, load
from gateway.collapse_settings import CollapseSettings
from gateway.screening_settings import ScreeningSettings
from gateway.setting_types import Duration, Port, parse_duration
from gateway.slo_settings import SloSettings
from monitors.rewards.settings import RewardSpec

ROUTE_NAME = re.compile(r"[a-z0-9](-?[a-z0-9])*")

__all__ = [
    "CaptureSettings", "CollapseSettings", "ControlSettings", "Duration", "EngineSettings", "GatewaySettings",
    "MatchRule", "Port", "RewardSettings", "RolloutSettings", "RouteSettings", "ScreeningSettings", "Settings",
    "SloSettings", "ensure_data_dir", "is_loopback", "load_settings", "parse_duration",
]  # fmt: skip


class GatewaySettings(Section):
    """`[gateway]`: the data plane."""

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback keys are required")
    port: Port = Field(8080, description="port of the OpenAI-compatible API")
    workers: int = Field(1, ge=1, le=256, description="uvicorn worker processes")
    metrics_port: Port = Field(8082, description="private loopback port: /metrics over all workers here; 0 = none")
    require_keys: bool = Field(False, description="refuse requests without an API key; enforced beyond loopback")
    max_body_bytes: int = Field(8 * 1024**2, ge=1024, description="largest accepted request body")
    max_n: int = Field(16, ge=1, description="largest accepted `n`")
    connect_timeout: Duration = Field("2s", description="longest wait for a connection to an engine")
    first_byte_timeout: Duration = Field("120s", description="longest wait for an engine's first byte")
    idle_timeout: Duration = Field("60s", description="longest silence between two bytes of an engine's answer")
    total_timeout: Duration = Field("600s", description="longest time one request may take in all")
    drain: Duration = Field("30s", description="on SIGTERM: how long requests in flight may take to finish")
    tls_cert: str = Field("", description="certificate file; empty = plain HTTP (put a TLS proxy in front)")
    tls_key: str = Field("", description="key file for tls_cert")


class ControlSettings(Section):
    """`[control]`: the controller and the operator API."""

    host: str = Field("127.0.0.1", description="address of the operator API")
    port: Port = Field(8081, description="port of the operator API")
    operator_token: str = Field("", description="bearer token; empty = made at first start, in data_dir/operator.token")
    alerts_token: str = Field("", description="bearer token that may only send alerts, for Alertmanager; empty = none")
    interval: Duration = Field(
        "1s", description="how often every engine is compared with what it should hold, when nothing changes"
    )


class EngineSettings(Section):
    """`[engine]`: the vLLM servers."""

    managed: bool = Field(True, description="start and supervise vLLM here; false: use the servers in `urls`")
    base_model: str = Field("demo", description='path, hub id, or "demo" (the shipped 4-bit base)')
    served_name: str = Field("base", description="the base's public model id")
    quantization: str = Field("", description="vLLM's --quantization; empty = as the checkpoint says")
    replicas: int = Field(1, ge=1, le=64, description="managed vLLM processes on this machine")
    max_loras: int = Field(4, ge=1, description="distinct adapters in one batch (vLLM's --max-loras)")
    max_cpu_loras: int = Field(8, ge=1, description="adapters kept loaded per engine (vLLM's --max-cpu-loras)")
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(16, description="largest adapter rank")
    max_model_len: int = Field(0, ge=0, description="context length; 0 = the model's own")
    dtype: str = Field("auto", description="vLLM's --dtype")
    kv_cache_gib: int = Field(1, ge=1, description="KV cache of a CPU engine in GiB (VLLM_CPU_KVCACHE_SPACE)")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: what the installed vLLM package supports")
    ready_timeout: Duration = Field("600s", description="longest wait for a starting engine")
    extra_args: tuple[str, ...] = Field((), description="further vLLM arguments, as on its command line")
    environment: dict[str, str] = Field(default_factory=dict, description="further environment of managed engines")
    urls: tuple[str, ...] = Field((), description="with managed = false: the engines, such as http://10.0.0.5:8000")
    api_key: str = Field("", description="with managed = false: the engines' --api-key")

    @model_validator(mode="after")
    def _consistent(self) -> EngineSettings:
        if self.max_cpu_loras < self.max_loras:
            raise ValueError(f"max_cpu_loras ({self.max_cpu_loras}) must be at least max_loras ({self.max_loras})")
        if not self.managed and not self.urls:
            raise ValueError("managed = false needs urls = [...] with at least one engine")
        return self


class MatchRule(Section):
    """One rule of `[[route]].match`; all conditions given must hold. Rules are tried in file order."""

    metadata: dict[str, str] = Field(default_factory=dict, description="body.metadata keys and their exact values")
    header: dict[str, str] = Field(default_factory=dict, description="request header names and their exact values")
    keyword: tuple[str, ...] = Field((), description="any of these words occurs in the last user message")
    regex: str = Field("", description="this pattern is found in the last user message")

    @model_validator(mode="after")
    def _compiles(self) -> MatchRule:
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ValueError(f"regex {self.regex!r} does not compile: {error}") from None
        if not (self.metadata or self.header or self.keyword or self.regex):
            raise ValueError("an empty match rule would take every request: name metadata, header, keyword or regex")
        return self


def _check_route_name(name: str) -> str:
    if not ROUTE_NAME.fullmatch(name):
        raise ValueError("route names are lower-case letters and digits with single hyphens between")
    return name


class RouteSettings(Section):
    """One `[[route]]`: a public model name. Versions and weights live in the database."""

    name: Annotated[str, AfterValidator(_check_route_name)] = Field(description="the public model name")
    description: str = Field("", description="shown in listings")
    match: tuple[MatchRule, ...] = Field((), description='task types that reach this route through model "auto"')


class RewardSettings(Section):
    """`[rewards]`: graders for production (docs/rewards.md), and the service `understudy reward` that runs them."""

    grader: tuple[RewardSpec, ...] = Field((), description="the graders, each a [[rewards.grader]]; none = no scoring")
    sample: float = Field(
        0.1, ge=0, le=1, description="share of answers outside rollouts that are looked at: statistics and scores"
    )
    url: str = Field("", description="a scoring service elsewhere; empty = the one of this file, on host and port")
    host: str = Field("127.0.0.1", description="address of the service; beyond loopback it needs api_key")
    port: Port = Field(8083, description="port of the service")
    api_key: str = Field("", description="key that the service asks for and the gateway sends")
    queue: int = Field(4096, ge=256, description="samples that may wait; above it the service answers 503")
    batch: int = Field(32, ge=1, description="samples a grader scores in one go")
    batch_wait: Duration = Field("5ms", description="how long a batch may wait for more")

    @property
    def scoring_url(self) -> str:
        """Where samples are sent; empty when nothing scores them."""
        if self.url or not self.grader:
            return self.url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not listened on
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def served_here(self) -> bool:
        """True when this file's graders run in a service of this machine."""
        return bool(self.grader) and not self.url


class RolloutSettings(Section):
    """`[rollout]`: progressive delivery."""

    plan: str = Field("", description="default plan file; empty = the shipped plan")
    bake: Duration = Field("24h", description="how long the previous version stays loaded after a change")


class CaptureSettings(Section):
    """`[capture]`: what is kept of requests and answers. Texts are never kept unless `store` is true."""

    store: bool = Field(False, description="store texts for training")
    sample: float = Field(1.0, ge=0, le=1, description="share of answers whose texts are stored")
    retention: Duration = Field("30d", description="records older than this are deleted, but for evidence in use")


class Settings(Section):
    """The whole of understudy.toml."""

    data_dir: Path = Field(Path(".understudy"), description="where state is kept on this machine")
    gateway: GatewaySettings = GatewaySettings()
    control: ControlSettings = ControlSettings()
    database: DatabaseSettings = DatabaseSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    engine: EngineSettings = EngineSettings()
    route: tuple[RouteSettings, ...] = ()
    screening: ScreeningSettings = ScreeningSettings()
    rewards: RewardSettings = RewardSettings()
    rollout: RolloutSettings = RolloutSettings()
    collapse: CollapseSettings = CollapseSettings()
    slo: tuple[SloSettings, ...] = ()
    capture: CaptureSettings = CaptureSettings()

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Settings:
        names = [route.name for route in self.route]
        reserved = {"auto", self.engine.served_name}
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"route {name!r} is declared twice")
            if name in reserved:
                raise ValueError(f"route {name!r} has a reserved name (auto, or engine.served_name)")
        return self

    @property
    def keys_required(self) -> bool:
        """True when requests must carry a key: by wish, or because others can reach the port."""
        return self.gateway.require_keys or not is_loopback(self.gateway.host)


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(path: Path | None = None) -> Settings:
    """Read `path`, or ./understudy.toml where it exists, or the defaults. Relative data_dir is relative to the file.

    Raises ConfigError. Paths in the result are absolute.
    """
    if path is None and Path("understudy.toml").exists():
        path = Path("understudy.toml")
    settings = load(Settings, path, advice=NO_CONFIGURATION)
    root = path.resolve().parent if path else Path.cwd()
    if not settings.data_dir.is_absolute():
        settings = settings.model_copy(update={"data_dir": root / settings.data_dir})
    if settings.rollout.plan and not Path(settings.rollout.plan).is_absolute():
        plan = str(root / settings.rollout.plan)
        settings = settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"plan": plan})})
    return settings


def ensure_data_dir(settings: Settings) -> Path:
    """Create data_dir, private to this user. Raises ConfigError when that cannot be done."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data_dir {settings.data_dir} cannot be created: {error.strerror}") from None
    return settings.data_dir
