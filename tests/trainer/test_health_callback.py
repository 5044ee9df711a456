"""Between monitor and trainer: when it looks, what it stops, what it keeps."""

import json
from types import SimpleNamespace

import pytest
from transformers import TrainerControl

from trainer.health import STATE
from trainer.health_callback import HealthCallback, save_adapter
from trainer.health_rule import Verdict
from trainer.rl_settings import HealthSettings


class Saving:
    """As much of a trainer as the callback asks for; its log does to `control` what transformers' does."""

    def __init__(self):
        self.logged = []
        self.model = object()
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: model)
        self.state = SimpleNamespace(epoch=None, global_step=5, log_history=self.logged)
        self.args = SimpleNamespace(include_num_input_tokens_seen="no")
        self.control = TrainerControl()
        self.callback_handler = SimpleNamespace(on_log=self._on_log)

    def _on_log(self, args, state, control, logs):
        control.should_log = False
        return control

    def save_model(self, folder):
        from pathlib import Path

        path = Path(folder)
        (path / "ref").mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors", "training_args.bin", "ref/adapter_config.json"):
            (path / name).write_bytes(b"x")


class Monitor:
    """A monitor that says what it is told, and counts its looks."""

    def __init__(self, folder, status="ok", best=None, **settings):
        self.settings = HealthSettings(**settings)
        self.function = SimpleNamespace(exhausted="")
        self.looks, self.values, self.collapse, self.best_step = [], {"gold": 0.5}, None, best
        self._folder, self._status = folder, status

    def look(self, model, step):
        self.looks.append(step)
        if self._status == "collapsed":
            self.collapse = self.collapse or {"step": step}
        return Verdict(self._status, "because")

    def best_folder(self, step):
        return self._folder / "best" / f"step-{step}"

    def state(self):
        return {"best": self.best_step}


@pytest.fixture
def watched(tmp_path):
    def make(**options):
        monitor = Monitor(tmp_path, **options)
        callback = HealthCallback(monitor)
        trainer = Saving()
        callback.attach(trainer)
        return monitor, callback, trainer

    return make


def step(callback, trainer, number, last=100):
    trainer.control.should_log = True
    state = SimpleNamespace(global_step=number, max_steps=last)
    callback.on_step_end(None, state, trainer.control)
    return trainer.control


def test_it_looks_at_the_start_every_so_often_and_at_the_end(watched):
    monitor, callback, trainer = watched(every=4)
    callback.on_train_begin(None, SimpleNamespace(global_step=0), trainer.control)
    for number in range(1, 11):
        assert step(callback, trainer, number, last=10).should_log  # the regular log is still due
    assert monitor.looks == [0, 4, 8, 10]
    callback.on_train_begin(None, SimpleNamespace(global_step=0), trainer.control)  # a resumed run has looked already
    assert monitor.looks == [0, 4, 8, 10]
    assert trainer.logged[0] == {"held_out/gold": 0.5, "step": 5}


@pytest.mark.parametrize(("choice", "stops"), [("stop", True), ("mark", False)])
def test_collapse_stops_or_goes_on_and_is_said_once(watched, capfd, choice, stops):
    _, callback, trainer = watched(status="collapsed", every=1, on_collapse=choice)
    assert step(callback, trainer, 1).should_training_stop is stops
    step(callback, trainer, 2)
    said = [line for line in capfd.readouterr().err.splitlines() if "because" in line]
    assert said == [f"health: {'stopped' if stops else 'collapsed'} at step 1: because"]


def test_a_reward_with_nothing_left_to_teach_ends_the_run_after_a_last_look(watched, capfd):
    monitor, callback, trainer = watched(every=50)
    assert not step(callback, trainer, 1).should_training_stop
    monitor.function.exhausted = "every reward is 1"
    assert step(callback, trainer, 2).should_training_stop
    assert monitor.looks == [2]
    assert "stopped at step 2: every reward is 1" in capfd.readouterr().err


def test_the_best_look_s_adapter_is_kept_while_a_checkpoint_refers_to_it(watched, tmp_path):
    monitor, callback, trainer = watched(every=1, best=3)
    step(callback, trainer, 2)
    assert not monitor.best_folder(2).exists()
    step(callback, trainer, 3)
    assert sorted(path.name for path in monitor.best_folder(3).iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors"
    ]  # fmt: skip
    args = SimpleNamespace(output_dir=str(tmp_path / "checkpoints"))
    for number, best in ((4, 3), (8, 7), (12, 7)):
        monitor.best_step = best
        monitor.best_folder(best).mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkpoints" / f"checkpoint-{number}").mkdir(parents=True)
        callback.on_save(args, SimpleNamespace(global_step=number), None)
    assert json.loads((tmp_path / "checkpoints" / "checkpoint-8" / STATE).read_text()) == {"best": 7}
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"step-3", "step-7"}
    import shutil

    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-4")  # as save_total_limit does
    callback.on_save(args, SimpleNamespace(global_step=12), None)
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"step-7"}


def test_an_adapter_is_saved_whole_or_not_at_all(tmp_path):
    trainer = Saving()
    trainer.save_model = lambda folder: None
    with pytest.raises(FileNotFoundError, match="PEFT did not write it"):
        save_adapter(trainer, tmp_path / "last")
    assert not (tmp_path / "last").exists()
    for _ in range(2):  # the second replaces the first
        save_adapter(Saving(), tmp_path / "last")
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
