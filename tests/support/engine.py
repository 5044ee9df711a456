"""Real vLLMs on the demo base, supervised as `understudy engine` does it. One is shared by all tests of a session."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.base import resolve_base
from gateway.config import EngineSettings
from gateway.engines.backoff import Backoff
from gateway.engines.client import EngineClient
from gateway.engines.command import installed_package
from gateway.engines.local import LocalEngine, read_state
from gateway.engines.supervisor import EngineSite, EngineSupervisor

__all__ = ["REAL", "RealEngine", "long_answer", "real_engine"]

REAL = EngineSettings(base_model="demo", max_loras=4, max_cpu_loras=8, max_model_len=256)
PATIENCE = 300.0   # seconds: the machine may be busy with other tests


class RealEngine:
    """Replica `number` of the installation in `data_dir`, supervised from a thread of its own."""

    def __init__(self, data_dir: Path, number: int = 0) -> None:
        self.data_dir = data_dir
        self.number = number
        self.said: list[str] = []
        site = EngineSite(REAL, installed_package(), str(resolve_base("demo")), data_dir, number)
        self._supervisor = EngineSupervisor(site, self.said.append, Backoff(0.1, 1.0))
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> RealEngine:
        """Start it and wait until it is ready."""
        self._thread.start()
        self.wait_ready()
        return self

    @property
    def state(self) -> LocalEngine:
        """What its supervisor says."""
        found = read_state(self.data_dir, self.number)
        assert found is not None
        return found

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.state.url

    def wait_ready(self, other_than: str = "no boot") -> LocalEngine:
        """Wait for a ready vLLM, of another boot than this one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            state = read_state(self.data_dir, self.number)
            if state is not None and state.state == "ready" and state.boot != other_than:
                return state
            if not self._thread.is_alive():
                raise AssertionError(f"the engine did not start: {self._error} {self.said}")
            time.sleep(0.1)
        raise AssertionError(f"the engine is not ready: {self.said}")

    def kill(self) -> str:
        """kill -9 of its API server; the boot that ended."""
        state = self.wait_ready()  # a process id of 0 would be the tests' own group
        os.kill(state.pid, signal.SIGKILL)
        return state.boot

    def stop(self) -> None:
        """End it, with everything it started."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._supervisor.run(self._stop))
        except BaseException as error:
            self._error = error
        finally:
            self._loop.close()


async def long_answer(client: EngineClient, model: str) -> Any:
    """Eight sampled completions of 240 tokens each: something that runs for seconds."""
    body = {"model": model, "prompt": [1, 40, 41], "max_tokens": 240, "min_tokens": 240, "n": 8, "temperature": 1.0}
    return (await client._http.post("/v1/completions", json=body, timeout=120)).json()


@pytest.fixture(scope="session")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    """One real vLLM. Tests leave it with no adapter of theirs loaded, and may restart it."""
    engine = RealEngine(tmp_path_factory.mktemp("engine"))
    try:
        yield engine.start()
    finally:
        engine.stop()
