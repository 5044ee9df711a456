"""`understudy up` as real processes, over a fake engine that it does not manage; test_real_vllm has the real one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from gateway.control_plane.up import shower
from tests.support.fake_engine import FakeEngine, fake_engine
from tests.support.peft import small_base
from tests.support.ports import free_port
from tests.support.python import ROOT
from tests.support.waiting import PATIENCE, soon

LONG = 4 * PATIENCE  # a command, its children and their workers each begin with a Python that imports everything


class Up:
    """A running `understudy up`."""

    def __init__(self, folder: Path, engine: FakeEngine, extra: str = "") -> None:
        base = small_base(folder / "base")
        self.ports = [free_port() for _ in range(3)]
        self.config = folder / "understudy.toml"
        self.config.write_text(
            f'data_dir = "data"\n[gateway]\nport = {self.ports[0]}\nmetrics_port = {self.ports[1]}\n'
            f'[control]\nport = {self.ports[2]}\n[engine]\nmanaged = false\nurls = ["{engine.url}"]\n'
            f'base_model = "{base.path}"\n[[route]]\nname = "support"\n{extra}'
        )
        self.log = folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Up:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "up", "-c", str(self.config)], stdout=log, stderr=log,
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
            )  # fmt: skip
        return self

    def wait_for(self, text: str, patience: float = LONG) -> str:
        deadline = time.monotonic() + patience
        while text not in (said := self.log.read_text()):
            assert time.monotonic() < deadline and self.process.poll() is None, said
            time.sleep(0.05)
        return said

    def children(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in listed]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)


@pytest.fixture
def engine(tmp_path: Path):
    with fake_engine(tmp_path / "e.sock") as started:
        yield started


@pytest.fixture
def up(tmp_path: Path, engine: FakeEngine):
    made = Up(tmp_path, engine)
    yield made
    made.close()


def get(url: str, **options) -> httpx.Response:
    return httpx.get(url, timeout=PATIENCE, **options)


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def test_it_starts_says_where_and_stops_in_order(up: Up, engine: FakeEngine):
    said = up.start().wait_for("try: curl")
    gateway, _, control = (f"http://127.0.0.1:{port}" for port in up.ports)
    assert f"OpenAI API    {gateway}/v1" in said and f"operator API  {control}" in said
    assert '"model": "support"' in said
    assert get(f"{gateway}/readyz").status_code == 200
    token = (up.config.parent / "data" / "operator.token").read_text().strip()
    headers = {"authorization": f"Bearer {token}"}
    # The controller writes these down after the snapshot that made the workers ready.
    engines = f"{control}/api/v1/engines"
    (listed,) = soon(lambda: [one for one in get(engines, headers=headers).json()["engines"] if one["up"]])
    assert listed["url"] == engine.url
    soon(lambda: 'understudy_engine_up{engine="e.sock"} 1.0' in get(f"{control}/metrics").text)
    assert "understudy_route_snapshot_age" in get(f"{control}/metrics").text
    children = up.children()
    assert len(children) == 2
    up.process.terminate()
    assert up.process.wait(2 * PATIENCE) == 0
    assert alive(children) == [] and up.log.read_text().endswith("everything has stopped\n")
    assert "Traceback" not in up.log.read_text()


def test_a_child_that_dies_is_started_again(up: Up):
    up.start().wait_for("try: curl")
    for name in ("controller", "serve"):
        (pid,) = [p for p in up.children() if f"\0{name}\0" in Path(f"/proc/{p}/cmdline").read_text()]
        os.kill(pid, signal.SIGKILL)
        up.wait_for(f"{name:<10} | ended with status -9; starting again")
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            answers = [httpx.get(f"http://127.0.0.1:{up.ports[n]}/readyz").status_code for n in (0, 2)]
            if answers == [200, 200]:
                break
        time.sleep(0.1)
    else:
        raise AssertionError(up.log.read_text())


def test_kill_9_leaves_nothing(up: Up):
    up.start().wait_for("try: curl")
    children = up.children()
    up.process.kill()
    up.process.wait()
    deadline = time.monotonic() + 60
    while alive(children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive(children) == []
    for port in up.ports:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")


@pytest.mark.parametrize(("number", "setting"), [(0, "gateway.port"), (2, "control.port")])
def test_a_port_in_use_ends_everything_with_one_line(up: Up, number, setting):
    import http.server
    import threading

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args):
            pass

    other = http.server.ThreadingHTTPServer(("127.0.0.1", up.ports[number]), Answering)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        assert up.start().process.wait(LONG) == 1
    finally:
        other.shutdown()
        other.server_close()
    last = up.log.read_text().strip().splitlines()[-1]
    assert last.startswith("error: ") and str(up.ports[number]) in last and setting in last
    assert "Traceback" not in up.log.read_text()


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return filler


def test_a_full_disk_is_one_line_and_nothing_is_lost(up: Up, small_disk: Path):
    up.config.write_text(up.config.read_text().replace('data_dir = "data"', f'data_dir = "{small_disk}/data"'))
    filler = fill(small_disk)
    assert up.start().process.wait(LONG) == 1
    assert "full" in up.log.read_text().strip().splitlines()[-1] and "internal error" not in up.log.read_text()
    filler.unlink()
    up.start().wait_for("try: curl")
    filler = fill(small_disk)
    up.wait_for("the disk is full")
    assert get(f"http://127.0.0.1:{up.ports[0]}/readyz").status_code == 200  # workers serve on
    filler.unlink()
    soon(lambda: get(f"http://127.0.0.1:{up.ports[2]}/readyz").json().get("leads"))
    assert "starting again" not in up.log.read_text()


def test_a_wrong_setting_ends_it_before_anything_starts(up: Up):
    up.config.write_text("[gatway]\nport = 1\n")
    assert up.start().process.wait(LONG) == 1
    assert up.log.read_text().strip().endswith("unknown key 'gatway'; the nearest known one is 'gateway'")


def test_lines_are_prefixed_and_cannot_steer_a_terminal():
    lines: list[str] = []
    show = shower(lines.append, colours=False)
    show("serve", "hello\x1b[2J")
    show("engine-0", "engine-0: ready")
    assert lines == ["serve      | hello?[2J", "engine-0   | ready"]
    shower(lines.append, colours=True)("serve", "x")
    assert json.dumps(lines[-1]).startswith('"\\u001b[36mserve')
