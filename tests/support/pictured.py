"""`python -m tests.support.pictured`: the pictures of docs/dashboards.md, from three minutes of the test installation.

As tests/support/observed.py, over fake engines: but users come all the time, like what stable says, and like the
candidate's answers less; its thumbs take it back. A training run's numbers drift as those of a gamed reward do.
"""

from __future__ import annotations

import math
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from deploy.dashboards.pictures import main as draw
from tests.support.observed import CHAT, UNSAFE, Observed, watched
from trainer.training_metrics import TrainingMetrics

BEFORE, AFTER, RATE = 50.0, 45.0, 12.0     # seconds of users before and after the rollout; requests a second
LIKED = {"stable": 0.85, "candidate": 0.5}
PLAN: dict[str, Any] = {
    "name": "pictured",
    "shadow": {"sample": 0.5, "min_pairs": 60, "min_duration": "10s", "max_duration": "10m"},
    "step": [
        {"weight": "20%", "min_units": 40, "min_duration": "10s", "max_duration": "10m"},
        {"weight": "50%", "min_units": 5000, "min_duration": "10s", "max_duration": "10m", "advance": "evidence"},
    ],
    "metric": [{"name": "thumbs_down"}, {"name": "error"}, {"name": "satisfaction", "role": "primary"}],
}


class Users:
    """Ask all the time, each on a connection of its own; some rate what they got."""

    def __init__(self, site: Observed, arms: dict[str, str]) -> None:
        self._site, self._arms = site, arms
        self._random = random.Random(7)
        self.stop = threading.Event()

    def run(self) -> None:
        """Until stopped."""
        with ThreadPoolExecutor(6) as pool:
            while not self.stop.wait(self._random.expovariate(RATE)):
                pool.submit(self._one, self._random.randrange(1, 500), self._random.random(), self._random.random())
            pool.shutdown(cancel_futures=True)  # on a busy machine many still wait

    def _one(self, user: int, kind: float, mood: float) -> None:
        url = f"http://127.0.0.1:{self._site.ports['gateway']}"
        text = UNSAFE if kind < 0.02 else "reverse abc"
        body = {"model": "support", "user": f"user {user}", "stream": kind > 0.6, "max_tokens": 5,
                "messages": [{"role": "user", "content": text}]}  # fmt: skip
        answer = httpx.post(url + CHAT, json=body, timeout=30)
        if answer.status_code == 200 and not body["stream"] and kind < 0.45:
            arm = self._arms.get(answer.headers["x-understudy-version"], "stable")
            score = float(mood < LIKED[arm])
            said = {"response_id": answer.json()["id"], "score": score, "kind": "thumb" if kind < 0.35 else "rating"}
            httpx.post(url + "/v1/feedback", json=said, timeout=30)


def train(run: TrainingMetrics, stop: threading.Event) -> None:
    """A reward that rises while gold falls after a while."""
    began = time.monotonic()
    while not stop.wait(1.0):
        at = (time.monotonic() - began) / 150
        wobble = 0.02 * math.sin(40 * at)
        run.logged({"reward": 0.3 + 0.65 * at ** 0.6 + wobble, "entropy": 1.1 * math.exp(-2 * at) + 0.15,
                    "completions/mean_length": 18 + 30 * at ** 2 + 20 * wobble,
                    "health.zero_variance_ratio": min(1.0, 0.1 + 0.5 * at)})  # fmt: skip
        run.looked({"gold": 0.3 + 0.9 * at - 1.1 * at ** 2, "kl": 0.06 * at ** 1.5})


def story(site: Observed, run: TrainingMetrics) -> None:
    """What happens."""
    stable, candidate = site.ready()
    users = Users(site, {stable: "stable", candidate: "candidate"})
    threads = [threading.Thread(target=users.run), threading.Thread(target=train, args=(run, users.stop))]
    for thread in threads:
        thread.start()
    try:
        time.sleep(BEFORE)
        body = {"route": "support", "version": candidate, "plan": PLAN}
        number = site.operator("POST", "/api/v1/rollouts", body)["id"]
        site.until(lambda: site.operator("GET", f"/api/v1/rollouts/{number}")["ended_at"], "the rollback", 240.0)
        time.sleep(AFTER)
    finally:
        users.stop.set()
        for thread in threads:
            thread.join()


def main() -> None:
    """Run and draw."""
    with tempfile.TemporaryDirectory(prefix="understudy-pictures-") as folder, watched(Path(folder)) as (site, run):
        began = time.time()
        story(site, run)
        draw(["--prometheus", site.prometheus.url, "--from", str(began), "--window", "15"])


if __name__ == "__main__":
    main()
