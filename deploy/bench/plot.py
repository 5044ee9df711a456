"""The table as a picture: CPU time a request and a chunk, side by side, on logarithmic axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.bench.peers import PEERS

PANELS = (("cpu_per_request", "µs CPU a request"), ("cpu_per_chunk", "µs CPU a chunk"))
OURS, OTHERS = "#2f6f4f", "#9aa5ad"


def draw(summaries: dict[str, dict[str, Any]], path: Path) -> str:
    """Write an SVG file; returns what to tell the user. Never raises: the table is there without it."""
    try:
        from matplotlib.figure import Figure  # a tool of development: not everybody has it
    except ImportError:
        return "no plot: matplotlib is not installed"
    names = [name for name in reversed(PEERS) if summaries.get(name, {}).get("cpu_per_request")]
    if not names:
        return "no plot: nothing was measured"
    figure = Figure(figsize=(10, 0.6 + 0.45 * len(names)), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), PANELS, strict=True):
        micros = [(summaries[name][key] or 0.0) * 1e6 for name in names]
        colours = [OURS if PEERS[name][0].startswith(("Understudy", "…")) else OTHERS for name in names]
        bars = axes.barh([PEERS[name][0] for name in names], micros, color=colours)
        axes.bar_label(bars, labels=[f"{value:,.3g}" for value in micros], padding=3)
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path)
    except OSError as error:
        return f"no plot: {path} cannot be written: {error.strerror}"
    return f"drawn in {path}"
