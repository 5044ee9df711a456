"""`[trainer]` against the installed TRL."""

import re

import pytest

from adapters.errors import ConfigError
from tests.support.training import plan, run_file
from trainer.config import ALGORITHMS
from trainer.options import OURS, arguments, check, config_class, max_length


@pytest.fixture
def job(tmp_path):
    def made(algorithm, **options):
        return plan(algorithm, run_file(tmp_path, algorithm, **options)).job

    return made


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("sft", {"learning_rat": 1}, "TRL's SFTConfig has no such option; nearest: learning_rate"),
        ("dpo", {"num_generations": 8}, "TRL's DPOConfig has no such option"),
        ("sft", {"output_dir": "x"}, "trainer.output_dir cannot be set here: it is the run directory"),
        ("sft", {"completion_only_loss": False}, "the loss is always on what the assistant says"),
        ("sft", {"hub_token": "x"}, "cannot be set here"),
        ("grpo", {"use_vllm": True}, 'set [completions] source = "vllm"'),
        ("sft", {"learning_rate": "fast"}, "trainer.learning_rate is 'fast': it should be a number"),
        ("sft", {"packing": 1}, "trainer.packing is 1: it should be true or false"),
        ("sft", {"max_steps": True}, "trainer.max_steps is True: it should be a number"),
    ],
)
def test_what_trl_does_not_know_or_a_run_decides_is_one_line(algorithm, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(algorithm, options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_option_that_is_ours_exists_in_trl(algorithm):
    """Else a renamed option would pass the check."""
    fields = set(config_class(algorithm).__dataclass_fields__)
    common = {"output_dir", "save_strategy", "load_best_model_at_end", "disable_tqdm", "use_cpu", "bf16", "fp16"}
    assert common | {"logging_nan_inf_filter", "remove_unused_columns", "resume_from_checkpoint"} - {"resume_from_checkpoint"} <= fields
    if algorithm == "sft":
        assert {"completion_only_loss", "assistant_only_loss", "dataset_kwargs"} <= fields & OURS.keys()


def test_the_options_suit_lora_and_the_run(job):
    made = arguments(job("sft", gradient_accumulation_steps=2, report_to="tensorboard"))
    assert (made.use_cpu, made.bf16, made.gradient_checkpointing, made.logging_nan_inf_filter) == (True, False, False, False)
    assert (made.save_total_limit, made.gradient_accumulation_steps, made.report_to) == (2, 2, ["tensorboard"])
    assert made.max_length == 512  # the served context of the demo base
    assert arguments(job("dpo")).learning_rate == 5e-4
    assert made.output_dir == str(job("sft").run.checkpoints)


def test_two_checkpoints_are_kept_at_least(job):
    assert arguments(job("sft", save_total_limit=1)).save_total_limit == 2
    assert arguments(job("sft", save_total_limit=5)).save_total_limit == 5


def test_what_trl_itself_refuses_is_one_line(job):
    with pytest.raises(ConfigError, match=r"\[trainer\]: .*lr_scheduler_type|\[trainer\]: ") as caught:
        arguments(job("sft", lr_scheduler_type="zigzag"))
    assert "\n" not in str(caught.value)


def test_no_length_beyond_the_served_context(job):
    assert max_length(job("sft", max_length=64)) == 64
    with pytest.raises(ConfigError, match="from 1 to 512 tokens, the served context"):
        job("sft", max_length=513)
