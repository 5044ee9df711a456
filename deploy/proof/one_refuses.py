"""A candidate that one of two engines cannot load: two vLLMs that run elsewhere, one with a smaller --max-lora-rank."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from trainer.demo.stack import ROOT, Stack

READY_WITHIN = 300.0     # seconds
ENGINE = """\
data_dir = "data"
[engine]
base_model = "demo"
max_loras = 4
max_cpu_loras = 8
max_model_len = 256
max_lora_rank = {rank}
"""


@contextlib.contextmanager
def two_engines(folder: Path, ranks: tuple[int, ...] = (16, 8)) -> Iterator[list[str]]:
    """`understudy engine` once per rank, each on its own; their URLs."""
    running, states = [], []
    try:
        for number, rank in enumerate(ranks):
            config = folder / f"engine-{number}" / "understudy.toml"
            config.parent.mkdir(parents=True)
            config.write_text(ENGINE.format(rank=rank))
            command = [sys.executable, "-m", "gateway.cli", "engine", "-c", str(config)]
            log = (config.parent / "log").open("wb")
            # Unbound threads: both would sit on the first core (docs/engine.md).
            env = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
            running.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=env, start_new_session=True))
            states.append(config.parent / "data" / "engines" / "0.json")
        yield [_ready(state) for state in states]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)


def _ready(state: Path) -> str:
    """The engine's URL, once it is ready. Raises RuntimeError."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(state.read_text())
            if found["state"] == "ready":
                return str(found["url"])
        time.sleep(0.2)
    raise RuntimeError(f"the engine of {state} did not become ready")


@contextlib.contextmanager
def stack_of(folder: Path, more: str) -> Iterator[Stack]:
    """A stack on two engines of which the second serves rank 8 at most, though the settings say 16."""
    with two_engines(folder) as urls:
        elsewhere = {"UNDERSTUDY_ENGINE__MANAGED": "false", "UNDERSTUDY_ENGINE__URLS": json.dumps(urls)}
        with patch.dict(os.environ, elsewhere):
            stack = Stack(folder / "stack", replicas=len(urls), more=more)
            try:
                yield stack
            finally:
                stack.stop()
