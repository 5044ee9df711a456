import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors import conventions as c
from monitors import values_reader
from monitors.merged_values import merge
from monitors.shared_values import SharedValues
from monitors.values_reader import is_held, read
from tests.support.python import finish, start_python

FAILOVER = ("failovers_total", ("e",))


def merged(directory: Path) -> dict[tuple[str, tuple[str, ...]], list[float]]:
    return {(metric.name, labels): values for metric, series in merge(directory) for labels, values in series}


def test_a_file_is_held_as_long_as_its_process_lives(tmp_path: Path) -> None:
    values = SharedValues(tmp_path)
    assert is_held(values.path)
    assert is_held(values.path)  # asking changes nothing
    values.close()
    assert not is_held(values.path)
    code = "import sys, pathlib; from monitors.values_reader import is_held; print(is_held(pathlib.Path(sys.argv[1])))"
    living = SharedValues(tmp_path)
    assert finish(start_python(code, living.path)) == "True\n"


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True)))
def test_a_histogram_counts_like_its_definition(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    values = SharedValues(tmp_path_factory.mktemp("values"))
    histogram = values.histogram(c.DURATIONS, "r", "v", "stable", "chat")
    for number in numbers:
        histogram.observe(number)
    good = [number for number in numbers if math.isfinite(number) and abs(number) < 1e300]
    found = read(values.path).values["request_duration_seconds", ("r", "v", "stable", "chat")]
    cumulative = [sum(found[: i + 1]) for i in range(len(c.DURATION))]
    assert cumulative == [sum(number <= bound for number in good) for bound in c.DURATION]
    assert sum(found[:-1]) == len(good)
    assert math.isfinite(found[-1])


@pytest.mark.parametrize("damage", [b"{]\n", b"[]\n", b'["add"]\n', b'["add", -1, 1, 2, 3, 4]\n', b"\xff\n", b"7\n"])
def test_one_damaged_file_does_not_hide_the_others(tmp_path: Path, damage: bytes) -> None:
    bad, good = SharedValues(tmp_path), SharedValues(tmp_path)
    bad.path.with_suffix(".series").write_bytes(damage)
    good.counter(c.FAILOVERS, "e").inc()
    assert merged(tmp_path)[FAILOVER] == [1]


def test_missing_and_empty_files_do_not_hide_the_others(tmp_path: Path) -> None:
    SharedValues(tmp_path).path.with_suffix(".series").unlink()
    os.truncate(SharedValues(tmp_path).path, 0)
    (tmp_path / "stray.values").write_bytes(b"x")
    SharedValues(tmp_path).counter(c.FAILOVERS, "e").inc()
    assert merged(tmp_path) == {FAILOVER: [1]}


def test_files_of_a_release_with_other_buckets_are_not_misread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = SharedValues(tmp_path)
    values.counter(c.FAILOVERS, "e").inc()
    monkeypatch.setattr(values_reader, "layout", lambda metric: 1)
    assert merged(tmp_path) == {}
