"""Sums over units for the comparison of two arms, made by the database: two levels, first per unit, then over units.

Variances are over units, never over answers (a unit's answers are not independent): only sums leave the database.
Where a unit's mean before the rollout is a covariate (CUPED), x is its difference from all units' mean before; 0 for a
unit that was not there before, which adds no information and, being the same in both arms, no bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, case, func, not_, select

from adapters import tables
from adapters.database import Database
from adapters.evidence_store import THUMBS_DOWN, bad
from adapters.types import Flag

Sums = tuple[float, ...]                   # units, Σm, Σm², Σd, Σd², Σmd over units with d > 0; and Σx, Σx², Σxm, Σxd
ArmsOf = Mapping[str, tuple[Sums, Sums]]   # metric → (candidate, stable)
_PLAIN, _ADJUSTED = 6, 10                  # numbers in Sums without and with a covariate

_R, _F, _S, _P = (table.c for table in (tables.responses, tables.feedback, tables.scores, tables.shadow_pairs))


@dataclass(frozen=True, slots=True)
class Segment:
    """The assignments that are compared: one step at one weight. `earlier`: those of the ramp before it."""

    candidate: tuple[int, ...]
    stable: tuple[int, ...]
    earlier: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """Of both arms."""
        return self.candidate + self.stable


@dataclass(frozen=True, slots=True)
class Before:
    """The route's records in [since, until), seconds since the epoch: what covariates are made of."""

    route: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class _Column:
    """A metric's value in a row, which rows have one, and its value before the rollout, per unit."""

    value: ColumnElement[Any]
    there: ColumnElement[bool]
    before: Subquery | None = None


@dataclass(frozen=True, slots=True)
class Units:
    """Units per arm, and those that came first during the segment; of one that changed arm, the candidate's count."""

    candidate: int = 0
    stable: int = 0
    new_candidate: int = 0
    new_stable: int = 0


@dataclass(frozen=True, slots=True)
class PairRow:
    """One prompt answered by both versions and scored by the same grader."""

    metric: str
    unit: bytes
    stable: float
    candidate: float
    assignment: int = 0            # the mirrored arm


class EvidenceSums:
    """Methods raise DatabaseError. The engine's outages are left out everywhere."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def units(self, segment: Segment) -> Units:
        """How many units each arm has seen."""
        every = [*segment.ids, *segment.earlier]
        if not every:
            return Units()
        per_unit = (
            select(
                _any(_R.assignment.in_(segment.candidate)).label("c"),
                _any(_R.assignment.in_(segment.stable)).label("s"),
                _any(_R.assignment.in_(segment.earlier)).label("e"),
            )
            .where(_R.assignment.in_(every))
            .group_by(_R.unit)
            .subquery()
        )
        c, s, e = per_unit.c.c == 1, and_(per_unit.c.s == 1, per_unit.c.c == 0), per_unit.c.e == 0
        query = select(_count(c), _count(s), _count(and_(c, e)), _count(and_(s, e)))
        with self._database.read() as connection:
            return Units(*(int(value or 0) for value in connection.execute(query).one()))

    def answers(self, segment: Segment, metrics: Mapping[str, float]) -> ArmsOf:
        """Metrics of answers, by name as in a plan; the values are objectives in seconds, for slow_*."""
        where = and_(_R.assignment.in_(segment.ids), _R.flags.op("&")(int(Flag.ENGINE_DOWN)) == 0)
        return self._sums(segment, _R, where, {name: _answer_metric(name, goal) for name, goal in metrics.items()})

    def words(self, segment: Segment, names: Sequence[str], before: Before | None = None) -> ArmsOf:
        """satisfaction and thumbs_down: of each answer and kind of feedback the last word counts."""
        last = select(func.max(_F.id)).where(_F.assignment.in_(segment.ids)).group_by(_F.response_id, _F.kind)
        said = _F.score.is_not(None)
        known = {
            "satisfaction": _Column(_F.score, said, _before(_F, _F.score, said, before)),
            "thumbs_down": _Column(case((_F.score < THUMBS_DOWN, 1.0), else_=0.0), said),
        }
        return self._sums(segment, _F, _F.id.in_(last), {name: known[name] for name in names})

    def scores(
        self, segment: Segment, names: Mapping[str, ColumnElement[bool]], before: Before | None = None
    ) -> ArmsOf:
        """Metrics of `scores`: name → which rows (score_rows)."""
        columns = {
            name: _Column(_S.value, condition, _before(_S, _S.value, condition, before))
            for name, condition in names.items()
        }
        return self._sums(segment, _S, _S.assignment.in_(segment.ids), columns)

    def pairs(self, rollout: int) -> list[PairRow]:
        """All pairs of the shadow phase in the order in which they came."""
        query = select(_P.metric, _P.unit, _P.stable, _P.candidate, _P.assignment)
        query = query.where(_P.rollout == rollout).order_by(_P.id)
        with self._database.read() as connection:
            return [PairRow(*row) for row in connection.execute(query)]

    def _sums(
        self, segment: Segment, table: Any, where: ColumnElement[bool], metrics: Mapping[str, _Column]
    ) -> ArmsOf:
        if not metrics or not segment.ids:
            return {}
        arm = case((table.assignment.in_(segment.candidate), 1), else_=0).label("arm")
        columns: list[ColumnElement[Any]] = [arm, table.unit]
        for number, metric in enumerate(metrics.values()):
            columns.append(func.sum(case((metric.there, metric.value * 1.0), else_=0.0)).label(f"m{number}"))
            columns.append(func.sum(case((metric.there, 1.0), else_=0.0)).label(f"d{number}"))
        per_unit = select(*columns).where(where).group_by(arm, table.unit).subquery()
        with self._database.read() as connection:
            found = connection.execute(_over_units(per_unit, list(metrics.values()))).all()
        rows = {row[0]: [float(value or 0.0) for value in row[1:]] for row in found}
        return dict(zip(metrics, _by_metric(rows, list(metrics.values())), strict=True))


def _by_metric(rows: Mapping[int, list[float]], metrics: Sequence[_Column]) -> list[tuple[Sums, Sums]]:
    """(candidate, stable) for each metric, cut out of the arms' rows; zeros for an arm without any."""
    result, start = [], 0
    for metric in metrics:
        width = _ADJUSTED if metric.before is not None else _PLAIN
        sides = (rows.get(arm, [])[start : start + width] or [0.0] * width for arm in (1, 0))
        candidate, stable = (tuple(side) for side in sides)
        result.append((candidate, stable))
        start += width
    return result


