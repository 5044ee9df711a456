import errno
import os
import signal
from pathlib import Path

import pytest

from adapters.errors import ConfigError
from monitors import conventions as c
from monitors.merged_values import merge
from monitors.shared_values import SEGMENT_SLOTS, SharedValues
from tests.support.python import finish, kill, start_python


def merged(directory: Path) -> dict[tuple[str, tuple[str, ...]], list[float]]:
    return {(metric.name, labels): values for metric, series in merge(directory) for labels, values in series}


def test_counts_are_read_by_another_reader(tmp_path: Path) -> None:
    values = SharedValues(tmp_path)
    values.counter(c.FAILOVERS, "e1").inc()
    values.counter(c.FAILOVERS, "e1").inc(2)
    gauge = values.gauge(c.IN_FLIGHT, "support")
    gauge.inc()
    gauge.inc()
    gauge.dec()
    histogram = values.histogram(c.SATISFACTION, "support", "v", "stable")
    for score in (0.0, 0.05, 1.0, 7.0):
        histogram.observe(score)
    found = merged(tmp_path)
    assert found["failovers_total", ("e1",)] == [3.0]
    assert found["requests_in_flight", ("support",)] == [1.0]
    counts = found["satisfaction_score", ("support", "v", "stable")]
    assert counts == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 8.05]


def test_wrong_kind_or_labels_are_refused(tmp_path: Path) -> None:
    values = SharedValues(tmp_path)
    with pytest.raises(ValueError, match="is a counter with labels"):
        values.gauge(c.FAILOVERS, "e1")
    with pytest.raises(ValueError, match="is a counter with labels"):
        values.counter(c.FAILOVERS)


def test_growth_keeps_old_handles_and_counts(tmp_path: Path) -> None:
    values = SharedValues(tmp_path)
    first = values.counter(c.FAILOVERS, "first")
    handles = {}
    while len(values._segments) < 4:
        name = f"v{len(handles)}"
        handles[name] = values.histogram(c.RESPONSE_TOKENS, "r", name)
        handles[name].observe(len(handles))
    first.inc(5)
    found = merged(tmp_path)
    assert found["failovers_total", ("first",)] == [5.0]
    assert len(handles) * c.RESPONSE_TOKENS.width > 3 * (SEGMENT_SLOTS - c.RESPONSE_TOKENS.width)
    for number, name in enumerate(handles, start=1):
        assert found["response_tokens", ("r", name)][-1] == number


def test_dropped_series_are_gone_and_their_slots_come_back_empty(tmp_path: Path) -> None:
    values = SharedValues(tmp_path)
    for version in ("old", "new"):
        values.counter(c.TOKENS_TOTAL, "r", version, "input").inc(7)
        values.histogram(c.RESPONSE_TOKENS, "r", version).observe(3)
    size = values.path.stat().st_size
    values.drop("version", "old", c.METRICS)
    assert {key[1][1] for key in merged(tmp_path)} == {"new"}
    again = values.counter(c.TOKENS_TOTAL, "r", "newest", "input")
    assert again.value == 0.0
    again.inc()
    assert merged(tmp_path)["tokens_total", ("r", "newest", "input")] == [1.0]
    for turn in range(2000):  # versions come and go for ever: neither the slots nor the file grow
        values.histogram(c.RESPONSE_TOKENS, "r", f"v{turn}").observe(turn)
        values.drop("version", f"v{turn}", c.METRICS)
    assert values.path.stat().st_size == size


def test_a_full_disk_costs_series_but_never_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = SharedValues(tmp_path)
    before = values.counter(c.FAILOVERS, "before")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        unseen = values.counter(c.FAILOVERS, "during")
        values.drop("engine", "before", [c.FAILOVERS])
    unseen.inc()
    before.inc()
    assert unseen.value == 1.0
    assert values.unexported == 1
    assert merged(tmp_path) == {("failovers_total", ("before",)): [1.0]}


def test_a_half_written_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = SharedValues(tmp_path)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: real(file, data[:10]))
        values.counter(c.FAILOVERS, "half")
    values.counter(c.FAILOVERS, "whole").inc()
    assert merged(tmp_path) == {("failovers_total", ("whole",)): [1.0]}


