"""The process: `understudy guard`. Loads the checkpoint of `[screening]`, tests it, and judges until SIGTERM.

It listens before the weights are loaded: /healthz answers at once, /readyz when the self-test has passed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from importlib import import_module
from pathlib import Path
from typing import Any

from prometheus_client import disable_created_metrics

from adapters.errors import ConfigError
from gateway.config import ScreeningSettings, parse_duration
from gateway.guard.app import create_app
from gateway.guard.metrics import GuardMetrics
from gateway.http_service import listen, server_of
from gateway.logs import configure
from monitors.llama_guard.batching import Batcher, Observe
from monitors.llama_guard.guard import Guard, self_test_of
from monitors.llama_guard.judge import Judge, Policy
from monitors.llama_guard.types import Backend, GuardError
from monitors.llama_guard.vllm_backend import VllmBackend

DEMO = "demo"

log = logging.getLogger("understudy.guard")


def run_service(settings: ScreeningSettings, base_dir: Path) -> None:
    """Run until SIGTERM or SIGINT. Raises UnderstudyError for whatever keeps it from starting."""
    configure("guard")
    if threads := settings.threads or (1 if settings.model == DEMO else 0):
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read when torch is loaded
    disable_created_metrics()  # type: ignore[no-untyped-call] # no type; series that no convention names
    listener = listen("screening", settings.host, settings.port, settings.api_key)
    try:
        asyncio.run(_serve(settings, base_dir, listener))
    finally:
        listener.close()


def checkpoint(settings: ScreeningSettings, base_dir: Path) -> str:
    """The guard's folder or hub id; "demo" is the one that is shipped. Raises ConfigError when none is named."""
    if not settings.model:
        raise ConfigError('screening.model names no guard: set it to a Llama Guard checkpoint (path, hub id or "demo")')
    if settings.model == DEMO:
        import monitors.llama_guard

        return str(Path(monitors.llama_guard.__file__).parent / "demo_guard")
    local = base_dir / settings.model
    return str(local) if local.is_dir() else settings.model


def load_guard(settings: ScreeningSettings, base_dir: Path, observe: Observe = lambda prompts, seconds: None) -> Guard:
    """The guard of `[screening]`, its weights not yet loaded. Takes seconds: torch. Raises GuardError, ConfigError."""
    path = checkpoint(settings, base_dir)
    judge, backend = load_parts(settings, path)
    batcher = Batcher(
        backend, judge.policy.ask_above, size=settings.max_batch, tokens=settings.max_batch_tokens,
        limit=max(settings.queue, 2 * settings.max_windows), observe=observe,  # the longest text alone is no overload
    )  # fmt: skip
    return Guard(judge, backend, batcher, self_test_of(path))


def load_parts(settings: ScreeningSettings, path: str) -> tuple[Judge, Backend]:
    """What judges and what scores, for the checkpoint at `path`."""
    scorer: Any = _scorer()
    tokenizer = scorer.load_tokenizer(path)
    policy = Policy(
        settings.threshold, settings.thresholds, settings.temperature, settings.injection, settings.lowest_threshold
    )
    known = scorer.context_of(path)
    judge = Judge(
        tokenizer, policy, context=min(settings.context or known, known), most_windows=settings.max_windows,
        categories=settings.categories,
    )  # fmt: skip
    backend: Backend
    if settings.backend == "vllm":
        backend = VllmBackend(
            settings.vllm_url, settings.vllm_model, tokenizer, api_key=settings.vllm_api_key,
            timeout=parse_duration(settings.vllm_timeout),
        )  # fmt: skip
    else:
        backend = scorer.TransformersBackend(
            path, tokenizer, device=settings.device, dtype=settings.dtype, quantization=settings.quantization
        )
    return judge, backend


def _scorer() -> Any:
    """By name: nothing else here may load torch."""
    try:
        return import_module("monitors.llama_guard.scorer")
    except ImportError as error:
        raise GuardError(f"the guard needs torch and transformers ({error}): pip install 'understudy[train]'") from None


async def _serve(settings: ScreeningSettings, base_dir: Path, listener: socket.socket) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = GuardMetrics()
    stopped = asyncio.create_task(stop.wait())
    loading = asyncio.create_task(asyncio.to_thread(load_guard, settings, base_dir, metrics.passed))
    await asyncio.wait({stopped, loading}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():  # told to stop meanwhile
        loading.cancel()
        return
    guard = loading.result()
    if settings.model == DEMO:
        log.warning("screening.model is the demo's toy: it knows made-up hazards only, and protects nobody")
    server = server_of(create_app(guard, metrics, settings.api_key))
    judging = asyncio.create_task(guard.run())
    serving = asyncio.create_task(server.serve([listener]))
    log.info("guarding on http://%s:%d with %s", *listener.getsockname()[:2], settings.model)
    await asyncio.wait({stopped, judging}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    stopped.cancel()
    if judging.done():  # it can never be ready, or a bug of ours: end with it instead of answering nothing for ever
        judging.result()
    judging.cancel()


def check_guard(settings: ScreeningSettings, base_dir: Path) -> str:
    """Load the guard and run its self-test. Returns one line; raises GuardError when it fails."""

    async def check() -> None:
        await load_guard(settings, base_dir).check()

    asyncio.run(check())
    return f"{settings.model}: the self-test told safe from unsafe texts for both roles"