def _before(
    table: Any, value: ColumnElement[Any], there: ColumnElement[bool], before: Before | None
) -> Subquery | None:
    """(unit, x): a unit's mean in the records before."""
    if before is None:
        return None
    mine = select(tables.assignments.c.id).where(tables.assignments.c.route == before.route)
    query = select(table.unit.label("unit"), func.avg(value * 1.0).label("x")).where(
        there, table.assignment.in_(mine), table.at >= before.since, table.at < before.until
    )
    return query.group_by(table.unit).subquery()


def score_rows(metric: str) -> ColumnElement[bool]:
    """Which rows of `scores` make a plan's metric: reward, reward.<grader>, text.<statistic>.

    `reward` alone is every grader's score, each as one value.
    """
    if metric == "reward":
        return not_(_S.metric.like("text.%"))
    return _S.metric.in_((metric, metric.removeprefix("reward.")))


def is_pair_of(metric: str, recorded: str) -> bool:
    """The same for a row of `shadow_pairs`, whose metric is `recorded`."""
    if metric == "reward":
        return not recorded.startswith("text.")
    return recorded in (metric, metric.removeprefix("reward."))


def _answer_metric(name: str, objective: float) -> _Column:
    """A metric of answers, by its name in a plan."""
    well = _R.status < 400
    means = {
        "tokens": (_R.output_tokens, _R.output_tokens.is_not(None)),
        "cost": (
            func.coalesce(_R.input_tokens, 0) + func.coalesce(_R.output_tokens, 0), _R.output_tokens.is_not(None)
        ),
        "ttft": (_R.ttft, _R.ttft.is_not(None)),
        "duration": (_R.duration, well),
    }  # fmt: skip
    if name in means:
        return _Column(*means[name])
    counted = {"slow_ttft": _R.ttft.is_not(None), "slow_duration": well}.get(name, _R.status.is_not(None))
    return _Column(case((bad(name, objective), 1.0), else_=0.0), counted)


def _over_units(per_unit: Subquery, metrics: Sequence[_Column]) -> Select[Any]:
    columns: list[ColumnElement[Any]] = [per_unit.c.arm]
    joined: Any = per_unit
    for number, metric in enumerate(metrics):
        m, d = per_unit.c[f"m{number}"], per_unit.c[f"d{number}"]
        columns += [_count(d > 0), func.sum(m), func.sum(m * m), func.sum(d), func.sum(d * d), func.sum(m * d)]
        if metric.before is not None:
            before = metric.before.alias(f"before{number}")
            joined = joined.outerjoin(before, before.c.unit == per_unit.c.unit)
            mean = select(func.avg(metric.before.c.x)).scalar_subquery()
            x = case((d > 0, func.coalesce(before.c.x - mean, 0.0)), else_=0.0)
            columns += [func.sum(x), func.sum(x * x), func.sum(x * m), func.sum(x * d)]
    return select(*columns).select_from(joined).group_by(per_unit.c.arm)


def _any(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.max(case((condition, 1), else_=0))


def _count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((condition, 1), else_=0))
