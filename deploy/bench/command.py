"""What the benchmarks' command lines share: the parser, and where the results go."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m deploy.bench.<name>`, with --out; `about`: the module's docstring."""
    made = argparse.ArgumentParser(
        prog=f"python -m deploy.bench.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, help="JSON file")
    return made


def report(text: str, document: Any, out: Path | None) -> None:
    """Print the table; write everything as JSON where --out was given."""
    print(text)
    if out:
        out.write_text(json.dumps(document, indent=1))
