"""One version's feedback, read by cursor into its collapse detector; state, cursor and verdict are one row.

`look` runs in a thread. What is read counts exactly once: a controller that dies between reading and writing leaves
the row as it was, and the next one reads the same again. Another controller's write is noticed (Conflict) and taken
over. Nothing here depends on the wall clock but how old the last feedback is.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from adapters.collapse_store import CollapseStore, Counts, Pair, StoredDetector, Wanted
from adapters.errors import Conflict
from gateway.collapse_settings import CollapseSettings
from gateway.rollout.collapse_baseline import fitted, signals_of
from gateway.setting_types import parse_duration
from monitors.collapse import Calibration, CollapseDetector, Kind, Verdict
from monitors.collapse.types import Why
from monitors.stats.results import InsufficientData

log = logging.getLogger("understudy.rollout")
AGAIN = 60.0           # seconds before a baseline that was too small is counted again …
MOST_SHARE = 0.05      # … or longer, so that counting takes at most this share of the time
SAMPLES = 10           # answers named in a verdict
SAVE_EVERY = 60.0      # seconds after which also that nothing came is written down


@dataclass(frozen=True, slots=True)
class Subject:
    """What is watched: `version` on `route`, against `before`; `rollout`: with its live control, 0 for none.

    `scope` names the occasion: a version that comes again later has a detector of its own. A version that is its own
    baseline is watched from the moment that there is enough of it.
    """

    route: str
    version: str
    before: str                    # the version that the baseline is of; may be the same
    scope: str
    rollout: int = 0
    start: tuple[int, int] | None = None   # ids of responses and feedback after which to begin; None: at its first


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where the tables ended at some time (seconds of the monotonic clock)."""

    at: float
    answers: int
    words: int


