"""From `[[reward]]` tables to graders. Classes are named by import string: torch is imported only when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapters.errors import ConfigError
from adapters.settings import describe
from monitors.rewards.function import FunctionGrader
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import FindVersion, Grader, Place, Preparable

# name → module:class. A class has `Options` and is made from (name, options, place).
GRADERS = {
    "exact": "monitors.rewards.texts:Exact",
    "regex": "monitors.rewards.texts:Regex",
    "length": "monitors.rewards.texts:Length",
    "number": "monitors.rewards.number:Number",
    "json_schema": "monitors.rewards.json_schema:JsonSchema",
    "code": "monitors.rewards.code:Code",
    "reward_model": "monitors.rewards.learned:LearnedReward",
    "judge": "monitors.rewards.judge:Judge",
    "ensemble": "monitors.rewards.ensemble:Ensemble",
}


def build_grader(
    spec: RewardSpec, base_dir: Path | str = ".", *, find_version: FindVersion | None = None
) -> Grader:
    """The grader of one table. Nothing is loaded or asked yet: see `prepare`.

    `base_dir` is the configuration file's folder; `find_version` finds the files of a registered version. Raises
    ConfigError in one line for an unknown name, an unknown option, or files that are not there.
    """
    place = Place(Path(base_dir), find_version)
    if ":" in spec.name:
        return FunctionGrader(spec.shown, spec.name, spec.options, place)
    if spec.name not in GRADERS:
        known = ", ".join(GRADERS)
        raise ConfigError(f"reward {spec.name!r} does not exist: there are {known}, and your own as module:function")
    return _made(spec, place)


def build_graders(
    specs: Sequence[RewardSpec], base_dir: Path | str = ".", *, find_version: FindVersion | None = None
) -> list[Grader]:
    """The graders of several tables, in order. Raises ConfigError as `build_grader`, and when two share a name."""
    names = [spec.shown for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"reward {name!r} is there twice: give each a label of its own")
    return [build_grader(spec, base_dir, find_version=find_version) for spec in specs]


def prepare(graders: Sequence[Grader]) -> None:
    """Load weights and check judges, before long work starts. Raises GraderUnavailable and GraderError."""
    for grader in graders:
        if isinstance(grader, Preparable):
            grader.prepare()


def _made(spec: RewardSpec, place: Place) -> Grader:
    module, _, attribute = GRADERS[spec.name].partition(":")
    kind: Any = getattr(import_module(module), attribute)
    try:
        options = kind.Options.model_validate(spec.options)
    except ValidationError as error:
        raise ConfigError(f"reward {spec.shown!r}: options: {describe(error, kind.Options)}") from None
    made: Grader = kind(spec.shown, options, place)
    return made
