import pytest

from adapters.base import read_base, resolve_base
from adapters.errors import TrainingError
from trainer.config import LoraSettings
from trainer.memory import CONTEXT, NF4_BYTES, Shape, check, check_disk, estimate, lora_parameters, shape_of

SMALL = Shape(parameters=1000, layers=2, hidden=10, vocabulary=100, lora_parameters=50, batch=4, length=5)


def test_every_part_by_hand():
    found = estimate(SMALL, "sft", 2.0)
    assert found.weights == 2000
    assert found.lora == 50 * 16
    assert found.activations == 2 * 20 * 10 * 2 + 34 * 20 * 10
    assert found.logits == 20 * 100 * 10
    assert found.total == found.weights + found.lora + found.activations + found.logits + CONTEXT


def test_pairs_take_two_sequences_and_no_checkpointing_every_layer():
    one, two = estimate(SMALL, "sft", 2.0), estimate(SMALL, "dpo", 2.0)
    assert (two.activations, two.logits) == (2 * one.activations, 2 * one.logits)
    whole = estimate(Shape(**{**SMALL.__dict__, "checkpointing": False}), "sft", 2.0)
    assert whole.activations == 34 * 20 * 10 * 2


def test_an_8b_model_has_a_plausible_size():
    """Llama 3 8B: 16 GB of bfloat16 weights, 4.5 GB as NF4."""
    shape = Shape(8_030_000_000, 32, 4096, 128_256, 42_000_000, 1, 2048)
    assert 15.5e9 < estimate(shape, "sft", 2.0).weights < 16.5e9
    assert 4.2e9 < estimate(shape, "sft", NF4_BYTES).weights < 4.8e9
    assert estimate(shape, "sft", 2.0).total < 24 * 2**30


def test_the_shape_of_the_demo_base():
    base = read_base(resolve_base("demo"))
    shape = shape_of(base, LoraSettings(r=16), 32, 96, checkpointing=False)
    assert (shape.layers, shape.hidden, shape.vocabulary) == (4, 128, 264)
    assert 0.7e6 < shape.parameters < 1.0e6
    linear = [size for name, size in base.modules.items() if ".layers." in name]
    assert shape.lora_parameters == sum(16 * (out + inside) for out, inside in linear)
    q_only = LoraSettings(r=16, target_modules=("q_proj",))
    assert lora_parameters(base, q_only) == 4 * 16 * (128 + 128)


def test_a_run_that_cannot_fit_is_refused():
    needed = estimate(SMALL, "sft", 2.0)
    check(needed, needed.total)
    with pytest.raises(TrainingError, match=r"memory: about 0\.8 GiB .* but the GPU has 0\.5 GiB free"):
        check(needed, 0.5 * 2**30)


def test_a_disk_that_is_too_small_is_refused_before_the_run(small_disk):
    check_disk(small_disk / "runs" / "a", 10_000, 2)
    with pytest.raises(TrainingError, match=r"has 2 MiB free, the run needs about 9 MiB: free space, or set output_dir"):
        check_disk(small_disk / "runs" / "a", 200_000, 2)
