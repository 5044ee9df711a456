"""The three things the controller reads from an engine's /metrics: which process it is, and what runs on it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_LINE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """One reading."""

    boot: str                    # start time of the API server process: changes with every restart
    running: int                 # requests running or waiting
    adapters: frozenset[str]     # names of the adapters that those requests use
    max_loras: int               # the engine's own --max-loras; 0 when it has not said (it does with the first request)

    def uses(self, adapter: str) -> bool:
        """True when a request for `adapter` runs or waits."""
        return self.running > 0 and adapter in self.adapters


def parse_metrics(text: str) -> EngineMetrics:
    """Read Prometheus text.

    `vllm:lora_requests_info` has one series per set of adapters that was ever in flight; its value is the time when
    that set was last seen, so the newest one counts. Names are comma-separated inside the label.
    """
    boot, running = "", 0.0
    newest, labels_now = -1.0, ""
    for line in text.splitlines():
        if not line.startswith(("process_start_time_seconds", "vllm:num_requests_", "vllm:lora_requests_info")):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        name, value = match["name"], _number(match["value"])
        if name == "process_start_time_seconds":
            boot = match["value"]
        elif name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
            running += value
        elif name == "vllm:lora_requests_info" and value > newest:
            newest, labels_now = value, match["labels"] or ""
    labels = dict(_LABEL.findall(labels_now))
    names = f"{labels.get('running_lora_adapters', '')},{labels.get('waiting_lora_adapters', '')}"
    adapters = frozenset(name for name in names.split(",") if name)
    return EngineMetrics(boot, int(running), adapters, int(labels.get("max_lora", "0") or 0))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
