"""Our corrections of vLLM's CPU build, which every managed CPU engine loads itself, in each of its processes.

vLLM asks for entry points of the group `vllm.general_plugins` and calls them before it loads a model. `install` writes
what makes ours known into a folder, and the engine's own PYTHONPATH leads there: nothing of vLLM's files is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.engines import cpu_four_bit, cpu_lora_fix

PLUGINS = {"understudy_cpu_lora": cpu_lora_fix, "understudy_cpu_four_bit": cpu_four_bit}
_NAME = "understudy_plugins"
_POINTS = "".join(f"{name} = {module.__name__}:apply\n" for name, module in PLUGINS.items())
_FILES = {
    "METADATA": f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: 1\n",
    "entry_points.txt": f"[vllm.general_plugins]\n{_POINTS}",
}


def install(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Describe the plugins in `folder` as an installed distribution; the variables with which an engine finds it there.

    Raises OSError when the files cannot be written.
    """
    described = folder / f"{_NAME}-1.dist-info"
    described.mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        path = described / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # once there, a full disk does not matter
            path.write_text(text, encoding="utf-8")
    variables = {"PYTHONPATH": ":".join(filter(None, [str(folder), environ.get("PYTHONPATH", "")]))}
    if "VLLM_PLUGINS" in environ:  # only the plugins named there are loaded
        variables["VLLM_PLUGINS"] = ",".join(filter(None, [environ["VLLM_PLUGINS"], *PLUGINS]))
    return variables
