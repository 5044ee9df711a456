"""The grader "reward_model": a Bradley-Terry reward model, in this process or served by `understudy reward`.

A reward model is a PEFT directory: adapter_config.json (task_type SEQ_CLS), adapter_model.safetensors (LoRA and the
score head), and reward_model.json, {"calibration": {"center": c, "scale": s}, "base": digest}; for a registered version
the last is the manifest's "reward_model". A Bradley-Terry score r has no zero and no unit (only differences mean
something: P(a beats b) = sigmoid(r_a - r_b)), so that the score on 0..1 is sigmoid((r - c) / s), with c and s the mean
and the spread of r on the training run's held-out answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from adapters.base import BaseModelInfo, read_base, resolve_base
from adapters.errors import ConfigError, GraderError, UnderstudyError
from adapters.settings import Section, describe
from adapters.tensor_file import read_header
from monitors.rewards.remote import RemoteScores
from monitors.rewards.types import Place, Sample, Scores, StoredVersion, digest, fingerprint

DESCRIPTION = "reward_model.json"
_VERSION = 1
_CONFIG, _TENSORS, _MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"


class LearnedRewardOptions(Section):
    """Options of "reward_model"."""

    version: str = Field("", description="a registered reward model, such as helpful@3f2a9c1b7d20")
    path: str = Field("", description="or a directory with one")
    url: str = Field("", description="or a scoring service, such as http://10.0.0.5:8083 (`understudy reward`)")
    grader: str = Field("", description="url: which of its graders; empty = all together")
    base: str = Field("", description="version, path: the base it was trained on; empty = as it says itself")
    batch_size: int = Field(16, ge=1, description="version, path: answers scored in one pass")
    max_length: int = Field(0, ge=0, description="tokens of prompt and answer; 0 = what the model can take")
    timeout: float = Field(30.0, gt=0, le=600, description="url: seconds one request may take")
    api_key_env: str = Field("UNDERSTUDY_REWARD_API_KEY", description="url: variable with the key; NAME_FILE works too")

    @model_validator(mode="after")
    def _one_source(self) -> LearnedRewardOptions:
        if sum(map(bool, (self.version, self.path, self.url))) != 1:
            raise ValueError("give one of version, path and url")
        return self


class Calibration(Section):
    """Where a model's scores lie."""

    center: float = Field(allow_inf_nan=False, description="the raw score that becomes 0.5")
    scale: float = Field(gt=0, allow_inf_nan=False, description="the raw difference that one logit is")

    def normalised(self, raw: float) -> float:
        """sigmoid((raw - center) / scale), in 0..1; minus infinity is 0."""
        z = max(-700.0, min(700.0, (raw - self.center) / self.scale))
        return 0.0 if raw == -math.inf else 1.0 / (1.0 + math.exp(-z))


class LearnedReward:
    """Scores answers with a reward model. One thread at a time."""

    Options = LearnedRewardOptions

    def __init__(self, name: str, options: LearnedRewardOptions, place: Place) -> None:
        self.name = name
        self._options = options
        self._remote: RemoteScores | None = None
        self._model: Any = None
        if options.url:
            self._remote = RemoteScores(name, options.url, options.grader, options.timeout, options.api_key_env)
            return
        try:
            self._folder, facts = _files(options, place)
            self.calibration, self._base = _described(self._folder, facts, options.base)
        except UnderstudyError as error:
            raise ConfigError(f"reward {name!r}: {error}") from None

    @property
    def fingerprint(self) -> str:
        """Digest of weights, head, calibration, base and options; or the service's own."""
        if self._remote is not None:
            return self._remote.fingerprint
        return fingerprint(
            "reward_model",
            _VERSION,
            weights=digest((self._folder / _TENSORS).read_bytes()),
            calibration=self.calibration.model_dump(),
            base=self._base.digest,
            max_length=self._options.max_length,
        )

    def prepare(self) -> None:
        """Load the weights, or ask the service. Raises GraderUnavailable and GraderError."""
        if self._remote is not None:
            self._remote.prepare()
        elif self._model is None:
            module = import_module("monitors.rewards.reward_model")  # by name: nothing else here may load torch
            options = self._options
            self._model = module.RewardModel(
                self._folder, self._base.path, batch_size=options.batch_size, max_length=options.max_length
            )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """See monitors.rewards.types.Grader. An answer too long for the model scores 0, a prompt too long None."""
        self.prepare()
        if self._remote is not None:
            return self._remote.score(samples)
        raw: list[float | None] = self._model.raw(samples)
        if any(value is not None and math.isnan(value) for value in raw):
            raise GraderError(f"reward {self.name!r}: the model computes NaN: its weights are damaged")
        return [None if value is None else self.calibration.normalised(value) for value in raw]


def _files(options: LearnedRewardOptions, place: Place) -> tuple[Path, Mapping[str, Any]]:
    """(folder, the manifest's "reward_model" with the base's name, or {}). Raises UnderstudyError."""
    if options.path:
        return (place.base_dir / options.path).resolve(), {}
    if place.find_version is None:
        raise ConfigError("registered versions cannot be used here: give the directory as options.path")
    stored: StoredVersion = place.find_version(options.version)
    if stored.kind != "reward_model":
        raise ConfigError(f"{options.version} is no reward model but an {stored.kind}")
    facts = stored.manifest.get("reward_model") or {}
    return stored.folder, {**facts, "base_name": stored.manifest.get("base_model_name_or_path")} if facts else {}


def _described(folder: Path, facts: Mapping[str, Any], base_name: str) -> tuple[Calibration, BaseModelInfo]:
    """What the folder says about itself, checked. Raises ConfigError."""
    config = _read(folder / _CONFIG)
    if str(config.get("task_type")) not in ("SEQ_CLS", "TaskType.SEQ_CLS"):
        raise ConfigError(f"{folder} is no reward model: its task_type is {config.get('task_type')}, not SEQ_CLS")
    try:
        tensors = read_header(folder / _TENSORS)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / _TENSORS}: {error}") from None
    if not any(".score." in f".{name}" for name in tensors):
        raise ConfigError(f"{folder} has no score head: train it with modules_to_save = ['score']")
    facts = facts or _facts(folder)
    try:
        calibration = Calibration.model_validate(facts.get("calibration") or {})
    except ValidationError as error:
        raise ConfigError(f"{folder}: calibration: {describe(error, Calibration)}") from None
    # A stored configuration does not name its base: paths mean nothing elsewhere. The manifest remembers it.
    named = base_name or facts.get("base_name") or config.get("base_model_name_or_path")
    if not named:
        raise ConfigError(f"{folder} does not say which base it was trained on: give options.base")
    base = read_base(resolve_base(str(named)))
    trained_on = str(facts.get("base") or "")
    if trained_on and trained_on != base.digest:
        raise ConfigError(f"{folder} was trained on base {trained_on[:12]}, {base.path} is {base.digest[:12]}")
    return calibration, base


def _facts(folder: Path) -> Mapping[str, Any]:
    """reward_model.json, or the manifest's part of that name."""
    if (folder / DESCRIPTION).is_file():
        return _read(folder / DESCRIPTION)
    manifest = _read(folder / _MANIFEST) if (folder / _MANIFEST).is_file() else {}
    found = manifest.get("reward_model")
    if not isinstance(found, dict):
        raise ConfigError(f"{folder} has no {DESCRIPTION} with its calibration: the reward-model trainer writes it")
    return found


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not an object")
    return content
