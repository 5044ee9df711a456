"""Training runs: the reward that is trained on, beside what it must not move."""

from __future__ import annotations

from deploy.dashboards.board import Board, Panel, Query, Row, Variable, of
from monitors import conventions as c
from monitors.conventions import Metric

CHOSEN = 'run=~"$run", algorithm=~"$algorithm"'
LEGEND = "{{run}}"

RUN = Variable("run", "Run", "a run directory's name", of(c.TRAINING_REWARD), "run")
ALGORITHM = Variable("algorithm", "Algorithm", "grpo, rloo, …", of(c.TRAINING_REWARD), "algorithm")


def board() -> Board:
    """The dashboard."""
    return Board(
        "understudy-training",
        "Understudy / Training",
        "Runs of `understudy train`: reward against gold, drift from the reference, and what goes wrong first.",
        (learning(), health()),
        (RUN, ALGORITHM),
    )


def gauge(metric: Metric) -> str:
    """The newest value of each run."""
    return f"max by (run) ({of(metric, CHOSEN)})"


def learning() -> Row:
    """What is learnt, and whether it is what was meant."""
    gap = f"{gauge(c.TRAINING_REWARD)} - {gauge(c.TRAINING_GOLD)}"
    return Row("Learning", (
        Panel("Reward and gold", "The mean reward of the last step, and the mean gold score on held-out prompts, which "
              "is never trained on. A reward that rises while gold falls is being gamed.",
              (Query(gauge(c.TRAINING_REWARD), f"reward {LEGEND}"), Query(gauge(c.TRAINING_GOLD), f"gold {LEGEND}")),
              width=12),
        Panel("Reward minus gold", "Where both are on one scale, the part of the reward that gold does not confirm.",
              (Query(gap, LEGEND),), width=12),
    ))  # fmt: skip


def health() -> Row:
    """What goes wrong first."""
    return Row("Health", (
        Panel("KL from the reference", "Nats per token, on held-out prompts.", (Query(gauge(c.TRAINING_KL), LEGEND),),
              "none", width=6, minimum=0),
        Panel("Entropy", "Of the policy, nats per token. Near 0 it has stopped exploring.",
              (Query(gauge(c.TRAINING_ENTROPY), LEGEND),), "none", width=6, minimum=0),
        Panel("Completion length", "Mean tokens of a completion.", (Query(gauge(c.TRAINING_TOKENS), LEGEND),),
              width=6, minimum=0),
        Panel("Groups without variance", "Share of groups whose raw rewards are all equal: they teach nothing.",
              (Query(gauge(c.TRAINING_ZERO_VARIANCE), LEGEND),), "percentunit", width=6, minimum=0, maximum=1),
    ))  # fmt: skip
