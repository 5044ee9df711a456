"""Runs that are killed, that fill the disk, that run in two processes."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.errors import Conflict, TrainingError
from tests.support import training, tree
from trainer.run_directory import MARKER

OPTIONS = {"max_steps": 12, "save_steps": 4, "seed": 3}
DROPOUT = "[lora]\nr = 8\nlora_alpha = 16\nlora_dropout = 0.1\n"  # so that the random state matters


def command(file: Path, *more: str) -> list[str]:
    understudy = ["-m", "gateway.cli", "train", "sft", "-c", str(file), "--registry", str(training.installation(file.parent))]
    return [*understudy, *more]


# Kills itself, so that no busy machine is too late for it: with the first file that Python opens in that folder.
KILLED = """
import os, signal, sys
def die(event, arguments):
    if event == "open" and "/checkpoint-8/" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
from gateway.cli import main
main()
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run that no other may differ from: (version, losses)."""
    folder = tmp_path_factory.mktemp("whole")
    plan, version = training.run("sft", training.run_file(folder, "sft", text=DROPOUT, **OPTIONS))
    return version, losses(plan.job.run)


def losses(run):
    return [(row["step"], row["loss"]) for row in run.rows() if "loss" in row]


@pytest.mark.slow
def test_a_run_killed_while_it_saves_ends_bit_for_bit_like_an_uninterrupted_one(uninterrupted, tmp_path):
    """kill -9 in the middle of the second checkpoint, then --resume."""
    file = training.run_file(tmp_path, "sft", text=DROPOUT, **OPTIONS)
    run = training.plan("sft", file).job.run
    arguments = [sys.executable, "-c", KILLED, *command(file)[2:]]
    child = subprocess.run(arguments, check=False, cwd=tree.ROOT, capture_output=True, text=True, timeout=540)
    assert child.returncode == -signal.SIGKILL, child.stderr[-3000:]
    torn = run.checkpoints / "checkpoint-8"
    assert torn.exists() and not (torn / MARKER).exists() and not run.result.exists()
    assert run.newest_checkpoint() == run.checkpoints / "checkpoint-4"
    plan, version = training.run("sft", file, resume=True)
    assert (version, losses(plan.job.run)) == uninterrupted


@pytest.mark.slow
def test_a_run_interrupted_at_a_random_step_goes_on_from_there(uninterrupted, tmp_path, monkeypatch):
    """Stops where kill -9 would stop it, at a step that is drawn anew in every test run."""
    from trainer.callbacks import MetricsLog

    step = random.SystemRandom().randint(1, 12)
    print("interrupted at step", step)
    log = MetricsLog.on_log

    def interrupt(self, args, state, control, logs=None, **more):
        log(self, args, state, control, logs, **more)
        if state.global_step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(MetricsLog, "on_log", interrupt)
    file = training.run_file(tmp_path, "sft", text=DROPOUT, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        training.run("sft", file)
    monkeypatch.undo()
    with pytest.raises(Conflict, match="--resume goes on with it"):
        training.run("sft", file)
    plan, version = training.run("sft", file, resume=True)
    assert (version, losses(plan.job.run)) == uninterrupted


@pytest.mark.slow
def test_a_changed_run_is_not_resumed(uninterrupted, tmp_path):
    file = training.run_file(tmp_path, "sft", max_steps=1)
    training.run("sft", file)
    changed = file.read_text().replace("learning_rate = 0.001", "learning_rate = 0.01")
    file.write_text(changed)
    with pytest.raises(Conflict, match=r"cannot be resumed: config\.trainer\.learning_rate was 0\.001 and is now 0\.01"):
        training.run("sft", file, resume=True)
    file.write_text(changed.replace("0.01", "0.001"))
    training.write_rows(tmp_path / "sft.jsonl", training.rows_for("sft", 100))
    with pytest.raises(Conflict, match=r"cannot be resumed: digests\.data\.sft\.jsonl was"):
        training.run("sft", file, resume=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_space(tmp_path, small_disk, monkeypatch):
    """Somebody else fills the disk after the first step."""
    from trainer.callbacks import Divergence

    filler = small_disk / "filler"

    def fill(self, args, state, control, **more):
        with contextlib.suppress(OSError), filler.open("wb") as file:
            file.write(b"x" * (4 << 20))

    text = '[lora]\nr = 1\nlora_alpha = 2\ntarget_modules = ["q_proj"]\n'
    file = training.run_file(tmp_path, "sft", text=text, save_steps=1, max_steps=3)
    file.write_text(file.read_text().replace('"runs/sft"', f'"{small_disk}/run"'))
    monkeypatch.setattr(Divergence, "on_log", fill)
    with pytest.raises(TrainingError, match=r"full: free space, then|No space left on device: free space, then --resume"):
        training.run("sft", file)
    monkeypatch.undo()
    filler.unlink()
    assert training.run("sft", file, resume=True)[1].startswith("support@")


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    one = training.run_file(tmp_path / "one", "sft", max_steps=4, per_device_train_batch_size=32)
    two = training.run_file(tmp_path / "two", "sft", max_steps=4, per_device_train_batch_size=16)
    two.write_text("processes = 2\n" + two.read_text())
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, *command(two)], check=False, cwd=tree.ROOT, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-3000:]
    version = done.stdout.strip().splitlines()[-1]
    plan, expected = training.run("sft", one)
    run = training.plan_here(two).job.run
    assert run.read_json(run.frozen)["world_size"] == 2
    assert run.read_json(run.result)["version"] == version
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4]
    assert [loss for _, loss in losses(run)] == pytest.approx([loss for _, loss in losses(plan.job.run)], rel=1e-4)
    assert version.startswith("support@") and expected.startswith("support@")
