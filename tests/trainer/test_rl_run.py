"""`understudy train grpo` from its file to a registered version, in one process and in two."""

import json
import statistics
import subprocess
import sys

import pytest

from tests.support.tree import ROOT
from trainer.demo import world
from trainer.installation import load_installation, open_registry
from trainer.plan import plan_run
from trainer.run import train
from trainer.run_directory import RunDirectory

FILE = """
route = "support"
base = "demo"
output_dir = "run"
threads = 1
processes = {processes}
[data]
train = "train.jsonl"
eval = "eval.jsonl"
deduplicate = false
[lora]
r = 8
lora_alpha = 16
[trainer]
learning_rate = 1e-3
max_steps = 8
per_device_train_batch_size = {batch}
num_generations = 8
max_completion_length = 12
beta = 0.02
seed = 0
[[reward]]
name = "exact"
[[reward]]
name = "exact"
label = "truth"
gold = true
[prompt_filter]
samples = 4
limit = 40
[health]
every = 4
prompts = 16
"""
TRAIN = """
import sys
from pathlib import Path
from trainer.cli_train import AlgorithmName, train_command
train_command(AlgorithmName("grpo"), config=Path(sys.argv[1]), registry=Path(sys.argv[2]))
"""


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepared(folder, processes):
    folder.mkdir()
    (folder / "understudy.toml").write_text('data_dir = "data"\n[engine]\nbase_model = "demo"\nmax_model_len = 256\n')
    write_jsonl(folder / "train.jsonl", world.rows(300, 5))
    write_jsonl(folder / "eval.jsonl", world.rows(60, 6, "held_out"))
    (folder / "train.toml").write_text(FILE.format(processes=processes, batch=64 // processes))
    (folder / "program.py").write_text(TRAIN)
    return folder


def train_here(folder):
    """The version's name, from a run in this process."""
    plan = plan_run("grpo", folder / "train.toml", folder / "understudy.toml", quiet=True)
    with open_registry(plan.job.installation) as registry:
        return train(plan, registry, resume=False, say=print)


def train_in_two(folder):
    """The version's name, from two processes: the last line they print."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint",
                "127.0.0.1:0"]  # fmt: skip
    command = [sys.executable, *launcher, str(folder / "program.py"), str(folder / "train.toml"),
               str(folder / "understudy.toml")]  # fmt: skip
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=540, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def rewards(folder):
    return [row["reward"] for row in RunDirectory(folder / "run").rows() if "reward" in row]


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_have_the_mean_reward_of_one_and_register_one_version(tmp_path):
    one, two = prepared(tmp_path / "one", 1), prepared(tmp_path / "two", 2)
    names = train_here(one), train_in_two(two)
    a, b = rewards(one), rewards(two)
    print(names, statistics.mean(a), statistics.mean(b))
    assert len(a) == len(b) == 8
    # 64 answers a step in groups of 8 to one prompt: the spread between steps is that of 8 prompts, and of the rise.
    error = (statistics.variance(a) / 8 + statistics.variance(b) / 8) ** 0.5
    assert abs(statistics.mean(a) - statistics.mean(b)) < 3 * error
    for folder, name in zip((one, two), names, strict=True):
        looks = [row["step"] for row in RunDirectory(folder / "run").rows() if row["split"] == "health"]
        assert looks == [0, 4, 8]  # written by one process, once
        with open_registry(load_installation(folder / "understudy.toml")) as registry:
            (version,) = registry.list("support")
        assert version.name == name
        assert version.lineage["algorithm"] == "grpo"
        assert version.lineage["step"] in (4, 8)
        assert version.lineage["facts"]["gold_published"] > 0
        assert "collapsed" not in version.lineage
