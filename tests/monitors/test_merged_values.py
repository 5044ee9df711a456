import errno
import os
import time
from pathlib import Path

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from monitors import conventions as c
from monitors.merged_values import merge
from monitors.shared_values import SharedValues
from monitors.values_reader import read
from tests.support.python import start_python

FAILOVER = ("failovers_total", ("e",))


def merged(directory: Path, now: float | None = None) -> dict[tuple[str, tuple[str, ...]], list[float]]:
    return {(metric.name, labels): values for metric, series in merge(directory, now) for labels, values in series}


def ended(directory: Path, count: float = 1.0, version: str = "") -> None:
    """A process that counted and ended."""
    values = SharedValues(directory)
    values.counter(c.FAILOVERS, "e").inc(count)
    if version:
        values.counter(c.TOKENS_TOTAL, "r", version, "input").inc(count)
    values.close()


def test_an_empty_or_missing_directory_has_no_series(tmp_path: Path) -> None:
    assert merge(tmp_path / "not" / "yet") == []


def test_ages_are_the_oldest_and_maxima_the_largest(tmp_path: Path) -> None:
    one, two = SharedValues(tmp_path), SharedValues(tmp_path)
    now = time.monotonic()
    one.gauge(c.SNAPSHOT_AGE).set(now - 100)
    two.gauge(c.SNAPSHOT_AGE).set(now - 5)
    one.gauge(c.ENGINE_UP, "e").set(1)
    two.gauge(c.ENGINE_UP, "e").set(0)
    found = merged(tmp_path)
    assert 100 <= found["route_snapshot_age_seconds", ()][0] < 130
    assert found["engine_up", ("e",)] == [1]


def test_a_kill_between_accumulating_and_removing_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        assert merged(tmp_path)[FAILOVER] == [3]
    assert len(list(tmp_path.glob("*.values"))) == 1
    ended(tmp_path, 4)
    assert merged(tmp_path)[FAILOVER] == [7]
    assert merged(tmp_path)[FAILOVER] == [7]
    assert list(tmp_path.glob("*.values")) == []
    assert orjson.loads((tmp_path / "accumulated.json").read_bytes())["folded"] != []
    ended(tmp_path, 1)
    assert merged(tmp_path)[FAILOVER] == [8]
    assert len(orjson.loads((tmp_path / "accumulated.json").read_bytes())["folded"]) == 1  # old names are not kept


def test_a_full_disk_while_accumulating_keeps_the_counts_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(tmp_path, 3)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert merged(tmp_path)[FAILOVER] == [3]
        assert merged(tmp_path)[FAILOVER] == [3]
    assert merged(tmp_path)[FAILOVER] == [3]
    assert list(tmp_path.glob("*.values")) == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"series": [1], "folded": []}', b'{"series": 3}'])
def test_a_damaged_accumulation_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    ended(tmp_path)
    merged(tmp_path)
    (tmp_path / "accumulated.json").write_bytes(damage)
    ended(tmp_path, 5)
    assert merged(tmp_path)[FAILOVER] == [5]
    assert (tmp_path / "accumulated.damaged").read_bytes() == damage


def test_series_of_retired_versions_go(tmp_path: Path) -> None:
    ended(tmp_path, version="old")
    ended(tmp_path, version="live")
    assert merged(tmp_path, 1000.0)["tokens_total", ("r", "old", "input")] == [1]
    living = SharedValues(tmp_path)
    living.counter(c.TOKENS_TOTAL, "r", "live", "output").inc()
    assert ("tokens_total", ("r", "old", "input")) in merged(tmp_path, 1000.0 + c.RETIRE_AFTER)
    found = merged(tmp_path, 1001.0 + c.RETIRE_AFTER)
    assert ("tokens_total", ("r", "old", "input")) not in found
    assert found["tokens_total", ("r", "live", "input")] == [1]  # not touched by the living, but its version is
    assert found[FAILOVER] == [2]
    living.close()
    assert merged(tmp_path, 1e9)[FAILOVER] == [2]  # nobody lives: nothing is known to be retired


