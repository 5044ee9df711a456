"""What is compared: how each peer is started in front of the stand-in upstream."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator

from deploy.bench.ours import audited, command, understudy
from deploy.bench.processes import CouldNotStart, free_port, started, wait_ready
from deploy.bench.routers import SGLANG_ROUTER, VLLM_ROUTER, litellm, rust_router
from deploy.bench.site import Running, Site, Start

__all__ = ["ASKED_FOR", "PEERS", "Running", "Site", "Start", "command"]


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


PEERS: dict[str, tuple[str, Start]] = {
    "direct": ("no relay", direct),
    "nginx": ("nginx, plain proxy", nginx),
    "understudy": ("Understudy, everything on", understudy("on")),
    "audit": ("… and screening = audit", audited),
    "off": ("Understudy, everything off", understudy("off", '[rewards]\nsample = 0')),
    "vllm-router": ("vllm-router", rust_router(VLLM_ROUTER, "vllm_router", "error")),
    "sglang-router": ("sglang-router", rust_router(SGLANG_ROUTER, "sglang_router", "error")),
    "aiohttp": ("ASGI + aiohttp", uvicorn("relay_aiohttp")),
    "fastapi": ("FastAPI + httpx", uvicorn("relay_fastapi")),
    "litellm": ("LiteLLM proxy", litellm),
}
ASKED_FOR = ("litellm",)  # only when named: it takes minutes to install
