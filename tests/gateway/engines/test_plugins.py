from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gateway.engines.plugins import PLUGINS, install
from gateway.subprocesses import module_environment


def test_an_engine_finds_them_where_they_are_installed(tmp_path: Path):
    variables = install(tmp_path / "plugins", {"PYTHONPATH": "/earlier"})
    install(tmp_path / "plugins", {})  # again does no harm
    assert variables == {"PYTHONPATH": f"{tmp_path / 'plugins'}:/earlier"}
    code = (
        "from importlib.metadata import entry_points\n"
        f"found = [e for e in entry_points(group='vllm.general_plugins') if e.name in {list(PLUGINS)}]\n"
        "print(sorted(e.load().__module__ for e in found))"
    )
    environment = module_environment({**os.environ, **variables})
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stdout.strip() == str(sorted(module.__name__ for module in PLUGINS.values()))


def test_a_list_of_plugins_is_added_to(tmp_path: Path):
    ours = ",".join(PLUGINS)
    assert install(tmp_path, {"VLLM_PLUGINS": "mine"})["VLLM_PLUGINS"] == f"mine,{ours}"
    assert install(tmp_path, {"VLLM_PLUGINS": ""})["VLLM_PLUGINS"] == ours