def test_no_room_at_the_start_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"metrics cannot be kept in .*No space left"):
        SharedValues(tmp_path / "m")


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="metrics cannot be kept in"):
        SharedValues(tmp_path / "file" / "metrics")


WORKER = """
import sys
from pathlib import Path
from monitors import conventions as c
from monitors.shared_values import SharedValues
values = SharedValues(Path(sys.argv[1]))
counter = values.counter(c.FAILOVERS, "e")
histogram = values.histogram(c.RESPONSE_TOKENS, "r", "v")
values.gauge(c.IN_FLIGHT, "r").set(1)
for i in range(int(sys.argv[2])):
    counter.inc()
    histogram.observe(i % 7)
print("counted", flush=True)
sys.stdin.readline()
"""


def test_several_processes_are_exact_and_a_killed_one_stays_counted(tmp_path: Path) -> None:
    workers = [start_python(WORKER, tmp_path, 20_000) for _ in range(4)]
    try:
        reads = 0
        while reads < 20:  # reading all the while harms nobody
            found = merged(tmp_path)
            assert sum(found.get(("failovers_total", ("e",)), [0.0])) <= 80_000
            reads += 1
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "counted\n"
        found = merged(tmp_path)
        assert found["failovers_total", ("e",)] == [80_000]
        assert found["requests_in_flight", ("r",)] == [4]
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        finish(workers[1])
        for _ in range(2):  # folding in what ended happens once
            found = merged(tmp_path)
            assert found["failovers_total", ("e",)] == [80_000]
            assert sum(found["response_tokens", ("r", "v")][:-1]) == 80_000
            assert found["requests_in_flight", ("r",)] == [2]
        assert len(list(tmp_path.glob("*.values"))) == 2
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert merged(tmp_path) == {
        ("failovers_total", ("e",)): [80_000],
        ("response_tokens", ("r", "v")): found["response_tokens", ("r", "v")],
    }


KILLED_WHILE_COUNTING = """
import sys
from pathlib import Path
from monitors import conventions as c
from monitors.shared_values import SharedValues
values = SharedValues(Path(sys.argv[1]))
counter = values.counter(c.FAILOVERS, "e")
while True:
    for i in range(1000):
        counter.inc()
        values.counter(c.TOKENS_TOTAL, "r", f"v{i}", "input").inc()
        values.drop("version", f"v{i - 5}", [c.TOKENS_TOTAL])
    print(counter.value, flush=True)
"""


def test_a_process_killed_in_the_middle_loses_nothing_it_had_counted(tmp_path: Path) -> None:
    seen = 0.0
    for _ in range(3):
        process = start_python(KILLED_WHILE_COUNTING, tmp_path)
        assert process.stdout is not None
        said = 0.0
        for _ in range(3):
            said = float(process.stdout.readline())
            merged(tmp_path)
        said = float([said, *kill(process).split()][-1])
        total = merged(tmp_path)["failovers_total", ("e",)][0]
        assert seen + said <= total <= seen + said + 1000
        seen = total
        assert merged(tmp_path)["failovers_total", ("e",)] == [seen]


ON_A_FULL_DISK = """
import sys
from pathlib import Path
from monitors import conventions as c
from monitors.shared_values import SharedValues
folder = Path(sys.argv[1])
values = SharedValues(folder)
first = values.histogram(c.RESPONSE_TOKENS, "r", "first")
first.observe(1)
(folder / "filler").write_bytes(b"")
with (folder / "filler").open("ab", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
for number in range(3000):
    values.histogram(c.RESPONSE_TOKENS, "r", f"v{number}").observe(1)
first.observe(1)
print(values.unexported)
"""


def test_a_disk_that_is_really_full_does_not_kill_the_process(small_disk: Path) -> None:
    unexported = int(finish(start_python(ON_A_FULL_DISK, small_disk)))
    assert 0 < unexported <= 3000
    (small_disk / "filler").unlink()
    found = merged(small_disk)
    assert sum(found["response_tokens", ("r", "first")][:-1]) == 2
    assert len(found) == 3001 - unexported
