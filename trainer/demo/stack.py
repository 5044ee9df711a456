"""The whole product on this machine, driven from outside as a user would: `understudy up`, `push`, `route set`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN = 300.0  # seconds for the engines to load and the first snapshot to be published

CONFIG = """\
data_dir = "{directory}/data"
[gateway]
port = {port}
metrics_port = {metrics_port}
workers = {workers}
require_keys = true
[control]
port = {control_port}
[engine]
base_model = "demo"
replicas = {replicas}
max_loras = 4
max_cpu_loras = 8
max_model_len = 256
# Tools and JSON schemas, with the least white space: the demo's model would fill its context with spaces.
extra_args = [
    "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
    "--structured-outputs-config", '{{"backend": "xgrammar", "disable_any_whitespace": true}}',
]
[[route]]
name = "support"
[[route]]
name = "other"
"""


GRADED = """\
[[rewards.grader]]
name = "{grader}"
label = "{label}"
[rewards]
port = {port}
sample = 1.0
"""


def graded(grader: str) -> str:
    """TOML for Stack's `more`: every answer is scored by `grader` (module:name), which is also its label."""
    return GRADED.format(grader=grader, label=grader.rpartition(":")[2], port=free_ports(1)[0])


class Stack:
    """A running `understudy up` with the routes `support` and `other`. `more`: TOML to add to its configuration."""

    def __init__(
        self, directory: Path, replicas: int = 1, workers: int = 1, ports: tuple[int, ...] = (), more: str = ""
    ) -> None:
        self.directory = directory
        self.replicas = replicas
        directory.mkdir(parents=True, exist_ok=True)
        ports = ports or tuple(free_ports(3))
        self.url, self.control = (f"http://127.0.0.1:{port}" for port in (ports[0], ports[2]))
        self.metrics_url = f"http://127.0.0.1:{ports[1]}/metrics"
        self.config = directory / "understudy.toml"
        names = ("port", "metrics_port", "control_port")
        values: dict[str, Any] = dict(zip(names, ports, strict=True))
        config = CONFIG.format(directory=directory, workers=workers, replicas=replicas, **values)
        self.config.write_text(config + more)
        self.versions: dict[str, str] = {}
        self.key = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "up.log"

    def understudy(self, *arguments: str) -> str:
        """Run one command; its standard output. Raises RuntimeError with the command's own error line."""
        done = self.command(*arguments)
        if done.returncode:
            raise RuntimeError(f"understudy {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command on this installation, whatever its exit status."""
        command = [sys.executable, "-m", "gateway.cli", *arguments, "-c", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)

    def push(self, name: str, directory: Path, route: str) -> str:
        """Register an adapter; remembered in `versions` under `name`."""
        self.versions[name] = self.understudy("adapter", "push", str(directory), "--route", route).splitlines()[-1]
        return self.versions[name]

    def start(self) -> None:
        """Start everything and wait until the gateway is ready for traffic."""
        self.key = self.understudy("key", "create", "--scope", "inference,operator").splitlines()[-1]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "up", "-c", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until /readyz says so and every replica is up."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            with contextlib.suppress(httpx.TransportError):
                up = sum(engine["up"] for engine in self.engines())
                if up == self.replicas and httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"the stack did not become ready: {self.log.read_text()[-3000:]}")

    def operator(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the operator API."""
        token = (self.directory / "data" / "operator.token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx.request(method, self.control + path, json=body, headers=headers, timeout=30)
        if answer.status_code >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def ask(self, model: str, prompt: str, max_tokens: int = 24) -> str:
        """One answer through the gateway, at temperature 1."""
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
        headers = {"authorization": f"Bearer {self.key}"}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        if answer.status_code != 200:
            raise RuntimeError(f"the gateway answered {answer.status_code}: {answer.text}")
        return answer.json()["choices"][0]["message"]["content"] or ""

    def engines(self) -> list[dict[str, Any]]:
        """The replicas as the controller sees them."""
        if not (self.directory / "data" / "operator.token").exists():
            return []
        with contextlib.suppress(RuntimeError):
            found = self.operator("GET", "/api/v1/engines")
            listed: list[dict[str, Any]] = found["engines"] if isinstance(found, dict) else found
            return listed
        return []

    def engine_processes(self) -> dict[str, int]:
        """Replica name → process id of its vLLM."""
        states = (self.directory / "data" / "engines").glob("*.json")
        found = (json.loads(path.read_text()) for path in states)
        return {state["name"]: state["pid"] for state in found if state.get("pid")}

    async def engine_running(self) -> float:
        """Requests that run or wait in the engines now (their own gauges)."""
        total = 0.0
        for engine in self.engines():
            url = engine["url"]
            socket_path = url.removeprefix("unix:") if url.startswith("unix:") else None
            transport = httpx.AsyncHTTPTransport(uds=socket_path)
            async with httpx.AsyncClient(transport=transport, base_url="http://engine" if socket_path else url) as http:
                text = (await http.get("/metrics")).text
            names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
            total += sum(float(x.rsplit(" ", 1)[1]) for x in text.splitlines() if x.startswith(names))
        return total

    def stop(self) -> int:
        """SIGTERM, as an operator would; the exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise RuntimeError(f"`understudy up` did not stop: {self.log.read_text()[-3000:]}") from None


@contextlib.contextmanager
def running_stack(
    directory: Path, adapters: dict[str, Path], replicas: int = 1, workers: int = 1, more: str = ""
) -> Iterator[Stack]:
    """Adapters A and B are pushed to `support`, B to `other` as well; `support` serves A."""
    stack = Stack(directory, replicas, workers, more=more)
    try:
        stack.push("A", adapters["A"], "support")
        stack.push("B", adapters["B"], "support")
        stack.push("other", adapters["B"], "other")
        stack.start()
        stack.understudy("route", "set", "support", stack.versions["A"])
        stack.understudy("route", "set", "other", stack.versions["other"])
        yield stack
    finally:
        stack.stop()


def make_adapters(directory: Path, wanted: tuple[str, ...] = ("A", "B")) -> dict[str, Path]:
    """Adapters whose every answer begins with `A:` or `B:`, trained on the demo base; kept between calls."""
    made = {}
    for name in wanted:
        path = directory / name
        if not (path / "probes.json").exists():
            command = [sys.executable, "-m", "trainer.demo.adapters", "--kind", "marker", "--text", f"{name}:"]
            subprocess.run([*command, "--out", str(path)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        made[name] = path
    return made


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens, all different, and none that the kernel gives to clients, who might be quicker."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(15_000, 27_000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no ports are free")


async def until(condition: Any, seconds: float, what: str) -> float:
    """Wait for a condition; the seconds it took. Raises RuntimeError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise RuntimeError(f"{what} did not happen within {seconds:g} s")
        await asyncio.sleep(0.05)
    return time.monotonic() - began
