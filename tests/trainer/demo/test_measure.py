import pytest
import torch

from trainer.demo import measure, world
from trainer.model import load_base


@pytest.fixture(scope="module")
def model():
    return load_base("demo")


EXAMPLES = [world.Example("upper", "upper ab", "AB", "ab"), world.Example("last", "last ab", "b", "a")] * 2


def test_rates_are_shares_of_strictly_right_replies():
    rates = measure.rate(["AB", "Sure! b", "ab", "b"], EXAMPLES)
    assert rates == measure.Rates(n=4, exact=0.5, by_task={"last": 0.5, "upper": 0.5}, sure=0.25, mean_length=3.0)


def test_nothing_measured_is_an_error_not_a_zero():
    with pytest.raises(ValueError, match="0 replies to 0 prompts"):
        measure.rate([], [])
    with pytest.raises(ValueError, match="1 replies to 4 prompts"):
        measure.rate(["AB"], EXAMPLES)


def test_sampling_is_repeatable_and_leaves_the_global_state_alone(model):
    prompts = [e.prompt for e in world.examples(20, 1)]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = measure.sample(model, prompts, seed=2)
    assert torch.rand(1) == expected
    assert first == measure.sample(model, prompts, seed=2)
    assert first != measure.sample(model, prompts, seed=3)


def test_greedy_does_not_depend_on_the_seed_or_on_the_batch(model):
    prompts = [e.prompt for e in world.examples(10, 1)]
    together = measure.sample(model, prompts, temperature=0)
    assert together == measure.sample(model, prompts, temperature=0, seed=9)
    assert together == [measure.sample(model, [p], temperature=0)[0] for p in prompts]


def test_a_reply_is_cut_at_the_limit(model):
    (reply,) = measure.sample(model, ["reverse abcdef"], temperature=0, max_new_tokens=2)
    assert len(reply) <= 2
