"""What the controller measures, in the same shared files as the workers' metrics."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gateway.engines.agent import ReplicaAgent
from gateway.rollout.collapse_report import CollapseMetrics
from gateway.rollout.report import RolloutMetrics
from monitors.conventions import ADAPTER_LOAD_DURATION, ADAPTER_LOADED, BUILD_INFO, CONTROLLER_LEADER, ENGINE_UP
from monitors.shared_values import SharedValues


class ControlMetrics:
    """Gauges of the plant. Raises ConfigError when they cannot be kept in `directory`."""

    def __init__(self, directory: Path, release: str) -> None:
        self._values = SharedValues(directory, "controller")
        self._leader = self._values.gauge(CONTROLLER_LEADER)
        self._leader.set(0.0)
        self._load = self._values.histogram(ADAPTER_LOAD_DURATION)
        self._values.gauge(BUILD_INFO, release).set(1.0)
        self.rollouts = RolloutMetrics(self._values)
        self.collapse = CollapseMetrics(self._values)
        self._engines: set[str] = set()
        self._held: set[tuple[str, str]] = set()

    def loaded(self, seconds: float) -> None:
        """A version was loaded, confirmed and probed."""
        self._load.observe(seconds)

    def leads(self, agents: Iterable[ReplicaAgent]) -> None:
        """Say what is up and ready now."""
        self._leader.set(1.0)
        held: set[tuple[str, str]] = set()
        for agent in agents:
            self._engines.add(agent.name)
            self._values.gauge(ENGINE_UP, agent.name).set(float(agent.usable))
            held |= {(agent.name, version) for version in agent.holdings if agent.ready(version)}
        for pair in held | self._held:
            self._values.gauge(ADAPTER_LOADED, *pair).set(float(pair in held))
        gone = {version for _, version in self._held} - {version for _, version in held}
        for version in gone:
            self._values.drop("version", version, (ADAPTER_LOADED,))
        self._held = held

    def follows(self) -> None:
        """Another controller leads, or none: say nothing about engines."""
        self._leader.set(0.0)
        for engine in self._engines:
            self._values.drop("engine", engine, (ENGINE_UP, ADAPTER_LOADED))
        self._engines.clear()
        self._held.clear()

    def close(self) -> None:
        """Let go of the file."""
        self._values.close()
