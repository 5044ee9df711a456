"""Keeps adapters out of the base's answers on CPU engines.

vLLM marks a token without an adapter with slot -1. Its LoRA operations for the CPU index with that number, so they
take the last slot: once that is filled, a base request that is computed together with an adapter's request is answered
with the last slot's weights (vllm-project/vllm #48421, #49656; seen with 0.32). The GPU kernels skip such tokens.

A plugin (plugins.py): nothing is imported from vLLM before `apply` is called.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

_OPERATIONS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
_MODULES = ("vllm.lora.ops.torch_ops.lora_ops", "vllm.lora.ops.torch_ops", "vllm.lora.punica_wrapper.punica_cpu")


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
