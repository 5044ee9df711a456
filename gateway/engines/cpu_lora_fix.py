"""Keeps adapters out of the base's answers on CPU engines.

vLLM marks a token without an adapter with slot -1. Its LoRA operations for the CPU index with that number, so they
take the last slot: once that is filled, a base request that is computed together with an adapter's request is answered
with the last slot's weights (vllm-project/vllm #48421, #49656; seen with 0.32). The GPU kernels skip such tokens.

vLLM loads this module itself, in each of its processes, as one of its general plugins: `install` makes it known to a
managed engine through the engine's own PYTHONPATH. Nothing is imported from vLLM before `apply` is called.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

PLUGIN = "understudy_cpu_lora"
_OPERATIONS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
_MODULES = ("vllm.lora.ops.torch_ops.lora_ops", "vllm.lora.ops.torch_ops", "vllm.lora.punica_wrapper.punica_cpu")
_FILES = {
    "METADATA": f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 1\n",
    "entry_points.txt": f"[vllm.general_plugins]\n{PLUGIN} = {__name__}:apply\n",
}


def install(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Describe the plugin in `folder` as an installed distribution; the variables with which an engine finds it there.

    Raises OSError when the files cannot be written.
    """
    described = folder / f"{PLUGIN}-1.dist-info"
    described.mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        path = described / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # once there, a full disk does not matter
            path.write_text(text, encoding="utf-8")
    variables = {"PYTHONPATH": ":".join(filter(None, [str(folder), environ.get("PYTHONPATH", "")]))}
    if "VLLM_PLUGINS" in environ:  # only the plugins named there are loaded
        variables["VLLM_PLUGINS"] = ",".join(filter(None, [environ["VLLM_PLUGINS"], PLUGIN]))
    return variables


def apply() -> None:
    """Replace the operations in this process, once. Does nothing where this vLLM has none of them."""
    try:
        modules = [import_module(name) for name in _MODULES]
    except ImportError:
        return
    for name in _OPERATIONS:
        original = getattr(modules[0], name, None)
        if original is None or hasattr(original, "__wrapped__"):
            continue
        fixed = skip_base_rows(original)
        for module in modules:
            if getattr(module, name, None) is original:
                setattr(module, name, fixed)


def skip_base_rows(operation: Callable[..., None]) -> Callable[..., None]:
    """`operation(inputs, weights, output, slots, …)` that leaves the rows of `output` alone whose slot is negative.

    Without branches, so that it can be compiled; and by choosing rows, not by multiplying with zero, so that NaN in
    some adapter's weights cannot get through.
    """

    @functools.wraps(operation)
    def fixed(inputs: Any, weights: Any, output: Any, slots: Any, *rest: Any, **named: Any) -> None:
        before = output.clone()
        operation(inputs, weights, output, slots.clamp(min=0), *rest, **named)
        output.copy_(before.where(slots.lt(0).unsqueeze(1), output))

    return fixed
