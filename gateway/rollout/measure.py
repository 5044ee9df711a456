"""What is known about a step: the records of exactly this step at this weight, as sums over units. Reads, no writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapters.evidence_store import ArmRow
from adapters.evidence_sums import Before, EvidenceSums, PairRow, Segment, Sums, is_pair_of, score_rows
from adapters.rollouts import Phase
from gateway.rollout.arms import CANDIDATE, STABLE, Course
from gateway.rollout.plan import Plan
from monitors.analysis import ArmSums, BadEvent, JudgeSpec, Measurements

Events = Mapping[str, Sequence[BadEvent]]    # by metric
_OF_WORDS = ("satisfaction", "thumbs_down")
_SAME_SHARE = 1e-9
BEFORE = 14 * 86400.0      # seconds before the rollout from which a unit's covariates come


def rules(course: Course) -> JudgeSpec | None:
    """What the phase is judged by; None for phases that are not judged."""
    if course.rollout.phase is Phase.SHADOW and course.plan.shadow:
        return course.plan.shadow_spec()
    if course.rollout.phase is Phase.RAMP:
        return course.plan.judge_spec(course.rollout.step - 1)
    return None


def segment_of(course: Course, arms: Mapping[int, ArmRow], version: str = "") -> Segment:
    """The assignments of this step at this weight: a candidate's (the first's) and stable's.

    A changed weight begins anew: mixing weights confounds with time.
    """
    rollout, top = course.rollout, 1.0 - course.plan.holdout_share
    version = version or rollout.candidate

    def ids(arm: str, share: float, of: str) -> tuple[int, ...]:
        same = (r for r in arms.values() if r.arm == arm and r.step == rollout.step and r.version == of)
        return tuple(sorted(row.id for row in same if abs(row.share - share) < _SAME_SHARE))

    candidate = ids(CANDIDATE, rollout.weight * course.part(version), version)
    stable = ids(STABLE, top - rollout.weight, rollout.stable)
    ramp = {row.id for row in arms.values() if row.arm in (CANDIDATE, STABLE) and row.step > 0}
    return Segment(candidate, stable, tuple(sorted(ramp - {*candidate, *stable})))


def measure_each(
    sums: EvidenceSums, course: Course, arms: Mapping[int, ArmRow], events: Mapping[str, Events]
) -> dict[str, Measurements]:
    """`measure` for every candidate that is left; the split is tested over all arms at once. `events`: by version."""
    found = {version: measure(sums, course, arms, events.get(version, {}), version) for version in course.candidates}
    if len(course.rollout.candidates) == 1 or not all(measured.ratio_counts for measured in found.values()):
        return found
    # A unit that several arms have seen counts for none of them, so that every pair counts the same of stable's.
    counts = [measured.ratio_counts[0] for measured in found.values()]
    weights = [measured.ratio_weights[0] for measured in found.values()]
    stable = next(iter(found.values()))
    counts, weights = [*counts, stable.ratio_counts[1]], [*weights, stable.ratio_weights[1]]
    return {
        version: replace(measured, ratio_counts=tuple(counts), ratio_weights=tuple(weights))
        for version, measured in found.items()
    }


def measure(
    sums: EvidenceSums, course: Course, arms: Mapping[int, ArmRow], events: Events, version: str = ""
) -> Measurements:
    """Everything that the judgement of a candidate (the first) in this phase needs. Raises DatabaseError.

    May take a while: not for the loop.
    """
    elapsed = course.memory.credited
    if course.rollout.phase is Phase.SHADOW:
        rows = sums.pairs(course.rollout.id)
        if course.rollout.rivals:
            rows = [row for row in rows if (arm := arms.get(row.assignment)) and arm.version == version]
        return Measurements(elapsed, bad_events=dict(events), pairs=_pairs(rows, course.plan))
    segment = segment_of(course, arms, version)
    units = sums.units(segment)
    weight, top = course.rollout.weight, 1.0 - course.plan.holdout_share
    compared = top - weight > _SAME_SHARE and weight > 0
    part = course.part(version or course.rollout.candidate)
    return Measurements(
        elapsed,
        units.candidate,
        units.stable,
        (units.new_candidate, units.new_stable) if compared else (),
        (weight * part / top, (top - weight) / top) if compared else (),
        _metrics(sums, segment, course),
        dict(events),
    )


def _metrics(sums: EvidenceSums, segment: Segment, course: Course) -> dict[str, tuple[ArmSums, ArmSums]]:
    answers, words, scores = {}, [], {}
    started = course.rollout.started_at
    before = Before(course.rollout.route, started - BEFORE, started)
    for metric in course.plan.metrics:
        if metric.name in _OF_WORDS:
            words.append(metric.name)
        elif metric.name.startswith(("reward", "text.")):
            scores[metric.name] = score_rows(metric.name)
        else:
            answers[metric.name] = metric.objective
    found: dict[str, tuple[Sums, Sums]] = {**sums.answers(segment, answers)}
    found |= sums.words(segment, words, before)
    found |= sums.scores(segment, scores, before)
    return {name: (_sums_of(candidate), _sums_of(stable)) for name, (candidate, stable) in found.items()}


def _sums_of(sums: Sums) -> ArmSums:
    return ArmSums(int(sums[0]), *sums[1:])


def _pairs(rows: Sequence[PairRow], plan: Plan) -> dict[str, list[float]]:
    """candidate − stable, one per unit and metric: a unit's first.

    Of the plan's metrics, and of all statistics of texts: they show how many pairs there are where nothing grades.
    """
    pairs: dict[str, list[float]] = {}
    seen: set[tuple[str, str, bytes]] = set()
    planned = [metric.name for metric in plan.metrics if metric.name.startswith(("reward", "text."))]
    for row in rows:
        names = {name for name in planned if is_pair_of(name, row.metric)}
        for name in names | ({row.metric} if row.metric.startswith("text.") else set()):
            if (name, row.metric, row.unit) not in seen:
                seen.add((name, row.metric, row.unit))
                pairs.setdefault(name, []).append(row.candidate - row.stable)
    return pairs


def means(measured: Measurements) -> dict[str, float]:
    """Stable's mean of each metric that has data: what a promoted version is watched against."""
    return {name: stable.m / stable.d for name, (_, stable) in measured.metrics.items() if stable.d > 0}
