"""How this program starts its own modules as further processes, wherever it was started from."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def module_command(module: str, *arguments: str) -> list[str]:
    """`python -m module arguments…` without the working directory on the path: a folder adapters there is not ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, with `extra` on top, in which our packages are found without being installed."""
    environment = {**os.environ, **(extra or {})}
    earlier = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part != str(_ROOT)]
    environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *earlier])
    return environment
