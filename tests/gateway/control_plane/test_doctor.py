from __future__ import annotations

import http.server
import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest

from adapters.database import open_database
from adapters.settings import DatabaseSettings
from gateway.compiled import why_not
from gateway.config import EngineSettings, Settings
from gateway.control_plane import doctor, doctor_engines
from gateway.control_plane.doctor import examine
from gateway.control_plane.doctor_engines import check_engines, own_addresses
from gateway.control_plane.findings import Finding, looked_at, ok
from gateway.engines.local import LocalEngine, write_state
from tests.support.fake_engine import FakeEngine, fake_engine
from tests.support.peft import small_base
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE
from tests.support.world import World


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of these tests are threads of this process: they answer when the machine lets them."""
    monkeypatch.setattr(doctor_engines, "_PATIENCE", PATIENCE)


@pytest.fixture
def engine(tmp_path: Path):
    with fake_engine(tmp_path / "e.sock") as started:
        yield started


@pytest.fixture
def config(tmp_path: Path, engine: FakeEngine):
    """write(extra) → an understudy.toml in which all is well, but for what `extra` says."""
    base = small_base(tmp_path / "base")

    def write(extra: str = "", gateway: str = "", url: str = engine.url) -> Path:
        path = tmp_path / "understudy.toml"
        path.write_text(
            f'data_dir = "data"\n[gateway]\nport = {free_port()}\nmetrics_port = {free_port()}\n{gateway}\n'
            f'[control]\nport = {free_port()}\n[engine]\nmanaged = false\nurls = ["{url}"]\n'
            f'base_model = "{base.path}"\n{extra}'
        )
        return path

    return write


INTERPRETED = {"hot path"} if why_not() else set()  # of a machine without a C compiler doctor says so


def bad(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings if finding.level != "ok"}


def test_a_fresh_installation_is_fine(config):
    findings = examine(config())
    assert bad(findings).keys() == INTERPRETED
    assert {"configuration", "disk", "base", "gateway.port", "database", "e.sock"} <= {f.subject for f in findings}


def test_a_wrong_setting_is_the_only_finding(tmp_path):
    path = tmp_path / "understudy.toml"
    path.write_text("[engin]\n")
    (finding,) = examine(path)
    assert finding.level == "fail" and "nearest known one is 'engine'" in finding.what


def test_a_data_dir_that_is_a_file(config, tmp_path):
    (tmp_path / "data").write_text("")
    assert "cannot be created" in bad(examine(config()))["data_dir"].what


@pytest.mark.parametrize(("free", "level"), [(10**12, None), (10**9, "warn"), (10**8, "fail")])
def test_disk_space(config, monkeypatch, free, level):
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    found = bad(examine(config())).get("disk")
    assert (found.level if found else None) == level


def test_a_token_that_others_can_read(config, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/operator.token").write_text("x")
    (tmp_path / "data/operator.token").chmod(0o644)
    assert "chmod 600" in bad(examine(config()))["operator token"].mend


def test_a_missing_base(config, tmp_path):
    path = config()
    shutil.rmtree(tmp_path / "base")
    assert bad(examine(path))["base"].level == "fail"


def test_ports_that_others_have_and_ports_that_we_have(config):
    path = config()
    port = int(path.read_text().split("[control]\nport = ")[1].split("\n")[0])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert "control.port" in bad(examine(path)) or sys.platform != "linux"
        assert "set control.port" in bad(examine(path))["control.port"].mend

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}')

        def log_message(self, *_args):
            pass

    ours = http.server.ThreadingHTTPServer(("127.0.0.1", port), Healthy)
    threading.Thread(target=ours.serve_forever, daemon=True).start()
    try:
        assert "control.port" not in bad(examine(path))
    finally:
        ours.shutdown()
        ours.server_close()


def test_keys_that_are_required_but_missing(config, tmp_path):
    path = config(gateway='require_keys = true')
    assert "understudy key create" in bad(examine(path))["keys"].mend
    open_database(DatabaseSettings(), tmp_path / "data").close()
    assert "understudy key create" in bad(examine(path))["keys"].mend


def test_a_database_that_cannot_be_reached(config):
    path = config('[database]\nurl = "postgresql+psycopg://nobody@127.0.0.1:1/x"\n')
    assert bad(examine(path))["database"].level == "fail"


async def test_damaged_adapters_failed_loads_and_a_missing_leader(world: World):
    import asyncio

    good, damaged = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    world.engines[0].misbehave.ignore.add(good)
    world.routes.set_target("r", good)
    await world.ticks(controller, 40)
    await controller.lease.release()
    (world.stores.artifacts.materialise(world.registry.get(damaged).digest) / "adapter_model.safetensors").unlink()
    found = await asyncio.to_thread(lambda: bad(list(doctor._database(world.settings))))
    assert "push the same adapter again" in found[damaged].mend
    assert "answers like the base" in found["route r"].what
    assert found["controller"].level == "warn"


def test_an_engine_that_is_down(config, engine):
    engine.stop()
    found = bad(examine(config()))["e.sock"]
    assert found.level == "fail" and "cannot be reached" in found.what


def test_an_engine_with_another_name_for_the_base(config, engine):
    engine.base = "llama"
    assert "--served-model-name base" in bad(examine(config()))["e.sock"].mend


def test_managed_engines_that_do_not_run(data_dir):
    settings = Settings(data_dir=data_dir, engine=EngineSettings(replicas=2))
    never, second = check_engines(settings)
    assert never.level == second.level == "warn"
    write_state(data_dir, 0, LocalEngine("engine-0", "unix:/nowhere", "down", 1, error="its log says: out of memory"))
    write_state(data_dir, 1, LocalEngine("engine-1", "unix:/nowhere", "stopped", 1))
    down, stopped = check_engines(settings)
    assert down.level == "fail" and "out of memory" in down.what and "engine-0.log" in down.mend
    assert stopped.level == "warn"


class OpenEngine(http.server.BaseHTTPRequestHandler):
    """As a vLLM that listens on all addresses: GET on /adapters is 405, not 404."""

    def do_GET(self):
        body = b'{"data": [{"id": "base", "root": "/x", "parent": null}]}' if self.path == "/v1/models" else b""
        known = {"/health": 200, "/v1/models": 200, "/adapters": 405, "/v1/load_lora_adapter": 405}
        self.send_response(known.get(self.path, 404))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


def test_an_engine_that_others_can_reach(config, monkeypatch):
    """127.0.0.2 stands for an address of this machine that is not loopback."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), OpenEngine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(doctor_engines, "own_addresses", lambda: ["127.0.0.2"])
    path = config(url=f"http://127.0.0.1:{server.server_port}")
    try:
        found = [f for f in examine(path) if f.level == "fail" and "without a key" in f.what]
        assert len(found) == 1 and "/adapters" in found[0].what and "127.0.0.2" in found[0].what
    finally:
        server.shutdown()
        server.server_close()


