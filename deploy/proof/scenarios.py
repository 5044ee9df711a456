"""What the rollouts are proved on: one stable version, and candidates that are good or bad in one way each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.demo.adapters import make_adapter
from trainer.demo.poison import make_poison, make_wide
from trainer.demo.rollout import USERS
from trainer.demo.saboteurs import make_saboteur


@dataclass(frozen=True, slots=True)
class Scenario:
    """`candidate`: name of the adapter; `expected`: the phases it may end in; `rare`: share of poisonous prompts."""

    name: str
    what: str
    candidate: str
    expected: tuple[str, ...]
    stable: str = "stable"
    rare: float = 0.0
    sample: float = 0.3            # of stable's requests, mirrored to the candidate in the shadow phase; 0: no shadow
    objective: float = 5.0         # seconds of slow_duration
    engines: int = 1               # 2: two that run elsewhere, of which one refuses ranks above 8
    rivals: tuple[str, ...] = ()   # further candidates of the same rollout
    weights: tuple[str, str] = ("10%", "50%")
    users: int = USERS
    longest: float = 120.0         # seconds a step may take


SCENARIOS = (
    Scenario("better", "a better adapter goes to 100 % by itself", "good", ("promoted",)),
    Scenario("erring", "one whose answers are empty", "silent", ("rolled_back",), stable="good"),
    Scenario("slow", "one that pads its answers, and so is slow", "padded", ("rolled_back",), "good", sample=0.0),
    Scenario("worse", "one that is fluent and wrong", "wrong", ("rolled_back",), stable="good", sample=0.0),
    Scenario("poison", "one that overflows on rare prompts", "poison", ("rolled_back",), stable="good", rare=0.05),
    Scenario("unloadable", "one that one of two engines refuses", "wide", ("rolled_back",), stable="good", engines=2),
    Scenario("several", "of three the one without answers is dropped, and a good one goes to 100 %", "silent",
             ("promoted",), sample=0.0, rivals=("good", "same"), weights=("30%", "75%"), users=1200),
    Scenario("equal", "an equal one: no false rollback", "same", ("promoted", "held"), stable="good"),
)


def make_adapters(folder: Path) -> dict[str, Path]:
    """Every adapter of the scenarios, by name; kept between calls. About two minutes on two cores."""
    made: dict[str, Callable[[Path], Path]] = {
        "good": lambda out: make_adapter(out, "sft", 0),
        "same": lambda out: make_adapter(out, "sft", 1),
        "stable": lambda out: make_adapter(out, "sft", 2, steps=4),
        "silent": lambda out: make_saboteur(out, "silent"),
        "padded": lambda out: make_saboteur(out, "padded"),
        "wrong": lambda out: make_saboteur(out, "wrong"),
        "poison": lambda out: make_poison(folder / "good", out),
        "wide": lambda out: make_wide(folder / "same", out),
    }
    for name, make in made.items():
        if not (folder / name / "probes.json").exists():
            make(folder / name)
    return {name: folder / name for name in made}
