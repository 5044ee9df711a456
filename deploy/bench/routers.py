"""The public routers that Understudy is compared with: installed by name, in a virtual environment for each.

They are no dependencies of this project and never meet its own environment. Where they cannot be installed, the
benchmark says so and goes on without.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.bench.processes import CouldNotStart, free_port, started, wait_ready
from deploy.bench.site import Running, Site, Start

FOLDER = Path("bench-results", "peers")  # kept: the next run need not install again
INSTALL_LIMIT = 900.0  # seconds
# Fixed, so that two runs compare the same programs. LiteLLM: 1.107.0 was tampered with; this one is older.
VLLM_ROUTER, SGLANG_ROUTER, LITELLM = "vllm-router==0.1.17", "sglang-router==0.3.2", "litellm[proxy]==1.106.12"


def environment(requirement: str, say: Callable[[str], None] = print) -> Path:
    """The folder of programs of a virtual environment that holds `requirement`. Raises CouldNotStart."""
    name = requirement.replace("[", "-").replace("]", "").replace("==", "-")
    home = FOLDER.absolute() / name
    marker = home / ".installed"
    if marker.exists():
        return home / "bin"
    say(f"installing {requirement} into {FOLDER / name}")
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
    for command in ([sys.executable, "-m", "venv", str(home)], pip):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CouldNotStart(f"{requirement} cannot be installed: {error}") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-200:]]
            raise CouldNotStart(f"{requirement} cannot be installed: {lines[-1].strip()}")
    marker.touch()
    return home / "bin"


def rust_router(requirement: str, module: str, log_level: str) -> Start:
    """vllm-router, or its cousin sglang-router, which has the same command line. They route, and do nothing else."""

    @contextlib.contextmanager
    def start(site: Site) -> Iterator[Running]:
        port, url = free_port(), ""
        url = f"http://127.0.0.1:{port}"
        command = [str(environment(requirement) / "python"), "-m", f"{module}.launch_router"]
        command += ["--worker-urls", site.upstream, "--port", str(port), "--policy", "round_robin"]
        command += ["--prometheus-port", str(free_port()), "--log-level", log_level]
        log = site.folder / f"{module}.log"
        with started(command, log, site.core) as process:
            wait_ready(process, log, url, "/readiness")
            yield Running(url, process.pid)

    return start


LITELLM_CONFIGURATION = """\
model_list:
  - model_name: base
    litellm_params: {{model: hosted_vllm/base, api_base: "{upstream}/v1"}}
litellm_settings: {{telemetry: false}}
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}  # it checks no key, on loopback
"""


@contextlib.contextmanager
def litellm(site: Site) -> Iterator[Running]:
    """LiteLLM's proxy, one process, no database."""
    port, config, log = free_port(), site.folder / "litellm.yaml", site.folder / "litellm.log"
    config.write_text(LITELLM_CONFIGURATION.format(upstream=site.upstream))
    programs = environment(LITELLM)
    command = [str(programs / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PATH": f"{programs}:{os.environ['PATH']}"}
    with started(command, log, site.core, quiet) as process:
        wait_ready(process, log, f"http://127.0.0.1:{port}", "/health/liveliness")
        yield Running(f"http://127.0.0.1:{port}", process.pid)
