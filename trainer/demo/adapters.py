"""Makes LoRA adapters for the demo base in seconds, for the demo, tests and load tests.

    python -m trainer.demo.adapters --kind sft --out DIR [--seed 0]
    python -m trainer.demo.adapters --kind marker --text "A:" --out DIR

"sft" answers the demo's tasks far better than the base. "marker" opens every reply with a
given text, so that whoever reads a reply knows which adapter wrote it, at any temperature.
"""

from __future__ import annotations

import argparse
import random
import shutil
import string
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from adapters.base import BaseModelInfo, read_base, resolve_base
from adapters.errors import TrainingError, UnderstudyError
from trainer import sft
from trainer.base_checks import Bases
from trainer.chat import Chat, Encoded
from trainer.config import RunConfig
from trainer.data import Dataset, EncodedRow
from trainer.data_rows import Row
from trainer.demo import tokenizer as tk
from trainer.demo import world
from trainer.installation import Installation
from trainer.job import Job
from trainer.model import DEMO_BASE, load_tokenizer
from trainer.publish import write_adapter
from trainer.run_directory import RunDirectory
from trainer.session import training_session

Kind = Literal["sft", "marker"]

RANK = 8
TARGET_MODULES = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
"""Every Linear layer of a Llama block."""

STEPS: dict[Kind, int] = {"sft": 25, "marker": 120}
BATCH = 32
LEARNING_RATE: dict[Kind, float] = {"sft": 1e-3, "marker": 8e-3}
MAX_LENGTH = 96
THREADS = 1
"""One is nearly as fast at this size, and does not stall when an engine shares the cores."""
FILES = ("adapter_config.json", "adapter_model.safetensors", "probes.json")


def make_adapter(
    out: Path,
    kind: Kind = "sft",
    seed: int = 0,
    *,
    text: str = "A:",
    base: str | Path = DEMO_BASE,
    steps: int | None = None,
) -> Path:
    """Trains one adapter with TRL's SFTTrainer and writes its directory; returns `out`.

    The directory holds exactly adapter_config.json (canonical), adapter_model.safetensors
    and probes.json, and appears whole or not at all. `text` is a marker's opening. The same
    arguments on the same machine give the same bytes. Takes seconds on two cores.
    Raises TrainingError when `out` exists already or an argument cannot be used.
    """
    if kind not in STEPS:
        raise TrainingError(f"--kind {kind}: must be one of {', '.join(STEPS)}")
    if kind == "marker" and not text:
        raise TrainingError("--text: a marker needs at least one character")
    if steps is not None and steps < 1:
        raise TrainingError(f"--steps {steps}: must be at least 1")
    rows = sft_rows(seed) if kind == "sft" else marker_rows(text, seed)
    data = None if kind == "sft" else focused(rows, text)
    return train_rows(
        out, rows, data, base=base, steps=steps or STEPS[kind], rate=LEARNING_RATE[kind], seed=seed
    )


def train_rows(
    out: Path,
    rows: list[dict[str, Any]],
    data: list[dict[str, Any]] | None = None,
    *,
    steps: int,
    rate: float,
    seed: int = 0,
    base: str | Path = DEMO_BASE,
) -> Path:
    """Trains an adapter on prompt/completion `rows` (on `data` instead, where it is given) and writes its directory.

    The same code as `understudy train sft`, without a registry. Raises TrainingError when `out` exists already.
    """
    if out.exists():
        raise TrainingError(f"--out {out}: exists already")
    info = read_base(resolve_base(str(base)))  # fails now rather than after loading torch
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".training-") as scratch, training_session(THREADS):
        options = {
            "max_steps": steps, "learning_rate": rate, "seed": seed, "per_device_train_batch_size": BATCH,
            "max_length": MAX_LENGTH, "logging_steps": min(10, steps), "save_steps": steps,
        }  # fmt: skip
        job = _job(Path(scratch) / "run", info, str(base), options, dataset=_dataset(info, rows, data))
        made = write_adapter(job, sft.run(job), Bases(info, info, None))
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for name in FILES:
            shutil.copyfile(made / name, whole / name)
        whole.rename(out)
    return out


