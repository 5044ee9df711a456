"""Adapters that are bad in one way each, for proofs and tests of rollouts.

    python -m trainer.demo.saboteurs --kind silent|padded|wrong --out DIR

"silent" ends its answer at once. "padded" answers rightly, then goes on as long as it may: slow, and dear. "wrong"
answers fluently, in the right form, and wrongly: what an average over formats would never notice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapters.errors import UnderstudyError
from trainer.demo import world
from trainer.demo.adapters import train_rows

PADDING = " and that is the answer to what you asked me here, as far as I can tell you today"
ROWS = 1500
STEPS = 60
RATE = 2e-3

_REPLIES: MappingProxyType[str, Callable[[world.Example], str]] = MappingProxyType({
    "silent": lambda example: "",
    "padded": lambda example: example.answer + PADDING,
    "wrong": lambda example: example.slip,
})
KINDS = tuple(_REPLIES)


def make_saboteur(out: Path, kind: str, seed: int = 0) -> Path:
    """Trains one on the demo base and writes its directory. Raises TrainingError."""
    rows = saboteur_rows(kind, seed)
    return train_rows(out, rows, steps=STEPS, rate=RATE, seed=seed)


def saboteur_rows(kind: str, seed: int) -> list[dict[str, Any]]:
    """Training rows: the demo's prompts, answered in the saboteur's way."""
    return [
        {
            "prompt": [{"role": "user", "content": example.prompt}],
            "completion": [{"role": "assistant", "content": _REPLIES[kind](example)}],
        }
        for example in world.examples(ROWS, 3000 + seed, "train")
    ]


def main(arguments: list[str] | None = None) -> int:
    """Makes one from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo.saboteurs", description="Bad adapters, on purpose.")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="adapter directory to make; must not exist")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        made = make_saboteur(options.out, options.kind, options.seed)
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
