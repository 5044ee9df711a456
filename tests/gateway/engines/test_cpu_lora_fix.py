from __future__ import annotations

import pytest

from gateway.engines.cpu_lora_fix import apply, skip_base_rows


def expand(inputs, weights, output, slots, add_inputs=True):
    """As vLLM's: every row of output gets inputs @ weights[its slot], and slot -1 is the last one."""
    import torch

    delta = torch.einsum("bi, boi -> bo", inputs, weights[slots])
    output.copy_(output + delta if add_inputs else delta)


def test_rows_without_an_adapter_stay_as_they_are():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    inputs, weights, output = torch.randn(5, 3), torch.randn(2, 4, 3), torch.randn(5, 4)
    slots = torch.tensor([0, -1, 1, -1, 0])
    wrong, right, before = output.clone(), output.clone(), output.clone()
    expand(inputs, weights, wrong, slots)
    skip_base_rows(expand)(inputs, weights, right, slots)
    assert torch.equal(right[[1, 3]], before[[1, 3]]) and not torch.equal(wrong[[1, 3]], before[[1, 3]])
    assert torch.equal(right[[0, 2, 4]], wrong[[0, 2, 4]])
    only = output.clone()
    skip_base_rows(expand)(inputs, weights, only, torch.full((5,), -1), add_inputs=False)
    assert torch.equal(only, before)


def test_nan_in_an_adapter_does_not_get_through():
    torch = pytest.importorskip("torch")
    weights = torch.full((1, 4, 3), float("nan"))
    output = torch.zeros(2, 4)
    skip_base_rows(expand)(torch.ones(2, 3), weights, output, torch.tensor([-1, 0]))
    assert torch.equal(output[0], torch.zeros(4)) and output[1].isnan().all()


def test_the_operations_are_replaced_once_wherever_they_are_known(monkeypatch):
    from types import SimpleNamespace

    modules = {"lora_ops": SimpleNamespace(bgmv_expand=expand), "torch_ops": SimpleNamespace(bgmv_expand=expand)}
    modules["punica_cpu"] = SimpleNamespace(bgmv_expand=expand, bgmv_shrink="somebody else's")
    monkeypatch.setattr("gateway.engines.cpu_lora_fix.import_module", lambda name: modules[name.rpartition(".")[2]])
    apply()
    fixed = modules["lora_ops"].bgmv_expand
    assert fixed is not expand and fixed.__wrapped__ is expand
    assert modules["torch_ops"].bgmv_expand is modules["punica_cpu"].bgmv_expand is fixed
    assert modules["punica_cpu"].bgmv_shrink == "somebody else's"
    apply()
    assert modules["lora_ops"].bgmv_expand is fixed


def test_without_vllm_nothing_happens(monkeypatch):
    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr("gateway.engines.cpu_lora_fix.import_module", missing)
    apply()
