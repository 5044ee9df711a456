"""Which prompts a run is watched on, and which it is trained on: never the same ones."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.errors import TrainingError

Row = Mapping[str, Any]


def choose_rows(rows: Sequence[Row], held_out: Sequence[Row], wanted: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows to watch): `wanted` of `held_out`, else up to a tenth of `rows`, which then leave it.

    Rows with a prompt that is watched are not trained on. Raises TrainingError when fewer than 8 can be watched.
    """
    pool, most = (held_out, wanted) if held_out else (rows, min(wanted, len(rows) // 10))
    order = list(range(len(pool)))
    random.Random(f"watched/{seed}").shuffle(order)
    seen: set[str] = set()
    watched: list[Row] = []
    for place in order:
        key = json.dumps(pool[place]["prompt"], sort_keys=True, default=str)
        if len(watched) < most and key not in seen:
            seen.add(key)
            watched.append(pool[place])
    if len(watched) < 8:
        raise TrainingError(
            f"{len(watched)} held-out prompts are too few to watch the run on: give data.eval at least 8 different ones"
            + ("" if held_out else f", or data.train more than {len(rows)} rows")
        )
    trained = [row for row in rows if json.dumps(row["prompt"], sort_keys=True, default=str) not in seen]
    return trained, watched
