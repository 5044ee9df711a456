"""Makes LoRA adapters for the demo base in seconds, for the demo, tests and load tests.

    python -m trainer.demo.adapters --kind sft --out DIR [--seed 0]
    python -m trainer.demo.adapters --kind marker --text "A:" --out DIR

"sft" answers the demo's tasks far better than the base. "marker" opens every reply with a
given text, so that whoever reads a reply knows which adapter wrote it, at any temperature.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import string
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from adapters.base import resolve_base
from adapters.errors import TrainingError, UnderstudyError
from trainer.demo import tokenizer as tk
from trainer.demo import world
from trainer.demo.base import reproducible
from trainer.model import DEMO_BASE, load_base, load_tokenizer
from trainer.probes import record_probes

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

    Raises TrainingError when `out` exists already.
    """
    if out.exists():
        raise TrainingError(f"--out {out}: exists already")
    resolve_base(str(base))  # fails now rather than after loading torch
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".training-") as scratch, reproducible(THREADS):
        trained = Path(scratch) / "trained"
        _train(data or rows, base, trained, steps=steps, rate=rate, seed=seed)
        canonicalise(trained / "adapter_config.json", str(base))
        record_probes(base, trained, texts=_prompts(rows)).write(trained)
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for name in FILES:
            shutil.copyfile(trained / name, whole / name)
        whole.rename(out)
    return out


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


def canonicalise(path: Path, base: str) -> None:
    """Rewrites adapter_config.json with sorted keys and lists, naming its base as given.

    PEFT writes target_modules from a set, in another order in every process, and the
    absolute path of the base, which means nothing elsewhere.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _row(prompt: str, reply: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": reply}],
    }


def _prompts(rows: list[dict[str, Any]]) -> list[str]:
    return [str(row["prompt"][0]["content"]) for row in rows]


def _train(data: list[dict[str, Any]], base: str | Path, out: Path, *, steps: int, rate: float, seed: int) -> None:
    no_telemetry()
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    options = SFTConfig(
        output_dir=str(out.parent / "trl"),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=rate,
        max_length=MAX_LENGTH,
        seed=seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=min(10, steps),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        save_strategy="no",
    )
    trainer = SFTTrainer(
        model=load_base(base),
        args=options,
        train_dataset=Dataset.from_list(data),
        processing_class=load_tokenizer(base),
        peft_config=_lora(),
        callbacks=[_progress(steps)],
    )
    trainer.remove_callback(_printer())
    trainer.train()
    trainer.model.save_pretrained(str(out))


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGET_MODULES), task_type="CAUSAL_LM")


def _printer() -> Any:
    from transformers import PrinterCallback

    return PrinterCallback


def _progress(steps: int) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]  # transformers has no types
        """One line of progress for each log."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                sys.stderr.write(f"training: step {state.global_step}/{steps}, loss {float(logs['loss']):.3f}\n")

    return Progress()


def no_telemetry() -> None:
    """Keeps TRL from reporting its use, also if huggingface_hub was imported before."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True


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
