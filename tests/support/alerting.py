"""A stack that alerts can act on: real `serve` and `controller` processes before a fake engine, and users who ask."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from adapters.gates import GateVerdict, record_gate
from adapters.rollouts import Phase, Rollout
from gateway.config import EngineSettings, Settings
from gateway.rollout.plan import to_json
from tests.support.fake_engine import FakeEngine
from tests.support.peft import small_base
from tests.support.ports import free_port
from tests.support.serving import CHAT, ROOT, Gateway, serving
from tests.support.traffic import quick_plan
from tests.support.waiting import PATIENCE
from tests.support.world import World

CONTROLLER = "import typer; from gateway.cli_serve import controller_command as c; typer.run(c)"


class Plant:
    """Route r serves `stable`; `route` and `versions` are as in World."""

    def __init__(self, world: World, gateway: Gateway, engine: FakeEngine, port: int) -> None:
        self.world, self.gateway, self.engine = world, gateway, engine
        self.control = f"127.0.0.1:{port}"
        self.stable = world.push(seed=1)

    @property
    def alerts_token(self) -> Path:
        """A file with the token that opens the receiver of alerts only."""
        return self.world.folder / "alerts.token"

    @property
    def rollout(self) -> Rollout:
        """The newest one."""
        return self.world.rollouts.newest()[0]

    def begin(self, version: str, **plan: Any) -> None:
        """Half of the users get `version`, as an operator would start it."""
        with self.world.database.begin() as connection:
            record_gate(connection, version, GateVerdict.PASSED, actor="test")
        steps = [{"weight": "50%", "min_units": 10**6, "advance": "evidence"}]
        body = {"route": "r", "version": version, "plan": to_json(quick_plan(step=steps, breaker=10**6, **plan))}
        token = (self.gateway.data_dir / "operator.token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx.post(f"http://{self.control}/api/v1/rollouts", json=body, headers=headers, timeout=PATIENCE)
        assert answer.status_code == 201, answer.text
        self.wait(lambda: self.rollout.phase is Phase.RAMP, "the candidate does not serve")
        self.wait(lambda: self.asked(version) > 0, "the candidate is not asked")

    def asked(self, version: str) -> int:
        """How often the engine was asked for it."""
        return sum(model == version for _, model in self.engine.chats)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 100.0) -> float:
        """When it became true (seconds since the epoch), or the test fails."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return time.time()
            time.sleep(0.02)
        raise AssertionError(f"{what}: {self.rollout}")


@contextlib.contextmanager
def running_plant(folder: Path) -> Iterator[Plant]:
    """Everything started, route r serving, users asking."""
    engine, base, port = FakeEngine(folder / "e0.sock").start(), small_base(folder / "base"), free_port()
    config = f'[engine]\nmanaged = false\nurls = ["{engine.url}"]\nbase_model = "{base.path}"\n'
    with contextlib.ExitStack() as stack:
        stack.callback(engine.stop)
        gateway = stack.enter_context(serving(folder, config=config))
        settings = Settings(data_dir=gateway.data_dir, engine=EngineSettings(managed=False, urls=(engine.url,)))
        world = World(folder, settings, gateway.database, base, [engine])
        plant = Plant(world, gateway, engine, port)
        world.routes.set_target("r", plant.stable)
        stack.enter_context(_controller(gateway, port, folder / "controller.log"))
        gateway.start("/readyz")
        plant.wait(lambda: world.route().version == plant.stable, "stable does not serve")
        stack.enter_context(_users(gateway.url))
        yield plant


@contextlib.contextmanager
def _controller(gateway: Gateway, port: int, log: Path) -> Iterator[None]:
    (token := log.with_name("alerts.token")).write_text("only for alerts\n")
    settings = {"UNDERSTUDY_CONTROL__PORT": str(port), "UNDERSTUDY_CONTROL__ALERTS_TOKEN_FILE": str(token)}
    environment = os.environ | settings | {"PYTHONPATH": str(ROOT)}
    command = ["setpriv", "--pdeathsig=KILL", sys.executable, "-c", CONTROLLER, "-c", str(gateway.config)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd="/")
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextlib.contextmanager
def _users(url: str, count: int = 6) -> Iterator[None]:
    """Each request comes from a user of its own."""
    stop = threading.Event()

    def ask(number: int) -> None:
        body, turn = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}, 0
        with httpx.Client(base_url=url, timeout=20) as http:
            while not stop.wait(0.1):
                turn += 1
                with contextlib.suppress(httpx.TransportError):
                    http.post(CHAT, json=body, headers={"x-understudy-unit": f"user {number} {turn}"})

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
