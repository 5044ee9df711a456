"""What the checks of a run's data found: data_report.json, and its lines for people."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.chat import Encoded
from trainer.config import Algorithm

LADDER = (
    (100_000, "100,000 and more: enough to learn a new domain or language"),
    (10_000, "tens of thousands: breadth"),
    (1_000, "thousands: enough for most production tasks"),
    (100, "hundreds: a noticeable change of behaviour"),
    (20, "tens: enough for format and structure only"),
    (0, "fewer than 20: not even enough for a format"),
)
"""The SFT data scale ladder: examples → what they are enough for. Quality counts for more."""


@dataclass
class Found:
    """Counts, filled in by trainer.data on the way."""

    algorithm: Algorithm
    rows: int = 0
    duplicates_exact: int = 0
    duplicates_near: int = 0
    contaminated: int = 0
    too_long: int = 0
    truncated: int = 0
    last_only: int = 0              # conversations of which only the last answer could be trained on
    general: int = 0
    general_wanted: int = 0
    thumbs_up: int = 0
    duplicate_examples: list[str] = field(default_factory=list)
    contaminated_examples: list[str] = field(default_factory=list)

    def losses(self) -> str:
        """'3 rows, of which 1 duplicate, …'."""
        dropped = self.duplicates_exact + self.duplicates_near
        return f"{self.rows} rows, {dropped} duplicates, {self.contaminated} contaminated, {self.too_long} too long"


def rung(examples: int) -> str:
    """Where so many examples stand on the ladder."""
    return next(said for least, said in LADDER if examples >= least)


def report(
    found: Found, sequences: Sequence[tuple[Encoded, ...]], held_out: int, digests: dict[str, str]
) -> dict[str, Any]:
    """data_report.json: the counts, and lengths in tokens of what is trained on."""
    flat = [sequence for several in sequences for sequence in several]
    made = {**asdict(found), "kept": len(sequences), "held_out": held_out, "files": digests}
    made["ladder"] = rung(len(sequences))
    if not flat:
        return made
    lengths = [len(sequence.input_ids) for sequence in flat]
    trained = sum(s.trained for s in flat)
    made["tokens"] = {
        "all": sum(lengths),
        "trained": trained,
        "prompt_share": round(1 - trained / sum(lengths), 4),
        "row": spread(lengths),
        "prompt": spread([len(s.input_ids) - s.trained for s in flat]),
        "answer": spread([s.trained for s in flat]),
    }
    return made


def spread(values: Sequence[int]) -> dict[str, float]:
    """Smallest, median, 95th percentile (nearest rank) and largest."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, max(0, -(-95 * len(ordered) // 100) - 1))]
    return {"min": ordered[0], "median": statistics.median(ordered), "p95": p95, "max": ordered[-1]}


def lines(made: dict[str, Any]) -> list[str]:
    """The report for a terminal."""
    duplicates = f"{made['duplicates_exact']} exact, {made['duplicates_near']} near"
    said = [
        f"rows           {made['rows']} read, {made['kept']} kept, {made['held_out']} held out",
        f"duplicates     {duplicates} (dropped)",
        f"contaminated   {made['contaminated']} asked by a test too (dropped)",
        f"too long       {made['too_long']} dropped, {made['truncated']} truncated",
    ]
    if made["general_wanted"]:
        said.append(f"general        {made['general']} rows mixed in ({made['general_wanted']} wanted)")
    if made["last_only"]:
        said.append(f"last turn only {made['last_only']} conversations, as the chat template rewrites earlier turns")
    if made["algorithm"] == "kto":
        said.append(f"thumbs         {made['thumbs_up']} up, {made['kept'] - made['thumbs_up']} down")
    if tokens := made.get("tokens"):
        row, answer = tokens["row"], tokens["answer"]
        said += [
            f"tokens         {tokens['all']:,}, {tokens['prompt_share']:.0%} prompt, {tokens['trained']:,} with loss",
            f"row length     median {row['median']:g}, p95 {row['p95']:g}, longest {row['max']:g}",
            f"answer length  median {answer['median']:g}, p95 {answer['p95']:g}, longest {answer['max']:g}",
        ]
    if made["algorithm"] == "sft":
        said.append(f"scale ladder   {made['ladder']}")
    return [*said, *(f"  duplicate: {text}" for text in made["duplicate_examples"][:3]),
            *(f"  contaminated: {text}" for text in made["contaminated_examples"][:3])]  # fmt: skip