def test_what_one_worker_dropped_is_not_shown_with_less_than_before(tmp_path: Path) -> None:
    """Otherwise Prometheus would take the smaller sum for a restart, and count all of it again."""
    one, two = SharedValues(tmp_path), SharedValues(tmp_path)
    for values in (one, two):
        values.counter(c.TOKENS_TOTAL, "r", "v", "input").inc(10)
    one.drop("version", "v", c.METRICS)
    assert merged(tmp_path) == {}
    one.counter(c.TOKENS_TOTAL, "r", "v", "input").inc()
    assert merged(tmp_path) == {("tokens_total", ("r", "v", "input")): [1]}


def test_a_version_that_comes_back_is_counted_by_whoever_serves_it(tmp_path: Path) -> None:
    one, two = SharedValues(tmp_path), SharedValues(tmp_path)
    series = ("tokens_total", ("r", "v", "input"))
    one.counter(c.TOKENS_TOTAL, "r", "v", "input").inc(10)
    one.drop("version", "v", c.METRICS)
    two.counter(c.TOKENS_TOTAL, "r", "v", "input").inc(3)
    assert merged(tmp_path) == {series: [3]}
    two.close()
    assert merged(tmp_path) == {series: [3]}
    assert merged(tmp_path) == {series: [3]}


def test_leavings_of_a_process_killed_at_its_start_are_removed(tmp_path: Path) -> None:
    living = SharedValues(tmp_path)
    for name in ("a.starting", "a.series", "b.series"):
        (tmp_path / name).write_text("")
    merged(tmp_path)
    assert (tmp_path / "a.starting").exists()
    merged(tmp_path, time.time() + 4000)
    assert {path.name for path in tmp_path.iterdir()} == {
        living.path.name, living.path.with_suffix(".series").name, "readers.lock",
    }  # fmt: skip


READER = """
import sys
from pathlib import Path
from monitors.merged_values import merge
for _ in range(200):
    merge(Path(sys.argv[1]))
"""


def test_readers_that_are_killed_while_processes_end_lose_and_double_nothing(tmp_path: Path) -> None:
    total = 0
    for turn in range(1, 6):
        readers = [start_python(READER, tmp_path) for _ in range(2)]
        try:
            deadline = time.monotonic() + 0.4
            while time.monotonic() < deadline:
                ended(tmp_path, turn)
                total += turn
        finally:
            for reader in readers:
                reader.kill()
                reader.communicate()
    assert merged(tmp_path)[FAILOVER] == [total]


class Fleet(RuleBasedStateMachine):
    """Processes start, count, drop and end in any order; the merged counts are those of a simple model."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.directory = Path(self.folder.name)
        self.living: list[SharedValues] = []
        self.counts: dict[str, float] = {}

    @rule()
    def start(self) -> None:
        if len(self.living) < 4:
            self.living.append(SharedValues(self.directory))

    @rule(which=st.integers(0, 3), name=st.text(max_size=5), amount=st.integers(0, 5))
    def count(self, which: int, name: str, amount: int) -> None:
        if which < len(self.living):
            self.living[which].counter(c.FAILOVERS, name).inc(amount)
            self.living[which].histogram(c.SCREENING_DURATION, name).observe(amount)
            self.counts[name] = self.counts.get(name, 0) + amount

    @rule(which=st.integers(0, 3))
    def end(self, which: int) -> None:
        if which < len(self.living):
            self.living.pop(which).close()

    @rule(name=st.text(max_size=5))
    def drop_everywhere(self, name: str) -> None:
        known = any(("failovers_total", (name,)) in read(v.path).values for v in self.living)
        for values in self.living:
            values.drop("engine", name, [c.FAILOVERS])
        if known:
            self.counts.pop(name, None)

    @invariant()
    def same(self) -> None:
        found = merged(self.directory)
        assert {key[1][0]: values[0] for key, values in found.items() if key[0] == "failovers_total"} == self.counts

    def teardown(self) -> None:
        for values in self.living:
            values.close()
        self.folder.cleanup()


Fleet.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_fleet = Fleet.TestCase


def test_on_a_disk_that_is_really_full_counts_wait_in_their_own_files(small_disk: Path) -> None:
    ended(small_disk, 3)
    ended(small_disk, 4)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    assert merged(small_disk)[FAILOVER] == [7]
    assert merged(small_disk)[FAILOVER] == [7]
    filler.unlink()
    assert merged(small_disk)[FAILOVER] == [7]
    assert list(small_disk.glob("*.values")) == []
