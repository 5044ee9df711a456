"""RLOO beats the base; and the advantages and KL of both algorithms against numbers worked out by hand."""

import pytest
import torch

from tests.support import rl
from trainer import rl_trainers
from trainer.reward_function import RewardFunction
from trainer.sampling import Answer, movement, token_logprobs


@pytest.mark.slow
@pytest.mark.long
def test_rloo_beats_the_base(tmp_path):
    job = rl.make_job("rloo", tmp_path, trainer={"beta": 0.05, "max_steps": 16})
    outcome = rl.train(job)
    ours, base = rl.right(rl.replies(outcome.adapter)), rl.right(rl.replies(None))
    print("RLOO", sum(ours) / len(ours), "base", sum(base) / len(base))
    assert rl.better(ours, base) < 1e-4
    assert outcome.marks == {}
    assert any(row.get("health.kl", 0) > 0.001 for row in job.run.rows())


REWARDS = [1.0, 0.0, None, 0.5, 1.0, 1.0, 1.0, 1.0]
"""Two groups of four: one with spread and a missing reward, one that teaches nothing."""


def first_step(monkeypatch, folder, algorithm, rewards=None, **trainer):
    """TRL's batch of a first step and what it logs; its rewards are `rewards`, where given."""
    seen = {}
    extended = rl_trainers._extended

    def spying(kind, *rest):
        class Spy(extended(kind, *rest)):
            def _generate_and_score_completions(self, inputs):
                batch = super()._generate_and_score_completions(inputs)
                seen.setdefault("batch", dict(batch))
                return batch

            def log(self, logs, *rest):
                super().log(logs, *rest)
                seen.setdefault("logs", dict(logs))

        return Spy

    monkeypatch.setattr(rl_trainers, "_extended", spying)
    if rewards is not None:
        monkeypatch.setattr(RewardFunction, "__call__", lambda self, prompts, **_: list(rewards))
    options = {"max_steps": 1, "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 8,
               "save_steps": 100} | trainer  # fmt: skip
    rl.train(rl.make_job(algorithm, folder, trainer=options, held_out=10, health={"prompts": 8, "samples": 1}))
    return seen


@pytest.mark.parametrize(
    ("scale", "divisor"),
    [("none", lambda std: 1.0), ("group", lambda std: std + 1e-4)],
)
def test_grpo_s_advantage_is_reward_minus_the_group_s_mean(monkeypatch, tmp_path, scale, divisor):
    seen = first_step(monkeypatch, tmp_path, "grpo", REWARDS, scale_rewards=scale, loss_type="dr_grpo")
    std = 0.5  # of 1, 0, 0.5 with n − 1
    expected = [0.5 / divisor(std), -0.5 / divisor(std), 0, 0, 0, 0, 0, 0]  # the missing one moves nothing
    assert seen["batch"]["advantages"].tolist() == pytest.approx(expected, abs=1e-6)
    assert seen["logs"]["reward"] == pytest.approx(5.5 / 7)


def test_rloo_s_advantage_is_reward_minus_the_others_mean(monkeypatch, tmp_path):
    seen = first_step(monkeypatch, tmp_path, "rloo", REWARDS, beta=0.0)
    expected = [1 - 0.25, 0 - 0.75, 0, 0.5 - 0.5, 0, 0, 0, 0]
    assert seen["batch"]["advantages"].tolist() == pytest.approx(expected, abs=1e-6)
    # The same baseline up to G/(G − 1): leave-one-out is 3/2 of reward minus the mean of the three that were scored.
    assert expected[0] == pytest.approx(3 / 2 * 0.5)


def test_schulman_s_estimator_is_what_grpo_logs_and_agrees_with_the_whole_distributions(monkeypatch, tmp_path):
    captured = {}
    original = rl_trainers.make_trainer

    def keeping(*arguments, **keywords):
        captured["trainer"] = original(*arguments, **keywords)
        for name, parameter in captured["trainer"].model.named_parameters():
            if "lora_B" in name:
                with torch.random.fork_rng():
                    torch.manual_seed(len(name))
                    parameter.data.normal_(0, 0.05)  # a policy that has moved already
        return captured["trainer"]

    monkeypatch.setattr(rl_trainers, "make_trainer", keeping)
    options = {"learning_rate": 0.0, "beta": 0.1, "per_device_train_batch_size": 128, "num_generations": 32}
    seen = first_step(monkeypatch, tmp_path, "grpo", **options)
    model, batch = captured["trainer"].model, seen["batch"]
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    answers = [
        Answer(tuple(asked[mask.bool()].tolist()), tuple(said[keep.bool()].tolist()), "")
        for asked, mask, said, keep in zip(*(batch[name] for name in names), strict=True)
    ]
    own = token_logprobs(model, answers)
    with model.disable_adapter():
        base = token_logprobs(model, answers)
    ratios = torch.tensor([b - o for mine, theirs in zip(own, base, strict=True) for o, b in zip(mine, theirs, strict=True)])
    k3 = ratios.exp() - 1 - ratios
    assert seen["logs"]["kl"] == pytest.approx(float(k3.mean()), rel=1e-2)
    error = float(k3.std()) / len(k3) ** 0.5  # one is exact, the other sampled
    assert movement(model, answers).kl == pytest.approx(float(k3.mean()), abs=5 * error)
    assert float(k3.mean()) > 3 * error
