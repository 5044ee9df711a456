"""PyTorch's 4-bit kernel in vLLM's layers, against the dequantised product; with a real engine wherever tests use one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gateway.engines import cpu_four_bit
from gateway.engines.cpu_four_bit import apply, group_of, multiply, nibbles, pack


def packed_int32(values: torch.Tensor) -> torch.Tensor:
    """[rows, columns] of 0 .. 15 to [rows, columns / 8] of int32, the first in the lowest bits."""
    eight = values.view(values.shape[0], -1, 8).to(torch.int64)
    joined = (eight << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(joined >= 2**31, joined - 2**32, joined).to(torch.int32)


def parameter(values: torch.Tensor, **dims: int) -> torch.nn.Parameter:
    made = torch.nn.Parameter(values, requires_grad=False)
    for name, dim in dims.items():
        setattr(made, name, dim)
    return made


class Kernel:
    """What vLLM's kernel brings: its configuration, and where a layer keeps its parameters."""

    w_zp_name = "zeros"

    def __init__(self, group_size: int, zero_points: bool):
        self.config = SimpleNamespace(group_size=group_size, zero_points=zero_points)

    def _get_weight_params(self, layer):
        return layer.weights, layer.scales, layer.zeros


def layer_of(weights, scales, zeros, *, gptq: bool) -> SimpleNamespace:
    """As compressed-tensors stores them, or as GPTQ does (`gptq`: everything transposed)."""
    if gptq:
        return SimpleNamespace(
            weights=parameter(packed_int32(weights).t().contiguous(), input_dim=0, output_dim=1, packed_dim=0),
            scales=parameter(scales.t().contiguous(), output_dim=1),
            zeros=parameter(packed_int32(zeros.t().contiguous()), output_dim=1, packed_dim=1),
        )
    return SimpleNamespace(
        weights=parameter(packed_int32(weights), input_dim=1, output_dim=0, packed_dim=1),
        scales=parameter(scales, output_dim=0),
        zeros=parameter(packed_int32(zeros.t().contiguous()).t().contiguous(), output_dim=0, packed_dim=0),
    )


@pytest.mark.parametrize("gptq", [False, True])
@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 96, 128, -1])
@pytest.mark.parametrize("dtype, close", [(torch.bfloat16, 0.02), (torch.float32, 1e-4)])
def test_a_layer_multiplies_with_its_dequantised_weights(gptq, zero_points, group_size, dtype, close):
    torch.manual_seed(0)
    inputs, outputs = 384, 64
    whole = inputs if group_size == -1 else group_size
    weights = torch.randint(0, 16, (outputs, inputs))
    scales = (torch.rand(outputs, inputs // whole) + 0.5).to(dtype)
    zeros = torch.randint(0, 16, scales.shape) if zero_points else torch.full(scales.shape, 8)
    layer = layer_of(weights, scales, zeros, gptq=gptq)
    pack(Kernel(group_size, zero_points), layer)
    assert layer.zeros is None and layer.weights.numel() == inputs * outputs / 2, "four bits a weight"

    x, bias = torch.randn(2, 3, inputs, dtype=dtype), torch.randn(outputs, dtype=dtype)
    dequantised = (weights - zeros.repeat_interleave(whole, 1)) * scales.float().repeat_interleave(whole, 1)
    right = x.float() @ dequantised.t() + bias.float()
    kernel = Kernel(group_size, zero_points)
    out = multiply(kernel, layer, x, bias)
    assert out.shape == (2, 3, outputs) and out.dtype == dtype
    assert torch.allclose(out.float(), right, atol=close * right.abs().max().item())
    assert torch.equal(multiply(kernel, layer, x) + bias, out)
    part = torch.cat([x, x], dim=-1)[..., :inputs]  # of something wider
    assert not part.is_contiguous() and torch.equal(multiply(kernel, layer, part, bias), out)


def test_the_lowest_four_bits_come_first_and_the_highest_may_be_a_sign():
    assert nibbles(torch.tensor([[0x76543210, -1]], dtype=torch.int32)).tolist() == [[*range(8), *[15] * 8]]


def test_groups_are_what_pytorchs_kernel_takes():
    assert [group_of(size, 384) for size in (32, 64, 96, 128, -1)] == [32, 64, 32, 128, 128]
    assert group_of(16, 384) is None and group_of(-1, 40) is None


def vllms(monkeypatch, **operations: object) -> type:
    """vLLM's kernel class, in a process whose library has these operations."""

    class CPUWNA16LinearKernel:
        process_weights_after_loading = apply_weights = None

        @classmethod
        def can_implement(cls, config):
            return (config.group_size != 7, "seven")

    modules = {cpu_four_bit._KERNELS: SimpleNamespace(CPUWNA16LinearKernel=CPUWNA16LinearKernel)}
    modules[cpu_four_bit._OPERATIONS] = SimpleNamespace()
    monkeypatch.setattr(cpu_four_bit, "import_module", {**modules, "torch": torch}.__getitem__)
    monkeypatch.setattr(torch.ops, "_C", SimpleNamespace(**operations), raising=False)
    return CPUWNA16LinearKernel


def test_where_vllms_kernel_is_missing_pytorchs_takes_its_place(monkeypatch):
    kernel = vllms(monkeypatch)
    apply()
    apply()
    assert kernel.process_weights_after_loading is pack and kernel.apply_weights is multiply
    config = SimpleNamespace(group_size=32, partition_weight_shape=(384, 64))
    assert kernel.can_implement(config)[0]
    able, why = kernel.can_implement(SimpleNamespace(group_size=16, partition_weight_shape=(384, 64)))
    assert not able and "multiples of 32, not 16" in why
    assert kernel.can_implement(SimpleNamespace(group_size=7, partition_weight_shape=(384, 64))) == (False, "seven")


def test_where_vllms_kernel_is_there_it_stays(monkeypatch):
    kernel = vllms(monkeypatch, cpu_gemm_wna16=object())
    apply()
    assert kernel.apply_weights is None


@pytest.mark.parametrize("error", [ImportError, AttributeError])
def test_another_vllm_is_left_alone(monkeypatch, error):
    def missing(name: str):
        raise error(name)

    monkeypatch.setattr(cpu_four_bit, "import_module", missing)
    apply()
