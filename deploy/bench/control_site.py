"""What the control path's benchmark runs: a stand-in engine, a controller, workers, a route and two loaded versions."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
from safetensors.numpy import save_file

from adapters.base import read_base, resolve_base
from deploy.bench.peers import command
from deploy.bench.processes import named_ports, started, wait_ready
from gateway.config import Settings, load_settings
from gateway.control_plane.operator_client import OperatorClient

ROUTE = "bench"
UNDERSTUDY = [sys.executable, "-m", "gateway.cli"]
CONFIGURATION = """\
data_dir = "{folder}/state"
[database]
url = "{database}"
[gateway]
port = {port}
workers = {workers}
metrics_port = 0
[control]
port = {control_port}
[engine]
managed = false
urls = ["{engine}"]
[[route]]
name = "bench"
"""
PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}


@dataclass(frozen=True)
class Site:
    """Everything that runs. `versions`: both are loaded once the route has served each of them."""

    settings: Settings
    url: str
    server: subprocess.Popen[bytes]
    controller: subprocess.Popen[bytes]
    versions: tuple[str, str]

    def operate(self, method: str, path: str, body: dict[str, object] | None = None) -> object:
        """One call of the operator API. Raises UnderstudyError."""
        return OperatorClient(self.settings).call(method, path, body)


def write_adapter(folder: Path, seed: int) -> Path:
    """A small random adapter for the shipped base."""
    folder.mkdir()
    random, tensors = numpy.random.default_rng(seed), {}
    for module, (out, inside) in read_base(resolve_base("demo")).modules.items():
        if module.endswith("q_proj"):
            for name, shape in (("lora_A", (4, inside)), ("lora_B", (out, 4))):
                key = f"base_model.model.{module}.{name}.weight"
                tensors[key] = random.normal(scale=0.1, size=shape).astype("f4")
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(PEFT))
    return folder


@contextlib.contextmanager
def running(folder: Path, database: str, workers: int) -> Iterator[Site]:
    """Start it all. Raises CouldNotStart."""
    ports = named_ports("engine", "gateway", "control")
    engine, url = (f"http://127.0.0.1:{ports[name]}" for name in ("engine", "gateway"))
    config = folder / "understudy.toml"
    config.write_text(
        CONFIGURATION.format(
            folder=folder, database=database, port=ports["gateway"], workers=workers, control_port=ports["control"],
            engine=engine,
        )
    )  # fmt: skip
    command(config, "db", "upgrade")
    versions = [_push(config, write_adapter(folder / f"adapter-{seed}", seed)) for seed in (1, 2)]
    with contextlib.ExitStack() as stack:
        stand_in = [sys.executable, "-m", "deploy.bench.lora_engine", str(ports["engine"])]
        process = stack.enter_context(started(stand_in, folder / "engine.log", None))
        wait_ready(process, folder / "engine.log", engine, "/health")
        log = folder / "controller.log"
        controller = stack.enter_context(started([*UNDERSTUDY, "controller", "-c", str(config)], log, None))
        log = folder / "serve.log"
        server = stack.enter_context(started([*UNDERSTUDY, "serve", "-c", str(config)], log, None))
        wait_ready(server, log, url, "/readyz")
        yield Site(load_settings(config), url, server, controller, (versions[0], versions[1]))


def _push(config: Path, folder: Path) -> str:
    version = command(config, "adapter", "push", str(folder), "--route", ROUTE).strip().splitlines()[-1]
    command(config, "gate", version, "--override", "a benchmark")
    return version
