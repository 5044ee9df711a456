from __future__ import annotations

import statistics

from monitors.collapse import SIGNALS
from monitors.collapse_simulation.texts import Writer


def means(length: float, filler: float) -> dict[str, float]:
    writer = Writer(1)
    rows = [writer.signals(length, filler) for _ in range(150)]
    return {name: statistics.fmean(row[name] for row in rows) for name in SIGNALS}


def test_answers_are_longer_or_emptier_as_asked():
    usual, longer, padded = means(1.0, 0.0), means(2.0, 0.0), means(2.0, 0.5)
    assert usual["tokens"] * 1.8 < longer["tokens"] < usual["tokens"] * 2.2
    assert longer["repetition"] < 0.05 < 0.2 < padded["repetition"]
    assert padded["bytes_per_token"] < 0.9 * longer["bytes_per_token"]
    assert padded["compression_ratio"] > 1.01 * longer["compression_ratio"]


def test_the_same_seed_writes_the_same():
    assert [Writer(3).signals(1.0, 0.1) for _ in range(2)] == [Writer(3).signals(1.0, 0.1)] * 2
