"""The process: `understudy reward`. Builds the graders of `[rewards]`, tests them, and serves them until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import disable_created_metrics

from adapters.errors import ConfigError, UnderstudyError
from gateway.config import RewardSettings, Settings, parse_duration
from gateway.http_service import listen, server_of
from gateway.logs import configure
from gateway.scoring.app import create_app
from gateway.scoring.lanes import COMPOSITE, Lane, Scorer
from gateway.scoring.metrics import ScoringMetrics
from monitors.rewards.build import build_graders
from monitors.rewards.composite import Composite
from monitors.rewards.types import FindVersion, Grader

log = logging.getLogger("understudy.reward")


def run_service(settings: Settings, base_dir: Path) -> None:
    """Run until SIGTERM or SIGINT. Raises UnderstudyError for whatever keeps it from starting."""
    configure("reward")
    # Series that no convention names; the switch is the process's.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives it no types
    rewards = settings.rewards
    graders = production_graders(settings, base_dir)
    listener = listen("rewards", rewards.host, rewards.port, rewards.api_key)
    try:
        asyncio.run(_serve(rewards, graders, listener))
    finally:
        listener.close()


def production_graders(settings: Settings, base_dir: Path) -> list[Grader]:
    """The graders of `[rewards]`. Raises ConfigError, also when there are none; and what the registry raises."""
    specs = settings.rewards.grader
    if not specs:
        raise ConfigError("[rewards] names no graders: add [[rewards.grader]] tables (docs/rewards.md)")
    if any(spec.shown == COMPOSITE for spec in specs):
        raise ConfigError(f"[[rewards.grader]]: the label {COMPOSITE!r} is that of all graders together: take another")
    with _finder(settings) as find:
        return build_graders(specs, base_dir, find_version=find)


def scorer_of(rewards: RewardSettings, graders: list[Grader], metrics: ScoringMetrics) -> Scorer:
    """Lanes for the graders, and their weighted mean where any of them is not gold."""
    wait = parse_duration(rewards.batch_wait)
    lanes = [Lane(grader, batch=rewards.batch, wait=wait, metrics=metrics) for grader in graders]
    weighed = any(not spec.gold and spec.weight > 0 for spec in rewards.grader)
    composite = Composite(graders, rewards.grader) if weighed else None
    for warning in composite.warnings if composite else ():
        log.warning("%s", warning)
    return Scorer(lanes, composite, rewards.queue, metrics)


async def _serve(rewards: RewardSettings, graders: list[Grader], listener: socket.socket) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = ScoringMetrics([grader.name for grader in graders])
    scorer = scorer_of(rewards, graders, metrics)
    stopped = asyncio.create_task(stop.wait())
    preparing = asyncio.create_task(scorer.prepare())
    await asyncio.wait({stopped, preparing}, return_when=asyncio.FIRST_COMPLETED)
    if not preparing.done():  # told to stop while weights load
        preparing.cancel()
        return
    preparing.result()
    server = server_of(create_app(scorer, metrics, rewards.api_key))
    scoring = asyncio.create_task(scorer.run())
    serving = asyncio.create_task(server.serve([listener]))
    log.info("scoring on http://%s:%d with %s", *listener.getsockname()[:2], ", ".join(g.name for g in graders))
    await asyncio.wait({stopped, scoring}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    stopped.cancel()
    if scoring.done():  # a bug of ours: end with it instead of answering nothing for ever
        scoring.result()
    scoring.cancel()


@contextlib.contextmanager
def _finder(settings: Settings) -> Iterator[FindVersion | None]:
    """The registry, opened only when a grader is a registered version."""
    if not any(spec.options.get("version") for spec in settings.rewards.grader):
        yield None
        return
    from adapters.artifacts import ArtifactStore
    from adapters.database import open_database
    from adapters.registry import Registry
    from gateway.config import ensure_data_dir
    from monitors.rewards.stored import version_finder

    data_dir = ensure_data_dir(settings)
    database = open_database(settings.database, data_dir)
    try:
        artifacts = ArtifactStore(settings.artifacts, data_dir)
        yield version_finder(Registry(database, artifacts), artifacts)
    finally:
        database.close()


def check_all(graders: list[Grader]) -> list[dict[str, str]]:
    """The self-test of every grader, as rows for people: name, result, what it says of itself, fingerprint."""
    from gateway.scoring.lanes import self_test

    rows = []
    for grader in graders:
        try:
            found = self_test(grader)
            detail = str(getattr(grader, "summary", ""))
            rows.append({"grader": grader.name, "result": "ok", "detail": detail, "fingerprint": found})
        except UnderstudyError as error:
            rows.append({"grader": grader.name, "result": "failed", "detail": str(error), "fingerprint": ""})
    return rows