class CollapseWatch:
    """Watches one subject. Not thread-safe; methods raise DatabaseError."""

    def __init__(
        self, store: CollapseStore, settings: CollapseSettings, wanted: Wanted, subject: Subject,
        monotonic: Callable[[], float],
    ) -> None:  # fmt: skip
        self.subject = subject
        self.verdict = Verdict(Kind.INCONCLUSIVE, "not looked at yet", {}, Why.TOO_LITTLE)
        self.acknowledged = ""         # the kind of verdict that an operator lets pass
        self._store = store
        self._settings = settings
        self._wanted = wanted
        self._monotonic = monotonic
        self._wait, self._stale = parse_duration(settings.wait), parse_duration(settings.stale)
        self._ends: deque[_Ends] = deque()
        self._stored: StoredDetector | None = None
        self._detector: CollapseDetector | None = None
        self._last_at = 0.0            # when the newest feedback that counted was given
        self._samples: deque[str] = deque(maxlen=SAMPLES)  # praised by the reward, and not by users
        self._baseline_at = self._saved_at = -1e9
        self._pause = AGAIN

    @property
    def detector(self) -> CollapseDetector | None:
        """None before there is a baseline."""
        return self._detector

    @property
    def holds(self) -> bool:
        """True where a ramp must go no further, and no operator has let this kind of verdict pass."""
        return self.verdict.holds and self.verdict.kind.value != self.acknowledged

    def acknowledge(self) -> None:
        """An operator has seen the verdict and lets the rollout go on; another kind of verdict holds it again."""
        self.acknowledged = self.verdict.kind.value

    def look(self, now: float, ratio_mismatch: bool = False) -> Verdict:
        """Read what is new and conclude. `now`: seconds since the epoch."""
        try:
            self._load()
            self._read(now, ratio_mismatch)
        except Conflict:               # another controller wrote it: theirs counts, and is loaded at the next look
            self._stored = self._detector = None
        self.verdict = self._conclude(now)
        if self.verdict.kind is Kind.OK:
            self.acknowledged = ""
        return self.verdict

    def _load(self) -> None:
        if self._stored is not None:
            return
        subject = self.subject
        self._stored = stored = self._store.load(subject.route, subject.version, subject.scope)
        if not stored.calibration:
            return
        try:
            detector = self._made(Calibration.from_json(stored.calibration))
            detector.restore(stored.state["detector"])
            self._last_at, self.acknowledged = stored.state["last_at"], stored.state["acknowledged"]
            self._samples.extend(stored.state["samples"])
        except (KeyError, TypeError, ValueError) as error:  # written by another release
            log.warning("the collapse detector of %s cannot be read and begins anew: %r", subject.version, error)
            self._stored = replace(stored, calibration={}, state={})
            return
        self._detector = detector

    def _read(self, now: float, ratio_mismatch: bool) -> None:
        until = self._until()
        if until is None:
            return
        if self._detector is None and not self._calibrated(until, now):
            return
        detector, stored = self._detector, self._stored
        assert detector is not None and stored is not None, "it is calibrated"
        noticed = detector.ratio_mismatch != ratio_mismatch
        detector.ratio_mismatch = ratio_mismatch
        if until.words <= stored.words and until.answers <= stored.answers and not noticed:
            return
        mine, control = self._arms()
        pairs, words = self._store.pairs([*mine, *control], stored.words, until.words, self._wanted)
        for pair in pairs:
            self._observe(detector, pair, pair.assignment in control)
        answers, counted = stored.answers, self._counted
        if words >= until.words:       # a reading that goes on is counted when it has caught up
            since, answers, counted = counted, until.answers, words
            for arms, is_control in ((mine, False), (control, True)):
                traffic = self._store.counts(arms, (stored.answers, answers), (since, words)) if arms else Counts()
                noticed |= any(traffic)
                detector.traffic(*traffic, control=is_control)
        if pairs or noticed or self._monotonic() - self._saved_at >= SAVE_EVERY:
            self._save(now, answers=answers, words=words, counted=counted)
        else:                          # nothing of ours: read again by whoever comes next
            state = {**stored.state, "counted": counted}
            self._stored = replace(stored, answers=answers, words=words, state=state)

    def _observe(self, detector: CollapseDetector, pair: Pair, control: bool) -> None:
        reward = self._wanted.reward(pair.scores)
        if reward is None or not (math.isfinite(reward) and 0.0 <= pair.satisfaction <= 1.0):
            return
        detector.observe(reward, pair.satisfaction, signals=signals_of(pair.scores), control=control)
        if not control:
            self._last_at = max(self._last_at, pair.at)
            if pair.satisfaction < 0.5 and reward >= detector.calibration.reward:
                self._samples.append(pair.response_id)

    def _save(self, now: float, *, answers: int, words: int, counted: int, calibrated: bool = False) -> None:
        assert self._stored is not None and self._detector is not None, "it is calibrated"
        state = {
            "detector": self._detector.to_json(), "last_at": self._last_at, "acknowledged": self.acknowledged,
            "counted": counted, "samples": list(self._samples),
        }  # fmt: skip
        verdict = self._detector.verdict.to_json()
        following = replace(
            self._stored, answers=answers, words=words, state=state, verdict=verdict, updated_at=now,
            calibration=self._detector.calibration.to_json() if calibrated else self._stored.calibration,
        )  # fmt: skip
        self._stored = self._store.save(following, calibrated=calibrated)
        self._saved_at = self._monotonic()

    @property
    def _counted(self) -> int:
        """The feedback id up to which feedback is counted; behind `words` while a reading goes on."""
        assert self._stored is not None, "it is loaded"
        return int(self._stored.state.get("counted", self._stored.words))

    def _until(self) -> _Ends | None:
        """Where the tables ended `wait` ago: by then scores have come, and what was being written is visible."""
        now = self._monotonic()
        self._ends.append(_Ends(now, *self._store.ends()))
        until = None
        while self._ends and now - self._ends[0].at >= self._wait:
            until = self._ends.popleft()
        if until is not None:
            self._ends.appendleft(until)
        return until

    def _calibrated(self, until: _Ends, now: float) -> bool:
        """Fit the baseline if there is enough of it. True when there is a detector now."""
        began = self._monotonic()
        if began - self._baseline_at < self._pause:
            return False
        self._baseline_at = began
        subject, wanted = self.subject, self._wanted
        arms = self._store.arms(subject.route, subject.before)
        pairs = self._store.newest(arms, until.words, 2 * self._settings.baseline, wanted) if arms else []
        try:
            calibration = fitted(self._store, self._settings, wanted, arms, pairs)
        except InsufficientData as error:
            self._pause = max(AGAIN, (self._monotonic() - began) / MOST_SHARE)
            numbers = {"baseline_feedbacks": len(pairs), "needed": self._settings.baseline, "before": subject.before}
            reason = f"no baseline: {error} (of {subject.before}, with a score of {wanted.grader or 'any grader'})"
            self.verdict = Verdict(Kind.INCONCLUSIVE, reason, numbers, Why.TOO_LITTLE)
            return False
        self._detector = self._made(calibration)
        answers, words = self._start(until)
        self._save(now, answers=answers, words=words, counted=words, calibrated=True)
        return True

    def _start(self, until: _Ends) -> tuple[int, int]:
        subject = self.subject
        if subject.version == subject.before:
            return until.answers, until.words
        if subject.start is not None:
            return subject.start
        mine, control = self._arms()
        return self._store.before_first([*mine, *control])

    def _made(self, calibration: Calibration) -> CollapseDetector:
        settings = self._settings
        return CollapseDetector(
            calibration, live_control=bool(self.subject.rollout), epsilon=settings.epsilon,
            threshold=settings.threshold, minimum=settings.minimum,
        )  # fmt: skip

    def _arms(self) -> tuple[list[int], list[int]]:
        """(mine, the control's) assignments."""
        subject = self.subject
        if not subject.rollout:
            return self._store.arms(subject.route, subject.version, arm="stable"), []
        mine = self._store.arms(subject.route, subject.version, subject.rollout, "candidate")
        return mine, self._store.arms(subject.route, subject.before, subject.rollout, "stable")

    def _conclude(self, now: float) -> Verdict:
        if self._detector is None:
            return self.verdict
        verdict = self._detector.verdict
        if verdict.kind is not Kind.OK:
            return replace(verdict, numbers={**verdict.numbers, "samples": list(self._samples)})
        silent = now - self._last_at
        if silent > self._stale:
            reason = f"no feedback for {silent / 3600:.0f} hours; before that: {verdict.reason}"
            return Verdict(Kind.INCONCLUSIVE, reason, verdict.numbers, Why.STALE)
        return verdict
