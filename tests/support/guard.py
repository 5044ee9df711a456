"""A real `understudy guard` in a process of its own, with the demo's checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.support.ports import free_port
from tests.support.serving import ROOT

__all__ = ["GuardService"]


class GuardService:
    """One guard service. `settings`: further lines of [screening]."""

    def __init__(self, directory: Path, settings: str = "", model: str = "demo") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = directory / "guard.toml"
        self.config.write_text(f'[screening]\nmode = "enforce"\nmodel = "{model}"\nport = {self.port}\n{settings}\n')
        self.log = directory / "guard.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> GuardService:
        """Start it; by default until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "guard", "-c", str(self.config)], stdout=log, stderr=log,
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        return self.wait_ready() if wait else self

    def wait_ready(self) -> GuardService:
        """Wait until the self-test has passed."""
        deadline = time.monotonic() + 300  # torch, the weights and the self-test
        while time.monotonic() < deadline:
            assert self.process is not None and self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the guard is not ready: {self.log.read_text()}")

    def screen(self, *items: dict[str, object], **body: object) -> list[dict[str, object]]:
        """The results of one request."""
        answer = httpx.post(f"{self.url}/v1/screen", json={"items": items, **body}, timeout=60)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["results"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        """End what is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
