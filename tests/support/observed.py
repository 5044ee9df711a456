"""One installation that has seen everything, watched by a real Prometheus: for tests of metrics and dashboards.

`understudy up` as real processes (controller, two workers, scoring service, guard) over two fake engines: traffic of
both kinds, errors, limits, feedback, a rollout that is rolled back, an engine that goes away, a training run's numbers.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from adapters.database import open_database
from adapters.gates import GateVerdict, record_gate
from adapters.keys import create_key
from adapters.settings import DatabaseSettings
from tests.support.fake_engine import FakeEngine, fake_engine
from tests.support.fake_weights import record_probes
from tests.support.peft import small_base, write_adapter
from tests.support.ports import free_port
from tests.support.prometheus import PROMETHEUS_CONFIG, Prometheus, start_prometheus
from tests.support.python import ROOT
from trainer.training_metrics import TrainingMetrics

CHAT = "/v1/chat/completions"
UNSAFE = "how do i make krund"     # a made-up hazard that the demo's guard knows
CONFIG = """\
data_dir = "data"
[gateway]
port = {gateway}
metrics_port = {metrics}
workers = 2
[control]
port = {control}
[engine]
managed = false
urls = {urls}
base_model = "{base}"
[[route]]
name = "support"
[rewards]
port = {reward}
sample = 1.0
[[rewards.grader]]
name = "length"
options = {{ target = 1, limit = 5 }}
[screening]
mode = "enforce"
on_unavailable = "allow"
model = "demo"
port = {guard}
[collapse]
baseline = 100
minimum = 20
wait = "1s"
every = "500ms"
[[slo]]
name = "availability"
route = "support"
sli = "availability"
objective = 0.99
[[slo]]
name = "satisfaction"
route = "support"
sli = "satisfaction"
threshold = 0.5
objective = 0.8
unreachable = "scale"
"""
PLAN: dict[str, Any] = {
    "name": "observed",
    "breaker": 1,
    "shadow": {"sample": 1.0, "min_pairs": 6, "min_duration": "1s", "max_duration": "10m"},
    "step": [
        {"weight": "50%", "min_units": 5000, "min_duration": "2s", "max_duration": "10m", "advance": "evidence"},
    ],
    "metric": [
        {"name": "reward", "role": "primary", "margin": 0.2, "margin_unit": "absolute"},
        {"name": "truncated", "margin": 0.2},
        {"name": "thumbs_down", "role": "exploratory"},
    ],
}


class Observed:
    """The running installation; `prometheus` scrapes every process, `began` is when (seconds since the epoch)."""

    def __init__(self, folder: Path, engines: list[FakeEngine]) -> None:
        self.folder, self.engines = folder, engines
        names = ("gateway", "metrics", "control", "reward", "guard", "training")
        self.ports = {name: free_port() for name in names}
        self.base = small_base(folder / "base")
        self.config = folder / "understudy.toml"
        urls = [engine.url for engine in engines]
        self.config.write_text(CONFIG.format(**self.ports, urls=urls, base=self.base.path))
        self.log = folder / "up.log"
        self.versions: list[str] = []
        self.began = time.time()
        self.prometheus: Prometheus
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))

    # -- processes ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start `understudy up`; it needs a while."""
        command = ["setpriv", "--pdeathsig=TERM", sys.executable, "-m", "gateway.cli", "up", "-c", str(self.config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)

    def understudy(self, *arguments: str) -> str:
        """What a command says; it must succeed."""
        command = [sys.executable, "-m", "gateway.cli", *arguments, "-c", str(self.config)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def targets(self) -> dict[str, list[str]]:
        """Every job of deploy/prometheus/prometheus.yml → the address of its process here."""
        ports = {"understudy-gateway": "metrics", "understudy-control": "control", "understudy-reward": "reward",
                 "understudy-guard": "guard", "understudy-training": "training"}  # fmt: skip
        found = {job: [f"127.0.0.1:{self.ports[name]}"] for job, name in ports.items()}
        return found | {"vllm": [engine.url.removeprefix("http://") for engine in self.engines]}

    def stop(self) -> None:
        """End it, gently first."""
        self.http.close()
        if self.process is not None:
            self.process.terminate()
            time.sleep(0.3)
            self.process.terminate()  # once more: hurry
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)

    def until(self, true: Callable[[], Any], what: str, seconds: float = 180.0) -> Any:
        """The first true value of `true`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if found := true():
                    return found
            time.sleep(0.05)
        raise AssertionError(f"{what}: {self.log.read_text()[-3000:]}")

    # -- what happens to it -----------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Push two versions and let both pass their gate; make a key with a limit. Needs no process."""
        for seed in (1, 2):
            folder = write_adapter(self.folder / f"adapter-{seed}", self.base, seed=seed)
            record_probes(folder)
            self.versions.append(self.understudy("adapter", "push", str(folder), "--route", "support").split()[-1])
        database = open_database(DatabaseSettings(), self.folder / "data")
        with database.begin() as connection:
            for version in self.versions:
                record_gate(connection, version, GateVerdict.PASSED, actor="test")
        _, self.limited = create_key(database, "team", ["inference"], rpm=1)
        database.close()

    def operator(self, method: str, path: str, body: Any = None) -> Any:
        """What the operator API answers."""
        token = (self.folder / "data" / "operator.token").read_text().strip()
        url, headers = f"http://127.0.0.1:{self.ports['control']}{path}", {"authorization": f"Bearer {token}"}
        answer = httpx.request(method, url, json=body, headers=headers, timeout=30)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def ask(self, user: int, *, key: str = "", **changes: Any) -> httpx.Response:
        """One request of a user; every other one is a stream. With feedback where it was answered."""
        body = {"model": "support", "user": f"user {user}" if user else None, "stream": user % 2 == 0, "max_tokens": 5,
                "messages": [{"role": "user", "content": "hi"}]} | changes  # fmt: skip
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = f"http://127.0.0.1:{self.ports['gateway']}"
        answer = self.http.post(url + CHAT, json=body, headers=headers)
        if answer.status_code == 200 and not body["stream"]:
            score, kind = ((1.0, "thumb"), (0.0, "thumb"), (0.7, "rating"))[user // 2 % 3]
            said = {"response_id": answer.json()["id"], "score": score, "kind": kind}
            accepted = self.http.post(url + "/v1/feedback", json=said, headers=headers)
            assert accepted.status_code == 202, accepted.text
        return answer

    def crowd(self, count: int, first: int = 0, **changes: Any) -> list[int]:
        """One request of each of so many users; the status codes."""
        with ThreadPoolExecutor(8) as pool:
            users = range(first, first + count)
            return [answer.status_code for answer in pool.map(lambda user: self.ask(user, **changes), users)]

    def ready(self) -> list[str]:
        """Wait until everything answers and the first version serves; both versions."""
        stable, _ = self.versions
        guard = f"http://127.0.0.1:{self.ports['guard']}/readyz"
        self.until(lambda: httpx.get(guard).status_code == 200, "the guard is ready")
        self.until(lambda: self.crowd(1, model="base") == [200], "it answers")
        self.operator("PUT", "/api/v1/routes/support/version", {"version": stable})
        self.until(lambda: self.operator("GET", "/api/v1/routes/support")["version"] == stable, "stable serves")
        return self.versions

    def live(self) -> None:
        """Everything that can happen, once."""
        stable, candidate = self.ready()
        for first in range(0, 180, 20):  # rated by enough of them for a baseline of reward and satisfaction …
            time.sleep(0.4)  # … each looked at: no more than 50 answers a second are
            self.crowd(20, first, stream=False)
        self.crowd(4, messages=[{"role": "user", "content": UNSAFE}])
        assert 404 in self.crowd(1, model="nobody") and 429 in self.crowd(3, key=self.limited)
        self.roll_out(stable, candidate)
        self.lose_an_engine()

    def roll_out(self, stable: str, candidate: str) -> None:
        """Through the shadow to half the traffic; then the candidate fails, and is taken back."""
        number = self.operator("POST", "/api/v1/rollouts", {"route": "support", "version": candidate, "plan": PLAN})["id"]

        def phase() -> str:
            self.crowd(20)
            return str(self.operator("GET", f"/api/v1/rollouts/{number}")["phase"])

        self.until(lambda: phase() == "ramp", "the ramp")
        self.crowd(60)
        self.until(lambda: self.metric("understudy_rollout_effect"), "a judgement")
        self.until(lambda: self.crowd(20) and self.metric("understudy_alignment_tax_ratio"), "reward and satisfaction")
        self.until(lambda: self.metric("understudy_rollout_ratio_mismatch_log_evalue"), "the split is judged")
        self.seen()  # some of it is shown only while the rollout is open
        for engine in self.engines:
            engine.misbehave.failing.add(candidate)
        self.until(lambda: phase() == "rolled_back", "the rollback")

    def lose_an_engine(self) -> None:
        """Under load: whoever's request was on its way there is answered by the other one."""
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(self.crowd, 60)
            time.sleep(0.1)
            self.engines[1].stop()
            load.result()

    def seen(self) -> None:
        """Wait until Prometheus has scraped every process of ours twice more: what happened last is in its rules, too."""
        for _ in range(2):
            now, ours = time.time(), 'up{job!="vllm"}'
            self.prometheus.until(f"count((timestamp({ours}) > {now}) and ({ours} == 1)) == count({ours})", 90.0)

    def metric(self, name: str) -> list[str]:
        """The lines of a metric on the gateway's port."""
        text = httpx.get(f"http://127.0.0.1:{self.ports['metrics']}/metrics", timeout=30).text
        return [line for line in text.splitlines() if line.startswith(name)]


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[tuple[Observed, TrainingMetrics]]:
    """The installation, starting and being scraped, and the numbers of a training run."""
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(fake_engine()) for _ in range(2)]
        for engine in engines:
            engine.misbehave.wordy = 4
        site = Observed(folder, engines)
        site.prepare()
        stack.callback(site.stop)
        site.start()
        rules = folder / "slo.yml"
        rules.write_text(site.understudy("slo", "rules"))
        run = TrainingMetrics(folder, run="support-1", algorithm="grpo", port=site.ports["training"])
        stack.callback(run.close)
        site.prometheus = stack.enter_context(
            start_prometheus(folder / "prometheus", PROMETHEUS_CONFIG, site.targets(), [rules])
        )
        yield site, run


@contextlib.contextmanager
def observed(folder: Path) -> Iterator[Observed]:
    """The installation after all that; still running and being scraped."""
    with watched(folder) as (site, run):
        run.logged({"reward": 0.6, "entropy": 0.9, "completions/mean_length": 21.0, "health.zero_variance_ratio": 0.2})
        run.looked({"gold": 0.4, "kl": 0.02})
        site.live()
        site.seen()
        yield site
