"""What is compared: how each peer is started in front of the stand-in upstream."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from deploy.bench.processes import CouldNotStart, free_port, started, wait_ready

ROUTE = "bench"


@dataclass(frozen=True)
class Site:
    """Where peers run."""

    upstream: str  # URL of the stand-in
    folder: Path  # for logs and configuration
    core: int | None  # the relay's core
    side_core: int | None  # for what a peer needs beside the relay itself


@dataclass(frozen=True)
class Running:
    """A started peer, and what to send it."""

    url: str
    pid: int  # root of the process tree that relays; 0: none
    model: str = "base"
    key: str = ""


Start = Callable[[Site], AbstractContextManager[Running]]


@contextlib.contextmanager
def direct(site: Site) -> Iterator[Running]:
    """No relay at all."""
    yield Running(site.upstream, 0)


NGINX = """\
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream engine {{ server {upstream}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 100000000;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(site: Site) -> Iterator[Running]:
    """A plain proxy: connections to the upstream are kept, nothing is buffered."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not program:
        raise CouldNotStart("nginx is not installed")
    port, config = free_port(), site.folder / "nginx.conf"
    upstream = site.upstream.removeprefix("http://")
    config.write_text(NGINX.format(folder=site.folder, upstream=upstream, port=port))
    log, url = site.folder / "nginx.out", f"http://127.0.0.1:{port}"
    command = [program, "-e", str(log), "-c", str(config), "-g", "daemon off;"]
    with started(command, log, site.core) as process:
        wait_ready(process, log, url, "/v1/models")
        yield Running(url, process.pid)


def uvicorn(module: str) -> Start:
    """A relay of this folder, in one uvicorn process with uvloop and httptools."""

    @contextlib.contextmanager
    def start(site: Site) -> Iterator[Running]:
        port = free_port()
        url, log = f"http://127.0.0.1:{port}", site.folder / f"{module}.log"
        command = [sys.executable, "-m", "uvicorn", f"deploy.bench.{module}:create", "--factory"]
        command += ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        with started(command, log, site.core, {"UPSTREAM": site.upstream}) as process:
            wait_ready(process, log, url, "/v1/models")
            yield Running(url, process.pid)

    return start


UNDERSTUDY = (sys.executable, "-m", "gateway.cli")
CONFIGURATION = """\
data_dir = "{folder}/state"
[gateway]
port = {port}
metrics_port = {metrics_port}
require_keys = true
[control]
port = {control_port}
[engine]
managed = false
urls = ["{upstream}"]
served_name = "base"
[[route]]
name = "{route}"
"""


@contextlib.contextmanager
def understudy(site: Site) -> Iterator[Running]:
    """This project: one worker, a key required, a route, users that stick. The controller runs beside it."""
    port, config = free_port(), site.folder / "understudy.toml"
    url = f"http://127.0.0.1:{port}"
    config.write_text(
        CONFIGURATION.format(
            folder=site.folder, port=port, metrics_port=free_port(), control_port=free_port(),
            upstream=site.upstream, route=ROUTE,
        )
    )  # fmt: skip
    command(config, "db", "upgrade")
    key = command(config, "key", "create", "--scope", "inference,operator").strip().splitlines()[-1].split()[-1]
    controller_log, log = site.folder / "controller.log", site.folder / "serve.log"
    with (
        started([*UNDERSTUDY, "controller", "-c", str(config)], controller_log, site.side_core) as controller,
        started([*UNDERSTUDY, "serve", "-c", str(config)], log, site.core) as server,
    ):
        wait_ready(server, log, url, "/readyz")
        wait_ready(server, log, url, f"/v1/models/{ROUTE}", key)
        if controller.poll() is not None:
            raise CouldNotStart(f"the controller ended: {controller_log.read_text()[-300:]}")
        yield Running(url, server.pid, ROUTE, key)


def command(config: Path, *words: str) -> str:
    """Run one of our own commands. Raises CouldNotStart with its error line."""
    try:
        done = subprocess.run(
            [*UNDERSTUDY, *words, "-c", str(config)], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CouldNotStart(f"understudy {' '.join(words)}: {error}") from None
    if done.returncode:
        raise CouldNotStart(f"understudy {' '.join(words)}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


PEERS: dict[str, tuple[str, Start]] = {
    "direct": ("no relay", direct),
    "nginx": ("nginx, plain proxy", nginx),
    "understudy": ("Understudy", understudy),
    "aiohttp": ("ASGI + aiohttp", uvicorn("relay_aiohttp")),
    "fastapi": ("FastAPI + httpx", uvicorn("relay_fastapi")),
}
