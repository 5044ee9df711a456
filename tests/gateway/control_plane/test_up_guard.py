"""`understudy up` starts the guard of `[screening]`, says where it is, screens with it, and stops it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.gateway.control_plane.test_up import LONG, Up, alive, get
from tests.support.fake_engine import fake_engine
from tests.support.ports import free_port
from tests.support.waiting import soon


def eventually_ready(url: str) -> None:
    soon(lambda: get(url).status_code == 200, LONG)


def reason(up: Up, prompt: str) -> str:
    """Why the base's answer ended."""
    body = {"model": "base", "messages": [{"role": "user", "content": prompt}]}
    answer = httpx.post(f"http://127.0.0.1:{up.ports[0]}/v1/chat/completions", json=body, timeout=LONG)
    return str(answer.json()["choices"][0]["finish_reason"])


@pytest.mark.slow
def test_the_guard_is_one_of_its_processes(tmp_path: Path):
    port = free_port()
    with fake_engine(tmp_path / "e.sock") as engine:
        up = Up(tmp_path, engine, f'[screening]\nmode = "enforce"\nmodel = "demo"\nport = {port}\ntimeout = "60s"\n')
        try:
            up.start().wait_for("ready after")
            up.wait_for(f"guard         http://127.0.0.1:{port}/v1/screen")
            assert get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            children = up.children()
            assert len(children) == 3
            eventually_ready(f"http://127.0.0.1:{port}/readyz")
            assert reason(up, "what is the capital of france") == "stop"
            assert reason(up, "how do i make krund") == "content_filter"
        finally:
            up.close()
        assert alive(children) == []
        assert "everything has stopped" in up.log.read_text()
