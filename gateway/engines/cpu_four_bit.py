"""Lets CPU engines compute with 4-bit weights on processors without AVX-512, as most laptops are.

vLLM's CPU build (0.32) has its 4-bit kernel, `cpu_gemm_wna16`, only in the library for AVX-512: elsewhere an engine
with a W4A16 base dies at its warm-up for want of it. PyTorch has a kernel for the same product, which runs on AVX2 and
on older processors: `aten::_weight_int4pack_mm_for_cpu`. Where vLLM's is missing, its layers take that one. Weights
stay packed, four bits each.

A plugin (plugins.py): nothing is imported from vLLM or torch before `apply` is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_KERNELS = "vllm.model_executor.kernels.linear.mixed_precision.cpu"
_OPERATIONS = "vllm._custom_ops"   # importing it loads the library that fits the processor
_GROUPS = (256, 128, 64, 32)       # weights along the input that share a scale, as PyTorch's kernel takes them
_ZERO = 8                          # what PyTorch's kernel subtracts from each of 0 .. 15
_IN_AN_INT32 = 8                   # weights that vLLM's checkpoints pack into one


def apply() -> None:
    """Give vLLM's 4-bit layers PyTorch's kernel, once. Does nothing where vLLM's own is there."""
    try:
        kernel = import_module(_KERNELS).CPUWNA16LinearKernel
        import_module(_OPERATIONS)
        torch = import_module("torch")
    except (ImportError, AttributeError):
        return
    if hasattr(torch.ops._C, "cpu_gemm_wna16") or kernel.apply_weights is multiply:
        return
    theirs = kernel.can_implement

    def can_implement(config: Any) -> tuple[bool, str | None]:
        able, why = theirs(config)
        if able and group_of(config.group_size, config.partition_weight_shape[0]) is None:
            able, why = False, f"without AVX-512 groups are multiples of {_GROUPS[-1]}, not {config.group_size}"
        return able, why

    kernel.can_implement = staticmethod(can_implement)
    kernel.process_weights_after_loading = pack
    kernel.apply_weights = multiply


def group_of(group_size: int, inputs: int) -> int | None:
    """The largest of PyTorch's groups that divides the checkpoint's (-1: one for all inputs); None if none does."""
    whole = inputs if group_size == -1 else group_size
    return next((group for group in _GROUPS if whole % group == 0), None)


def pack(kernel: Any, layer: Any) -> None:
    """In place of the kernel's `process_weights_after_loading`: from the checkpoint's form to PyTorch's.

    Quantised weights [inputs / 8, outputs] int32 (or transposed, as compressed-tensors stores them) become
    [outputs, inputs / 2] uint8; scales [groups, outputs] become scale and offset, [groups, outputs, 2].
    """
    torch = import_module("torch")
    quantised, scales, zeros = kernel._get_weight_params(layer)
    packed = (quantised.data if quantised.input_dim == 1 else quantised.data.t()).contiguous()
    scale = (scales.data if scales.output_dim == 0 else scales.data.t()).contiguous()  # [outputs, groups]
    weights = nibbles(packed)  # [outputs, inputs], 0 .. 15
    offset = torch.zeros_like(scale)
    if kernel.config.zero_points:  # packed along the outputs: [outputs / 8, groups] or transposed
        packed_zeros = (zeros.data if zeros.output_dim == 0 else zeros.data.t()).t().contiguous()
        offset = ((_ZERO - nibbles(packed_zeros).t()) * scale.float()).to(scale.dtype)
    layer.kernel_group = group_of(kernel.config.group_size, weights.shape[1])
    layer.kernel_product = torch.ops.aten._weight_int4pack_mm_for_cpu
    repeats = weights.shape[1] // scale.shape[1] // layer.kernel_group
    both = torch.stack([scale, offset], dim=-1).repeat_interleave(repeats, dim=1)
    quantised.data = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weights, 1)
    scales.data = both.transpose(0, 1).contiguous()
    if kernel.w_zp_name is not None:
        setattr(layer, kernel.w_zp_name, None)


def nibbles(packed: Any) -> Any:
    """[rows, columns] of int32 to [rows, columns * 8] of 0 .. 15, the lowest four bits first."""
    torch = import_module("torch")
    shifts = torch.arange(0, 4 * _IN_AN_INT32, 4, dtype=torch.int32)
    return ((packed.unsqueeze(-1) >> shifts) & 15).flatten(1).contiguous()


def multiply(kernel: Any, layer: Any, x: Any, bias: Any = None) -> Any:
    """In place of the kernel's `apply_weights`: [..., inputs] to [..., outputs]."""
    weights, both, _ = kernel._get_weight_params(layer)
    rows = x.reshape(-1, x.shape[-1]).contiguous()  # as PyTorch's kernel wants them; x may be a part of something
    product = layer.kernel_product(rows, weights, layer.kernel_group, both)
    out = product.view(*x.shape[:-1], product.shape[-1])
    return out if bias is None else out + bias
