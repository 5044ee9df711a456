"""The hot path as machine code, where it was compiled from exactly these sources; otherwise as the Python it is.

`make install` compiles the modules of UNIT with mypyc (deploy/compile_hot_path.py): the same files, the same types,
half the time a request (docs/profile.md). What was compiled lies in the environment, in a folder named after the
sources it was made of; `prefer` puts it before the sources in the packages' search paths. So an edited file never meets
the machine code of an older one: it runs interpreted until it is compiled anew.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import sysconfig
from pathlib import Path

# Compiled together, so that they call each other directly. All of what a request passes through, and no more.
UNIT = (
    "gateway.data_plane.accounting", "gateway.data_plane.auth", "gateway.data_plane.breaker",
    "gateway.data_plane.call", "gateway.data_plane.connection", "gateway.data_plane.endpoints",
    "gateway.data_plane.envelope", "gateway.data_plane.exchange", "gateway.data_plane.framing",
    "gateway.data_plane.handler", "gateway.data_plane.held", "gateway.data_plane.hot_protocol",
    "gateway.data_plane.ids", "gateway.data_plane.intake", "gateway.data_plane.limits",
    "gateway.data_plane.protocol", "gateway.data_plane.relay", "gateway.data_plane.routing",
    "gateway.data_plane.sink", "gateway.data_plane.sse", "gateway.data_plane.upstreams", "gateway.data_plane.watch",
    "monitors.metrics", "monitors.shared_values",
)  # fmt: skip
SWITCH = "UNDERSTUDY_COMPILED"  # environment: 0 leaves it out, to find out whether it makes a difference
_ROOT = Path(__file__).parents[1]


def source(module: str) -> Path:
    """Where the Python of a module of UNIT is."""
    return _ROOT.joinpath(*module.split(".")).with_suffix(".py")


def home() -> Path:
    """Where what is compiled from these sources, for this interpreter, belongs."""
    known = hashlib.sha256(f"{sys.version} {sysconfig.get_platform()}".encode())
    for module in UNIT:
        text = source(module).read_bytes()
        known.update(b"%b %d\n%b" % (module.encode(), len(text), text))
    return Path(sysconfig.get_path("platlib")) / "understudy_compiled" / known.hexdigest()[:20]


def why_not() -> str:
    """Why the hot path would run interpreted; empty when it is compiled."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    if not home().is_dir():
        return "it is not compiled for these sources: run `make install`, with a C compiler"
    return ""


def prefer() -> str:
    """Have the modules of UNIT loaded as machine code from now on; returns why not, or nothing.

    Call it before any of them is imported. Raises RuntimeError when that is too late: half of each would not fit.
    """
    if reason := why_not():
        return reason
    folder = home()
    if str(folder) in sys.path:
        return ""
    early = [module for module in UNIT if module in sys.modules]
    if early:
        raise RuntimeError(f"imported before they could be loaded as machine code: {', '.join(early)}")
    sys.path.append(str(folder))  # the code itself is one library beside the packages
    for package in sorted({module.rpartition(".")[0] for module in UNIT}):
        importlib.import_module(package).__path__.insert(0, str(folder.joinpath(*package.split("."))))
    importlib.invalidate_caches()
    return ""
