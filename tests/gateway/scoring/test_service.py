"""`understudy reward` as a real process: it starts, refuses, scores, is killed and drains."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from adapters.errors import ConfigError
from gateway.config import Settings
from gateway.scoring.service import production_graders
from tests.gateway.control_plane.test_up import LONG, Up
from tests.support.commands import failed, good
from tests.support.fake_engine import fake_engine
from tests.support.ports import free_port
from tests.support.python import ROOT
from tests.support.scripted_http import scripted
from tests.support.waiting import PATIENCE, soon

GRADERS = """
[[rewards.grader]]
name = "length"
options = { target = 2, limit = 6 }
[[rewards.grader]]
name = "mine:score"
weight = 3
"""
MINE = """
import time
from pathlib import Path
def score(prompt, completion):
    while completion == "slow" and not Path(__file__).with_name("go").exists():
        time.sleep(0.02)
    return float(completion != "bad")
"""


class Service:
    """The process and how to ask it."""

    def __init__(self, folder, graders=GRADERS, extra=""):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "mine.py").write_text(MINE)
        self.config = folder / "understudy.toml"
        self.config.write_text(f'data_dir = "data"\n[rewards]\nport = {self.port}\n{extra}{graders}')
        self.log = folder / "reward.log"

    def start(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "reward", "-c", str(self.config)], stdout=log, stderr=log,
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        deadline = time.monotonic() + LONG
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz").status_code in (200, 503):
                    return self
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def score(self, *texts):
        samples = [{"id": str(n), "completion": text} for n, text in enumerate(texts)]
        answer = httpx.post(f"{self.url}/v1/score", json={"samples": samples}, timeout=PATIENCE).json()
        return [row["scores"] for row in answer["scores"]]

    def get(self, path):
        return httpx.get(self.url + path, timeout=PATIENCE)

    def refuses(self):
        """True once it takes no more connections."""
        try:
            self.get("/healthz")
        except httpx.TransportError as error:
            return isinstance(error, httpx.ConnectError)
        return False

    def end(self):
        self.process.terminate()
        return self.process.wait(PATIENCE)


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    yield made
    if hasattr(made, "process") and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_it_scores_and_finishes_what_is_under_way(service, tmp_path):
    service.start()
    assert service.score("a b", "bad") == [
        {"length": 1.0, "mine:score": 1.0, "composite": 1.0},
        {"length": 1.0, "mine:score": 0.0, "composite": 0.25},
    ]
    late = []
    thread = threading.Thread(target=lambda: late.extend(service.score("slow")))
    thread.start()
    soon(lambda: "understudy_scoring_waiting_samples 1.0" in service.get("/metrics").text)
    service.process.terminate()
    soon(service.refuses)
    assert not late
    (tmp_path / "go").touch()  # now the slow one may be scored
    assert service.process.wait(PATIENCE) == 0
    thread.join()
    assert late[0]["mine:score"] == 1.0
    assert "Traceback" not in service.log.read_text()
    line = json.loads(service.log.read_text().splitlines()[0])
    assert line["message"] == f"scoring on http://127.0.0.1:{service.port} with length, mine:score"


def test_torch_is_not_loaded_and_kill_9_frees_the_port(service):
    service.start()
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "torch" not in maps and "numpy" not in maps
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    service.start()
    assert service.score("a")[0]["composite"] == 1.0
    assert service.end() == 0


def five(_path, _body):
    return 200, {"model": "j", "choices": [{"message": {"content": "5"}}]}


def judge_table(folder, url):
    rows = [{"prompt": "q", "completion": "c", "expected": 1.0}] * 5
    (folder / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = f'{{ url = "{url}", model = "j", calibration = "set.jsonl" }}'
    return f'[[rewards.grader]]\nname = "judge"\nrequired = false\noptions = {options}\n'


def test_a_judge_that_is_away_makes_it_not_ready_but_it_serves(tmp_path, service):
    with scripted(five) as server:
        service.config.write_text(service.config.read_text() + judge_table(tmp_path, server.url))
        server.answer = lambda *_: (503, {"error": "loading"})
        service.start()
        assert "judge: " in service.get("/readyz").json()["error"]["message"]
        assert service.score("a")[0] == {"length": 1.0, "mine:score": 1.0, "judge": None, "composite": 1.0}
        server.answer = five
        soon(lambda: service.get("/readyz").status_code == 200, LONG)  # it is asked ever more seldom
        assert service.score("a")[0]["judge"] == 1.0
        assert service.end() == 0


def append(cli_config, text):
    cli_config.write_text(cli_config.read_text().replace("[[route]]", text + "\n[[route]]", 1))


def test_refusals(cli, cli_config):
    assert "[rewards] names no graders" in failed(cli("reward"))
    append(cli_config, '[rewards]\nhost = "0.0.0.0"\n[[rewards.grader]]\nname = "exact"')
    assert "set rewards.api_key too" in failed(cli("reward"))


def test_a_judge_that_refuses_keeps_it_from_starting(cli, cli_config):
    with scripted(lambda *_: (401, {"error": "no key"})) as server:
        append(cli_config, judge_table(cli_config.parent, server.url))
        said = failed(cli("reward"))
    assert said.startswith("error: grader 'judge': reward 'judge': http") and "status 401: no key" in said


def test_a_port_in_use(cli, cli_config):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        append(cli_config, f'[rewards]\nport = {taken.getsockname()[1]}\n[[rewards.grader]]\nname = "exact"')
        assert "set rewards.host and rewards.port" in failed(cli("reward"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('name = "exakt"', "reward 'exakt' does not exist"),
        ('name = "exact"\noptions = { strp = true }', "the nearest known one is 'strip'"),
        ('name = "exact"\nwieght = 2', "unknown key 'rewards.grader.0.wieght'; the nearest known one is 'weight'"),
        ('name = "exact"\nlabel = "composite"', "'composite' is that of all graders together"),
        ('name = "exact"\nlabel = "a b"', "rewards.grader.0.label"),
        ('name = "reward_model"\noptions = { version = "helpful@3f2a9c1b7d20" }', "does not exist: see"),
    ],
)
def test_wrong_graders(cli, cli_config, table, message):
    append(cli_config, f"[[rewards.grader]]\n{table}")
    assert message in failed(cli("reward", "--check"))


def test_check(cli, cli_config):
    append(cli_config, '[[rewards.grader]]\nname = "exact"\n[[rewards.grader]]\nname = "mine:score"')
    (cli_config.parent / "mine.py").write_text("def score(samples):\n    return [7 for _ in samples]")
    result = cli("reward", "--check", "--json")
    assert result.exit_code == 1
    first, second = json.loads(result.stdout)
    assert first["result"] == "ok" and len(first["fingerprint"]) == 64
    assert second["result"] == "failed" and "outside 0 to 1" in second["detail"]
    (cli_config.parent / "mine.py").write_text("def score(samples):\n    return [0.7 for _ in samples]")
    assert [line.split()[:2] for line in good(cli("reward", "--check")).splitlines()[1:]] == [["exact", "ok"], ["mine:score", "ok"]]


def test_check_says_how_a_judge_did(cli, cli_config):
    with scripted(five) as server:
        append(cli_config, judge_table(cli_config.parent, server.url))
        assert "mean difference 0.000 (bias +0.000) on 5 rows, length effect +0.00" in good(cli("reward", "--check"))


def test_production_graders_and_where_samples_go(tmp_path):
    with pytest.raises(ConfigError, match="names no graders"):
        production_graders(Settings(), tmp_path)
    rewards = Settings.model_validate({"rewards": {"grader": [{"name": "exact"}]}}).rewards
    assert (rewards.scoring_url, rewards.served_here) == ("http://127.0.0.1:8083", True)
    assert Settings().rewards.scoring_url == "" and not Settings().rewards.served_here
    elsewhere = rewards.model_copy(update={"url": "http://10.0.0.5:8083/"})
    assert (elsewhere.scoring_url, elsewhere.served_here) == ("http://10.0.0.5:8083", False)
    assert rewards.model_copy(update={"host": "::"}).scoring_url == "http://[::1]:8083"


def test_up_starts_it_and_stops_it_after_the_data_plane(tmp_path):
    port = free_port()
    (tmp_path / "mine.py").write_text(MINE)
    with fake_engine(tmp_path / "e.sock") as engine:
        up = Up(tmp_path, engine, f"[rewards]\nport = {port}\n{GRADERS}")
        try:
            said = up.start().wait_for("try: curl")
            assert f"rewards       http://127.0.0.1:{port}/v1/score" in said
            body = {"samples": [{"id": "a", "completion": "bad"}]}
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/score", json=body, timeout=PATIENCE).json()
            assert answer["scores"][0]["scores"]["composite"] == 0.25
            up.process.terminate()
            assert up.process.wait(2 * PATIENCE) == 0 and up.log.read_text().endswith("everything has stopped\n")
        finally:
            up.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")
