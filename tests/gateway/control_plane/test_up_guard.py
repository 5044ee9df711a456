"""`understudy up` starts the guard of `[screening]`, says where it is, and stops it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.gateway.control_plane.test_up import Up, alive
from tests.support.fake_engine import fake_engine
from tests.support.serving import free_port


@pytest.mark.slow
def test_the_guard_is_one_of_its_processes(tmp_path: Path):
    port = free_port()
    with fake_engine(tmp_path / "e.sock") as engine:
        up = Up(tmp_path, engine, f'[screening]\nmode = "audit"\nmodel = "demo"\nport = {port}\n')
        try:
            up.start().wait_for("ready after")
            up.wait_for(f"guard         http://127.0.0.1:{port}/v1/screen")
            assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            children = up.children()
            assert len(children) == 3
        finally:
            up.close()
        assert alive(children) == []
        assert "everything has stopped" in up.log.read_text()
