"""`python -m tests.fuzz [TARGET …] [--seconds S] [--seed N]`: each target for S seconds; exit status 1 when one fails.

A failure prints its seed and its number, which make the same inputs again.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.fuzz.live import LIVE, run_live
from tests.fuzz.mutate import Mutator
from tests.fuzz.parsers import TARGETS


def run(name: str, seed: int, most: int = sys.maxsize, seconds: float = float("inf")) -> int:
    """Up to `most` inputs of one target; how many there were. Raises what the target raised, with seed and number."""
    target, corpus, words = TARGETS[name]
    mutator = Mutator(seed, corpus, words)
    end = time.monotonic() + seconds
    number = 0
    while number < most and time.monotonic() < end:
        try:
            target(mutator)
        except BaseException as error:
            error.add_note(f"fuzz target {name}, seed {seed}, input {number}")
            raise
        number += 1
    return number


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=", ".join([*TARGETS, *LIVE]))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    unknown = [name for name in options.targets if name not in TARGETS and name not in LIVE]
    if unknown:
        parser.error(f"no target {unknown[0]!r}; there are {', '.join([*TARGETS, *LIVE])}")
    failed = 0
    for name in options.targets or [*TARGETS, *LIVE]:
        print(f"{name}: seed {options.seed} ...", end=" ", flush=True)
        try:
            if name in LIVE:
                count = run_live(name, options.seed, seconds=options.seconds)
            else:
                count = run(name, options.seed, seconds=options.seconds)
        except Exception:
            failed += 1
            print("FAILED")
            traceback.print_exc()
        else:
            print(f"{count} inputs")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
