"""The grader "judge": an LLM behind any OpenAI-compatible URL, asked strictly, pinned, and checked before use.

Pinned by model name, prompts, options and a scored calibration set: all are in the fingerprint, and a judge that scores
the set differently from what it says there is refused. An answer that is no score is a missing score, never a 0.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Literal

from pydantic import Field, field_validator

from adapters.errors import GraderError, GraderUnavailable
from adapters.settings import Section
from monitors.rewards import judge_prompts as prompts
from monitors.rewards.base import texts_of
from monitors.rewards.calibration import Drift, LengthEffect, drift, length_effect, load_calibration
from monitors.rewards.http_client import Client, Refused
from monitors.rewards.types import Place, Sample, Scores, digest, fingerprint

_VERSION = 1
# Options that do not change what it is. The calibration set counts by its content.
_HOW = frozenset({"url", "api_key_env", "timeout", "concurrency", "calibration", "recheck_hours"})

log = logging.getLogger("understudy.rewards")


class JudgeOptions(Section):
    """Options of "judge"."""

    url: str = Field(description="an OpenAI-compatible API with its version, such as http://10.0.0.7:8000/v1")
    model: str = Field(min_length=1, description="the judge's model name; an answer from another one is refused")
    mode: Literal["pointwise", "pairwise"] = Field(
        "pointwise", description="a score from 1 to k, or a comparison with the reference answer in both orders"
    )
    rubric: str = Field(prompts.RUBRIC, description="what is good")
    k: int = Field(5, ge=2, le=9, description="pointwise: the best score")
    reference: str = Field("reference", description="pairwise: the column with the reference answer")
    calibration: str = Field(description="JSONL with prompt, completion and expected score (0..1)")
    tolerance: float = Field(0.15, gt=0, lt=1, description="largest mean difference from the expected scores")
    recheck_hours: float = Field(24.0, ge=0, description="the set is scored anew when it was this long ago; 0 = never")
    length_control: bool = Field(True, description="take out what length alone does to the score")
    logprobs: bool = Field(True, description="pointwise: use log probabilities where the server gives them")
    max_chars: int = Field(20_000, ge=100, description="characters of a text that the judge is shown")
    max_tokens: int = Field(8, ge=1, description="tokens the judge may answer with")
    timeout: float = Field(60.0, gt=0, le=600, description="seconds one question may take")
    concurrency: int = Field(8, ge=1, le=128, description="questions at the same time")
    extra: dict[str, Any] = Field(default_factory=dict, description="further fields of the request")
    omit: tuple[str, ...] = Field((), description='fields the server does not take, such as "seed"')
    api_key_env: str = Field("UNDERSTUDY_JUDGE_API_KEY", description="variable with the API key; NAME_FILE works too")

    @field_validator("rubric")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the rubric is empty")
        return value.strip()


class Judge:
    """Asks the judge about each answer. One thread at a time; it uses several itself."""

    Options = JudgeOptions

    def __init__(self, name: str, options: JudgeOptions, place: Place) -> None:
        self.name = name
        self._options = options
        path = place.base_dir / options.calibration
        self._calibration = load_calibration(path)
        prompt = prompts.POINTWISE if options.mode == "pointwise" else prompts.PAIRWISE
        self.fingerprint = fingerprint(
            "judge",
            _VERSION,
            options=options.model_dump(mode="json", exclude=set(_HOW)),
            prompt=digest(prompt),
            calibration=digest(path.read_bytes()),
        )
        self._client = Client(name, options.url, timeout=options.timeout, key_variable=options.api_key_env)
        self._served = ""
        self._lock = threading.Lock()
        self.drift: Drift | None = None           # on the calibration set, once prepared
        self._checked_at = 0.0                    # monotonic seconds
        self._refusal = ""
        self.length_effect = LengthEffect()

    def prepare(self) -> None:
        """Have the calibration set scored. Raises GraderUnavailable, and GraderError when the judge has drifted."""
        if self.drift is not None:
            return
        scores = self._ask_all(self._calibration.samples, patient=False)
        found = self._checked(scores)
        if self._options.length_control:
            lengths = [self._length(sample) for sample in self._calibration.samples]
            center = self._options.mode == "pointwise"
            self.length_effect = length_effect(scores, self._calibration.expected, lengths, center=center)
        self.drift, self._checked_at = found, monotonic()
        log.info("judge %s: %s", self.name, self.summary)

    def _recheck(self) -> None:
        """Score the set anew when it is time, with the length effect as it was. Raises GraderError after drift."""
        hours = self._options.recheck_hours
        if hours and monotonic() - self._checked_at > 3600.0 * hours:
            self._checked_at = monotonic()
            try:
                self.drift, self._refusal = self._checked(self._ask_all(self._calibration.samples, patient=False)), ""
            except GraderUnavailable as error:
                log.warning("the judge cannot be checked for drift now: %s", error)
            except GraderError as error:
                self._refusal = str(error)
        if self._refusal:
            raise GraderError(self._refusal)

    def _checked(self, scores: Scores) -> Drift:
        """How the judge did on the set. Raises GraderError when that is not as expected."""
        options = self._options
        try:
            found = drift(scores, self._calibration.expected)
        except GraderError as error:
            raise GraderError(f"judge {self.name!r}: {error}") from None
        if found.mean_difference > options.tolerance:
            raise GraderError(
                f"judge {self.name!r} has drifted: on the {found.rows} calibration rows {options.model} differs from "
                f"the expected scores by {found.mean_difference:.3f} on average (bias {found.bias:+.3f}), "
                f"{options.tolerance:g} at most: pin the model that was calibrated, or score the set anew"
            )
        return found

    @property
    def summary(self) -> str:
        """How it did on the calibration set, in a few words; '' before it was asked."""
        if self.drift is None:
            return ""
        found, effect = self.drift, self.length_effect
        return (
            f"mean difference {found.mean_difference:.3f} (bias {found.bias:+.3f}) on {found.rows} rows, "
            f"length effect {effect.beta:+.2f} ± {effect.standard_error:.2f}"
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """See monitors.rewards.types.Grader. None: no reference, no usable answer, or the judge is away."""
        self.prepare()
        self._recheck()
        scores = self._ask_all(samples, patient=True)
        pairs = zip(samples, scores, strict=True)
        return [s if s is None else self.length_effect.corrected(s, self._length(sample)) for sample, s in pairs]

    def _ask_all(self, samples: Sequence[Sample], *, patient: bool) -> Scores:
        """Uncorrected scores. Patient: a judge that is away gives missing scores, else GraderUnavailable."""
        lost: list[Exception] = []

        def ask(sample: Sample) -> float | None:
            if len(lost) > self._options.concurrency:  # it is away: do not wait for every answer's timeouts
                return None
            try:
                found = self._pointwise(sample) if self._options.mode == "pointwise" else self._pairwise(sample)
                lost.clear()
                return found
            except (GraderUnavailable, Refused) as error:
                if not patient:
                    raise
                if isinstance(error, GraderUnavailable):
                    lost.append(error)
                log.warning("%s", error)
                return None

        distinct = {self._question(sample): sample for sample in samples}  # a policy that collapses repeats itself
        with ThreadPoolExecutor(self._options.concurrency, thread_name_prefix="judge") as pool:
            found = dict(zip(distinct, pool.map(ask, distinct.values()), strict=True))
        return [found[self._question(sample)] for sample in samples]

    def _question(self, sample: Sample) -> tuple[str, str, str]:
        reference = self._reference(sample) if self._options.mode == "pairwise" else None
        return repr(sample.prompt), sample.completion, reference or ""

    def _pointwise(self, sample: Sample) -> float | None:
        options = self._options
        choice = self._ask(prompts.pointwise(options.rubric, options.k, sample, options.max_chars))
        score = prompts.read_score(choice, options.k)
        return None if score is None else (score - 1) / (options.k - 1)

    def _pairwise(self, sample: Sample) -> float | None:
        """1, 0, or 0.5: for a tie, and when the two orders disagree."""
        reference = self._reference(sample)
        if reference is None:
            return None
        found = []
        for first in (True, False):
            messages = prompts.pairwise(self._options.rubric, sample, reference, first, self._options.max_chars)
            found.append(prompts.read_preference(self._ask(messages), first))
        if None in found:
            return None
        return found[0] if found[0] == found[1] else 0.5

    def _reference(self, sample: Sample) -> str | None:
        found = texts_of(self.name, sample, self._options.reference)
        return found[0] if found else None

    def _length(self, sample: Sample) -> float:
        """Characters, or in pairwise mode their difference to the reference."""
        reference = self._reference(sample) if self._options.mode == "pairwise" else ""
        return float(len(sample.completion) - len(reference or ""))

    def _ask(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The first choice of the judge's answer; {} when it has none. Raises GraderUnavailable and GraderError."""
        options = self._options
        body: dict[str, Any] = {
            "model": options.model,
            "messages": messages,
            "temperature": 0,
            "seed": 0,
            "max_tokens": options.max_tokens,
        }
        if options.logprobs and options.mode == "pointwise":
            body |= {"logprobs": True, "top_logprobs": 20}
        body = {key: value for key, value in (body | options.extra).items() if key not in options.omit}
        answer = self._client.post("/chat/completions", body)
        self._check_model(answer.get("model"))
        choices = answer.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else {}
        return first if isinstance(first, dict) else {}

    def _check_model(self, served: Any) -> None:
        """The server may give the name more exactly (a dated snapshot), but always the same one."""
        if not isinstance(served, str) or not served:
            return
        with self._lock:
            self._served = self._served or served
        if served != self._served:
            raise GraderError(
                f"judge {self.name!r}: the server answered as {self._served!r} and now as {served!r}: pin one model"
            )