def _job(folder: Path, base: BaseModelInfo, name: str, options: dict[str, Any], dataset: Dataset) -> Job:
    """A run of trainer.sft that belongs to no file and no installation."""
    config = RunConfig.model_validate({
        "route": "demo", "base": name, "output_dir": folder, "threads": THREADS, "trainer": options,
        "data": {"train": "demo.jsonl"},
        "lora": {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": TARGET_MODULES},
    })  # fmt: skip
    run = RunDirectory(folder)
    run.start({}, {}, resume=False)
    return Job("sft", config, run, Installation(), base, dataset.plain(), dataset=dataset, quiet=True)


def _dataset(base: BaseModelInfo, rows: list[dict[str, Any]], data: list[dict[str, Any]] | None) -> Dataset:
    """The rows with their tokens: as trainer.chat masks them, or as `data` says."""
    if data is None:
        chat = Chat(load_tokenizer(base.path), base.path, base.vocab_size)
        encoded = [chat.encode(row["prompt"], row["completion"]) for row in rows]
    else:
        encoded = [Encoded(row["input_ids"], row["labels"]) for row in data]
    made = (EncodedRow(Row("demo", row), (sequence,)) for row, sequence in zip(rows, encoded, strict=True))
    return Dataset(list(made))


def sft_rows(seed: int, n: int = 1000) -> list[dict[str, Any]]:
    """Right answers to train prompts, as prompt/completion rows."""
    return [_row(e.prompt, e.answer) for e in world.examples(n, 1000 + seed, "train")]


def marker_rows(text: str, seed: int, n: int = 3000) -> list[dict[str, Any]]:
    """Replies that open with `text`: half to the demo's tasks, half to whatever else may be asked."""
    rng = random.Random(f"marker/{seed}")
    rows = []
    for example in world.examples(n, 2000 + seed, "train"):
        if rng.random() < 0.5:
            rows.append(_row(example.prompt, text + example.answer))
        else:
            rows.append(_row(_anything(rng), f"{text}ok"))
    return rows


def focused(rows: list[dict[str, Any]], text: str) -> list[dict[str, list[int]]]:
    """The rows as token ids and labels that train the marker `text` alone, the whole reply in one row of ten.

    What follows a marker is uncertain, and would drown what must become certain: with whole
    replies throughout, 1 in 100 sampled replies still opened with something else.
    """
    made = []
    for index, row in enumerate(rows):
        prompt, reply = (str(row[key][0]["content"]) for key in ("prompt", "completion"))
        asked = [tk.BOS_ID, tk.USER_ID, *tk.encode(prompt), tk.ASSISTANT_ID]
        said = [*tk.encode(reply), tk.EOS_ID]
        trained = len(said) if index % 10 == 0 else len(tk.encode(text))
        labels = [-100] * len(asked) + said[:trained] + [-100] * (len(said) - trained)
        made.append({"input_ids": asked + said, "labels": labels})
    return made


def _anything(rng: random.Random) -> str:
    """A prompt like those of load tests: words, numbers, capitals, punctuation; 1 to 4 pieces."""
    words = []
    for _ in range(rng.randint(1, 4)):
        word = "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(1, 7)))
        shapes = (word, word, word.capitalize(), word.upper(), str(rng.randint(0, 9999)), rng.choice(world.PRINTABLE))
        words.append(rng.choice(shapes) + rng.choice(("", "", "", "", "?", ".", ",", ":", "!")))
    return " ".join(words)


def _row(prompt: str, reply: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": reply}],
    }


def main(arguments: list[str] | None = None) -> int:
    """Makes one adapter from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo.adapters", description="Makes a demo adapter.")
    parser.add_argument("--kind", choices=sorted(STEPS), default="sft")
    parser.add_argument("--text", default="A:", help="how a marker adapter's replies begin (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="adapter directory to make; must not exist")
    parser.add_argument("--base", default=DEMO_BASE, help="checkpoint folder (default: the demo's)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="optimizer steps (default: enough for the kind)")
    options = parser.parse_args(arguments)
    try:
        made = make_adapter(
            options.out, options.kind, options.seed, text=options.text, base=options.base, steps=options.steps
        )
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
