"""One watched version on real databases: what is read counts once, whatever dies, comes late, or jumps."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from adapters.collapse_store import CollapseStore, Wanted
from adapters.fleet_store import FleetStore
from gateway.collapse_settings import CollapseSettings
from gateway.rollout.collapse import CollapseWatch, Subject
from monitors.collapse import Kind
from monitors.collapse.types import Why
from tests.support.collapse import NOON, Feed, collapsed, opinions, regressed

OLD, NEW = "r@111111111111", "r@222222222222"
SETTINGS = CollapseSettings(baseline=600, minimum=60, wait="1s")
WANTED = Wanted(("thumb", "rating", "task"), "exact")
AFTER = Subject("r", NEW, OLD, "after:1", start=(0, 0))


class Site:
    """A route whose old version has a past; the new one serves now. Time passes when told."""

    def __init__(self, database) -> None:
        self.store, self.feed, self.now = CollapseStore(database), Feed(database), 100.0
        fleet = FleetStore(database)
        self.old = fleet.assignment("r", OLD, "stable", 1.0)
        self.new = fleet.assignment("r", NEW, "stable", 1.0)
        self.candidate = fleet.assignment("r", NEW, "candidate", 0.5, rollout=7, step=1)
        self.control = fleet.assignment("r", OLD, "stable", 0.5, rollout=7, step=1)
        self.feed.give(self.old, opinions(1, 700))

    def watch(self, subject: Subject = AFTER, settings: CollapseSettings = SETTINGS) -> CollapseWatch:
        return CollapseWatch(self.store, settings, WANTED, subject, lambda: self.now)

    def look(self, watch: CollapseWatch, times: int = 2, wall: float = NOON, **more):
        """Let the scores arrive, then look."""
        for _ in range(times):
            watch.look(wall, **more)
            self.now += 1.5
        return watch.look(wall, **more)


@pytest.fixture
def site(database) -> Site:
    return Site(database)


@pytest.mark.parametrize(("rows", "kind"), [
    (opinions(2, 500), Kind.OK), (collapsed(3, 500), Kind.COLLAPSE), (regressed(4, 500), Kind.QUALITY_REGRESSION),
])  # fmt: skip
def test_a_version_is_judged_by_the_one_before(site, rows, kind):
    names = site.feed.give(site.new, rows)
    verdict = site.look(site.watch())
    assert verdict.kind is kind
    assert site.store.load("r", NEW, "after:1").state["detector"]["mine"]["n"] == 500
    if kind.harmful:
        assert 0 < len(verdict.numbers["samples"]) <= 10 and set(verdict.numbers["samples"]) <= set(names)


def test_a_baseline_that_is_too_small_is_no_verdict_until_there_is_more(site):
    watch = site.watch(settings=CollapseSettings(baseline=800, minimum=60, wait="1s"))
    site.feed.give(site.new, collapsed(3, 300))
    verdict = site.look(watch)
    assert (verdict.kind, verdict.why, verdict.holds) == (Kind.INCONCLUSIVE, Why.TOO_LITTLE, False)
    assert verdict.reason == (
        f"no baseline: 700 feedbacks with a reward, 800 are needed to calibrate on (of {OLD}, with a score of exact)"
    )
    site.feed.give(site.old, opinions(9, 100))
    assert site.look(watch).why is Why.TOO_LITTLE       # not asked again at once
    site.now += 60
    assert site.look(watch).kind is Kind.COLLAPSE       # and what was said meanwhile was not lost


def test_a_route_is_its_own_baseline_from_when_there_is_enough(site):
    watch = site.watch(Subject("r", OLD, OLD, "alone"))
    assert site.look(watch).numbers["feedbacks"] == 0   # what it is calibrated on does not count again
    site.feed.give(site.old, collapsed(5, 400))
    assert site.look(watch).kind is Kind.COLLAPSE


def test_a_candidate_is_judged_by_its_live_control(site):
    """Both arms drift: nothing. Then only the candidate collapses."""
    watch = site.watch(Subject("r", NEW, OLD, "rollout:7", rollout=7))
    mine, control = f"a{site.candidate}", f"a{site.control}"
    site.feed.alternate(**{mine: collapsed(2, 300), control: collapsed(3, 300)})
    verdict = site.look(watch)
    assert (verdict.kind, verdict.numbers["control_feedbacks"]) == (Kind.OK, 300)
    site.feed.alternate(**{mine: opinions(4, 450, 3.0, 2.4), control: opinions(5, 450, 1.5, 1.3)})
    verdict = site.look(watch)
    assert verdict.kind.harmful and verdict.numbers["against"] == "live control"


def test_restarts_at_any_look_change_nothing(site):
    whole, part = site.watch(), site.watch(Subject("r", NEW, OLD, "after:2", start=(0, 0)))
    rows, rng = list(opinions(6, 400, 0.5, 0.4)), random.Random(7)
    while rows:
        take = rng.randint(1, 40)
        site.feed.give(site.new, rows[:take])
        del rows[:take]
        for watch in (whole, part):
            watch.look(NOON)
        site.now += 1.5
        for watch in (whole, part):
            watch.look(NOON)
        part = site.watch(part.subject)                 # another process, with only the database to go by
    ends = [site.store.load("r", NEW, f"after:{n}") for n in (1, 2)]
    assert ends[0].state["detector"] == ends[1].state["detector"] and ends[0].state["detector"]["mine"]["n"] > 300


class Killed(BaseException):
    """The process is gone."""


def test_killed_between_reading_and_writing_everything_counts_once(site, monkeypatch):
    watch = site.watch()
    site.feed.give(site.new, opinions(8, 200))
    site.look(watch)
    before = site.store.load("r", NEW, "after:1")
    site.feed.give(site.new, opinions(9, 100))
    with monkeypatch.context() as broken:
        broken.setattr(CollapseStore, "save", lambda *args, **more: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            site.look(watch)
    assert site.store.load("r", NEW, "after:1") == before
    assert site.look(site.watch()).numbers["feedbacks"] == 300


def test_two_controllers_at_once_count_once(site):
    one, two = site.watch(), site.watch()
    site.feed.give(site.new, opinions(10, 100))
    for _ in range(3):
        for watch in (one, two):
            watch.look(NOON)
        site.now += 1.5
    site.feed.give(site.new, opinions(11, 100))
    for _ in range(4):
        for watch in (one, two):
            watch.look(NOON)
        site.now += 1.5
    assert site.store.load("r", NEW, "after:1").state["detector"]["mine"]["n"] == 200
    assert one.verdict.numbers["feedbacks"] == two.verdict.numbers["feedbacks"] == 200


def test_a_score_that_comes_after_its_feedback_is_waited_for(site):
    watch = site.watch()
    site.look(watch)
    site.feed.give(site.new, [(0.5, 1.0)] * 80, graded=False)
    watch.look(NOON)
    site.now += 0.5                                     # less than `wait`
    with site.feed.database.read() as connection:
        from adapters import tables

        rows = [dict(r) for r in connection.execute(tables.feedback.select().where(tables.feedback.c.assignment == site.new)).mappings()]
    site.feed.grade([{k: row[k] for k in ("response_id", "at", "assignment", "unit")} for row in rows], [0.5] * 80)
    assert site.look(watch).numbers["feedbacks"] == 80


def test_the_same_user_again_and_again_is_one_a_day(site):
    watch = site.watch()
    site.feed.give(site.new, collapsed(12, 400), units=[5] * 400)
    assert site.look(watch).numbers["feedbacks"] == 1
    site.feed.at += 86400
    site.feed.give(site.new, collapsed(13, 50), units=[5] * 50)
    assert site.look(watch).numbers["feedbacks"] == 2


def test_late_and_disordered_feedback_counts_for_the_version_that_answered(site):
    watch = site.watch()
    site.feed.at = NOON - 3 * 86400
    site.feed.give(site.new, opinions(14, 50))
    site.feed.at = NOON + 9 * 86400
    site.feed.give(site.old, collapsed(15, 300))        # late words about the version before
    site.feed.at = NOON
    site.feed.give(site.new, opinions(16, 50))
    assert site.look(watch).numbers["feedbacks"] == 100 and watch.verdict.kind is Kind.OK


@pytest.mark.parametrize("jump", [-10 * 86400.0, 10 * 86400.0, -1e9])
def test_a_clock_that_jumps_neither_loses_nor_repeats(site, jump):
    watch = site.watch()
    site.feed.give(site.new, opinions(17, 150))
    site.look(watch)
    site.feed.at = NOON + jump
    site.feed.give(site.new, opinions(18, 150))
    assert site.look(watch, wall=NOON + jump).numbers["feedbacks"] == 300
    assert not watch.verdict.kind.harmful


def test_silence_is_not_good_news(site):
    watch = site.watch()
    site.feed.give(site.new, opinions(19, 150))
    assert site.look(watch).kind is Kind.OK
    later = watch.look(NOON + 25 * 3600)
    assert (later.kind, later.why) == (Kind.INCONCLUSIVE, Why.STALE) and "no feedback for 25 hours" in later.reason


def test_what_an_operator_lets_pass_does_not_hold_again(site):
    watch = site.watch()
    site.feed.give(site.new, opinions(20, 150))
    verdict = site.look(watch, ratio_mismatch=True)
    assert verdict.why is Why.RATIO_MISMATCH and watch.holds
    watch.acknowledge()
    site.feed.give(site.new, opinions(21, 10))
    assert site.look(watch, ratio_mismatch=True).holds and not watch.holds
    assert not site.watch().holds
    fresh = site.watch()
    site.look(fresh, ratio_mismatch=True)
    assert fresh.verdict.holds and not fresh.holds      # also after a restart


@pytest.mark.parametrize("broken", [{"state": {"detector": {}}}, {"calibration": {"n": 1}}, {"state": {}}])
def test_what_another_release_wrote_begins_anew(site, broken, caplog):
    watch = site.watch()
    site.feed.give(site.new, collapsed(25, 300))
    site.look(watch)
    row = site.store.load("r", NEW, "after:1")
    site.store.save(replace(row, **broken), calibrated=True)
    fresh = site.watch()
    assert site.look(fresh).kind is Kind.COLLAPSE and "begins anew" in caplog.text
    assert site.store.load("r", NEW, "after:1").state["detector"]["mine"]["n"] == 300


def test_other_routes_traffic_writes_nothing(site):
    watch = site.watch()
    site.feed.give(site.new, opinions(22, 100))
    site.look(watch)
    before = site.store.load("r", NEW, "after:1")
    other = FleetStore(site.feed.database).assignment("q", "q@333333333333", "stable", 1.0)
    for _ in range(5):
        site.feed.give(other, opinions(23, 5))
        site.look(watch, times=1)
    assert site.store.load("r", NEW, "after:1") == before
    site.now += 60
    site.feed.give(other, opinions(24, 5))
    site.look(watch)
    assert site.store.load("r", NEW, "after:1").words > before.words