def test_an_engine_on_loopback_only_is_closed(config, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OpenEngine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(doctor_engines, "own_addresses", lambda: ["127.0.0.2"])
    try:
        findings = examine(config(url=f"http://127.0.0.1:{server.server_port}"))
        assert [f for f in findings if "without a key" in f.what] == []
    finally:
        server.shutdown()
        server.server_close()


def test_own_addresses_are_nobody_elses_and_not_loopback():
    for address in own_addresses():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((address, 0))
        assert not address.startswith("127.")


def test_torchvision_that_cannot_be_imported(monkeypatch):
    import subprocess

    monkeypatch.setattr(doctor, "version", lambda name: "0.1")
    done = subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: operator torchvision::nms does not exist\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **more: done)
    found = bad(list(doctor._vllm()))["torch"]
    assert "torchvision::nms" in found.what and "pip uninstall torchvision" in found.mend


def test_errors_of_checks_become_findings():
    def broken():
        yield ok("x", "fine")
        raise OSError(28, "No space left on device", "/data")

    first, second = looked_at("x", broken)
    assert first.level == "ok" and second == Finding("fail", "x", "/data: No space left on device")


def test_graders_of_production(config):
    table = '[[rewards.grader]]\nname = "regex"\noptions = {{ pattern = "{}" }}\n'
    port = f"[rewards]\nport = {free_port()}\n"
    findings = examine(config(port + table.format("a+")))
    assert bad(findings).keys() == INTERPRETED and {"rewards.port", "graders"} <= {finding.subject for finding in findings}
    assert "does not compile" in bad(examine(config(port + table.format("("))))["graders"].what
