import io
import types

import pytest

from adapters.errors import TrainingError
from trainer import callbacks
from trainer.callbacks import CheckpointMarker, Divergence, MetricsLog, ProgressLines, summary
from trainer.run_directory import MARKER, RunDirectory

STATE = types.SimpleNamespace(global_step=5, max_steps=40)


@pytest.fixture
def run(tmp_path):
    made = RunDirectory(tmp_path / "run")
    made.start({}, {}, resume=False)
    return made


def test_numbers_of_a_log_become_a_row(run):
    MetricsLog(run).on_log(None, STATE, None, logs={"loss": 0.5, "note": "text", "tokens": 3})
    row = run.rows()[0]
    assert (row["step"], row["split"], row["loss"], row["tokens"]) == (5, "train", 0.5, 3.0)
    assert "note" not in row


@pytest.mark.parametrize("logs", [{"loss": float("nan")}, {"loss": 1.0, "grad_norm": float("inf")}])
def test_a_diverged_run_ends_with_the_reason(logs):
    with pytest.raises(TrainingError, match=r"at step 5: the run diverged; lower trainer\.learning_rate"):
        Divergence().on_log(None, STATE, None, logs=logs)
    Divergence().on_log(None, STATE, None, logs={"loss": 1.0})


def test_a_saved_checkpoint_is_marked(run):
    folder = run.checkpoints / "checkpoint-5"
    folder.mkdir()
    (folder / "a").write_text("x")
    CheckpointMarker(run).on_save(types.SimpleNamespace(output_dir=str(run.checkpoints)), STATE, None)
    assert (folder / MARKER).exists()
    assert run.newest_checkpoint() == folder


def test_progress_is_said_a_few_times_only(monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr(callbacks.sys, "stderr", said)
    lines = ProgressLines("sft")
    for step in range(1, 401):
        lines.on_log(None, types.SimpleNamespace(global_step=step, max_steps=400), None, logs={"loss": 0.5})
    assert said.getvalue().count("\n") == 21
    assert said.getvalue().endswith("sft: step 400/400, loss 0.500\n")


def test_the_summary_names_what_matters():
    assert summary({"loss": 1, "rewards/accuracies": 0.75, "epoch": 2}) == "loss 1.000, accuracy 0.750"
    assert summary({"epoch": 2}) == summary(None) == ""


def test_the_bar_follows_the_run(monkeypatch):
    bar = callbacks.ProgressBar("sft")
    bar.on_log(None, STATE, None, logs={"loss": 1.0})  # before it is shown
    bar.on_train_begin(None, STATE, None)
    bar.on_step_end(None, types.SimpleNamespace(global_step=6, max_steps=40), None)
    bar.on_log(None, STATE, None, logs={"loss": 0.25})
    task = bar._bar.tasks[0]
    assert (task.completed, task.total, task.fields["said"]) == (6, 40, "loss 0.250")
    bar.on_train_end(None, STATE, None)
