"""What the processes of `understudy serve` load: imports are what a start waits for, and most of what a worker holds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.tree import ROOT

HEAVY = {"numpy", "scipy", "pandas", "torch", "transformers", "alembic", "httpx", "aiohttp", "rich", "jinja2", "psycopg"}
PARENT = HEAVY | {"sqlalchemy", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "asyncio"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("gateway.data_plane.server", PARENT), ("gateway.data_plane.process", HEAVY)],
    ids=["parent", "worker"],
)
def test_nothing_is_loaded_that_is_not_needed(module, unwanted):
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=True)
    loaded = set(json.loads(done.stdout))
    assert "gateway" in loaded
    assert loaded & unwanted == set()
