import json
import math
import multiprocessing

import pytest

from adapters.errors import Conflict, TrainingError
from trainer.run_directory import MARKER, RunDirectory

FROZEN = {"algorithm": "sft", "config": {"lora": {"r": 8}, "seed": 1}}


@pytest.fixture
def run(tmp_path):
    made = RunDirectory(tmp_path / "runs" / "a")
    made.start(FROZEN, {"code": "1"}, resume=False)
    return made


def checkpoint(run, step, *, whole=True):
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 100)
    (folder / "optimizer.pt").write_bytes(b"y" * 50)
    if whole:
        run.mark_complete(folder)
    return folder


def test_the_newest_whole_checkpoint_counts_and_torn_ones_go(run):
    assert run.newest_checkpoint() is None
    checkpoint(run, 5)
    ten = checkpoint(run, 10)
    torn = checkpoint(run, 100, whole=False)
    assert run.newest_checkpoint() == ten
    assert not torn.exists()


@pytest.mark.parametrize("damage", ["shorter", "gone", "marker", "marker-empty"])
def test_a_damaged_checkpoint_is_torn_although_it_was_marked(run, damage):
    five, ten = checkpoint(run, 5), checkpoint(run, 10)
    if damage == "shorter":
        (ten / "optimizer.pt").write_bytes(b"y" * 49)
    elif damage == "gone":
        (ten / "optimizer.pt").unlink()
    elif damage == "marker":
        (ten / MARKER).write_text('{"step": 10, "fil')
    else:
        (ten / MARKER).write_text('{"step": 10, "files": {}}')
    assert run.newest_checkpoint() == five


def test_a_second_start_is_refused_and_resuming_wants_the_same_run(run):
    with pytest.raises(Conflict, match="--resume goes on with it"):
        run.start(FROZEN, {}, resume=False)
    run.start(FROZEN, {"code": "2"}, resume=True)
    frozen = json.loads(run.frozen.read_text())
    assert (frozen["environment"], frozen["resumed"][0]["environment"]) == ({"code": "1"}, {"code": "2"})
    with pytest.raises(Conflict, match=r"config\.lora\.r was 8 and is now 16"):
        run.start({**FROZEN, "config": {"lora": {"r": 16}}}, {}, resume=True)


def test_resume_starts_what_was_never_started_but_not_in_somebody_elses_folder(tmp_path):
    run = RunDirectory(tmp_path / "new")
    run.start(FROZEN, {}, resume=True)
    assert run.frozen.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(Conflict, match="is not empty and holds no run"):
        RunDirectory(tmp_path / "full").start(FROZEN, {}, resume=False)


def test_a_run_killed_while_it_made_its_folder_starts_again(tmp_path):
    run = RunDirectory(tmp_path / "a")
    run.checkpoints.mkdir(parents=True)
    (run.path / "lock").touch()
    (run.path / ".run.json.17.tmp").write_text('{"algo')
    run.start(FROZEN, {}, resume=True)
    assert run.read_json(run.frozen)["algorithm"] == "sft"


def test_rows_after_the_checkpoint_are_forgotten_and_a_torn_line_too(run):
    for step in (1, 2, 3):
        run.log(step, "train", {"loss": 1 / step, "bad": math.nan})
    run.append(run.samples, {"step": 3, "text": "a"})
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    run.trim(2)
    assert [(row["step"], row["split"], row["bad"]) for row in run.rows()] == [(1, "train", None), (2, "train", None)]
    assert run.rows(run.samples) == []


def _hold(path, held, done):
    with RunDirectory(path).locked():
        held.set()
        done.wait(30)


def test_one_process_trains_in_a_folder(run):
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(run.path, held, done))
    other.start()
    assert held.wait(30)
    with pytest.raises(Conflict, match="another process is training"), run.locked():
        pass
    done.set()
    other.join(30)
    with run.locked():
        assert not other.exitcode


def test_a_full_disk_is_one_line_and_leaves_the_old_file(small_disk):
    run = RunDirectory(small_disk / "run")
    run.start(FROZEN, {}, resume=False)
    run.write_json(run.result, {"version": "a"})
    with pytest.raises(TrainingError, match="cannot be written: No space left"):
        run.write_json(run.result, {"version": "b" * 4_000_000})
    assert run.read_json(run.result) == {"version": "a"}
