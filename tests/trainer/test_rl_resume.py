"""kill -9 at any moment, a torn newest checkpoint included, and --resume: bit for bit an uninterrupted run."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from tests.support.tree import ROOT
from trainer.run_directory import RunDirectory

SECTIONS = {
    "trainer": {"max_steps": 8, "save_steps": 2, "per_device_train_batch_size": 16, "max_completion_length": 8},
    "held_out": 12,
    "health": {"every": 2, "prompts": 8, "samples": 1},
    "prompt_filter": {"samples": 2, "limit": 40},
}


class Program:
    """tests/support/rl.py, which forks a child for every run."""

    def __init__(self, log):
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.rl"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log.open("w"), text=True,
        )  # fmt: skip

    def train(self, algorithm, folder, *, die_at=0, **sections):
        """The child's exit code."""
        folder.mkdir(exist_ok=True)
        self._process.stdin.write(json.dumps([algorithm, str(folder), SECTIONS | sections, die_at]) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        print(self._log.read_text()[-2000:] if status == 1 else f"{algorithm} in {folder.name}: {status}")
        return status

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    made = Program(tmp_path_factory.mktemp("program") / "log")
    yield made
    made.close()


def digest(folder):
    """Of the last weights, and of those of the best look."""
    run = folder / "run"
    kept = sorted((run / "best").glob("step-*/adapter_model.safetensors"))
    files = [run / "last" / "adapter_model.safetensors", *kept]
    return [(path.parent.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def numbers(folder):
    """metrics.jsonl without what depends on the clock."""
    clock = ("time", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    return [
        {name: value for name, value in row.items() if name not in clock and "profiling" not in name}
        for row in RunDirectory(folder / "run").rows()
        if "train_runtime" not in row
    ]


@pytest.fixture(scope="module")
def whole(program, tmp_path_factory):
    """Folders of runs that nothing interrupted, by algorithm."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("grpo", "rloo")}
    for algorithm, folder in folders.items():
        assert program.train(algorithm, folder) == 0
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.long
def test_killed_and_resumed_is_uninterrupted(program, whole, tmp_path, algorithm):
    expected = whole[algorithm]
    folder = tmp_path / "killed"
    assert program.train(algorithm, folder, die_at=5) == -9
    torn = folder / "run" / "checkpoints" / "checkpoint-4" / "optimizer.pt"
    torn.write_bytes(torn.read_bytes()[:1000])  # as if the power had gone while it was written
    assert program.train(algorithm, folder, die_at=7) == -9
    assert program.train(algorithm, folder) == 0
    assert digest(folder) == digest(expected)
    assert numbers(folder) == numbers(expected)
    assert RunDirectory(folder / "run").rows(folder / "run" / "samples.jsonl") == RunDirectory(
        expected / "run"
    ).rows(expected / "run" / "samples.jsonl")


@pytest.mark.slow
@pytest.mark.long
def test_a_continued_adapter_keeps_its_reference_when_resumed(program, whole, tmp_path):
    start_from = {"init_from": str(whole["grpo"] / "run" / "last")}
    expected, folder = tmp_path / "whole", tmp_path / "killed"
    assert program.train("grpo", expected, **start_from) == 0
    assert program.train("grpo", folder, die_at=1, **start_from) == -9  # before its first checkpoint: it begins anew
    assert program.train("grpo", folder, die_at=5, **start_from) == -9
    assert not list((folder / "run" / "checkpoints").glob("checkpoint-*/ref"))
    assert program.train("grpo", folder, **start_from) == 0
    assert digest(folder) == digest(expected)
    assert numbers(folder) == numbers(expected)
    shutil.rmtree(folder)
