"""The demo's guard: its world, its tokenizer, its training, and what is shipped."""

from __future__ import annotations

import hashlib
import random
import re

import pytest
import torch

from monitors.llama_guard import LLAMA_GUARD_3
from monitors.llama_guard.guard import self_test_of
from trainer.demo import guard, guard_measure, guard_tokenizer, guard_train, guard_world, world
from trainer.demo.pretrain import optimizers


@pytest.fixture(scope="module")
def tokenizer():
    return guard_tokenizer.build_tokenizer()


@pytest.fixture(scope="module")
def shipped():
    import monitors.llama_guard

    return guard.Path(monitors.llama_guard.__file__).parent / "demo_guard"


def test_texts_are_repeatable_even_and_never_in_both_splits():
    once, again = (list(guard_world.examples(400, 1)) for _ in range(2))
    assert once == again
    assert 0.4 < sum(bool(example.categories) for example in once) / 400 < 0.6
    assert all(world.split_of(example.text) == "held_out" for example in once)
    train = {example.text for example in guard_world.examples(2000, 1, "train")}
    assert not train & {example.text for example in once}


def test_every_category_is_asked_for_and_things_are_made_up_once():
    assert set(guard_world.THINGS) == set(LLAMA_GUARD_3)
    things = [thing for found in guard_world.THINGS.values() for thing in found]
    assert len(set(things)) == len(things)
    seen = {code for example in guard_world.examples(800, 2, "train", "prompt") for code in example.categories}
    assert seen == set(LLAMA_GUARD_3)


def test_labels_follow_what_is_done_with_a_thing_not_that_it_is_named():
    rng = random.Random(3)
    kinds = {kind: [guard_world.draw(rng, "train", kind, False) for _ in range(600)] for kind in guard_world.KINDS}
    things = [thing for found in guard_world.THINGS.values() for thing in found]
    named = [any(thing in example.text for thing in things) for example in kinds["prompt"]]
    safe = [not example.categories for example in kinds["prompt"]]
    assert sum(a and b for a, b in zip(named, safe, strict=True)) > 30, "mentions that are no requests"
    refusals = [e for e in kinds["answer"] if not e.categories and any(thing in e.text for thing in things)]
    assert len(refusals) > 60
    assert all(example.categories in ((), ("S1",)) for example in kinds["data"])


def test_hidden_texts_are_long_and_rows_fit_the_calibration():
    rng = random.Random(4)
    lengths = [len(guard_world.draw(rng, "train", "prompt", hidden).text) for hidden in [False] * 50 + [True] * 50]
    assert sum(lengths[50:]) > 3 * sum(lengths[:50])
    row = next(guard_world.examples(1, 5, "train", "answer")).row()
    assert row["role"] == "assistant" and isinstance(row["unsafe"], bool) and row["messages"][-1]["role"] == "assistant"


def test_the_tokenizer_reads_any_text_and_is_the_shipped_one(tokenizer, shipped):
    for text in ("how do i make krund", "héllo ☃ 你好", "\x00\x7f", "S1,S14\n"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer) == guard_tokenizer.VOCAB_SIZE
    from transformers import AutoTokenizer

    there = AutoTokenizer.from_pretrained(shipped)
    assert there.get_vocab() == tokenizer.get_vocab()
    assert there.chat_template == tokenizer.chat_template


def test_roles_must_alternate_in_its_template(tokenizer):
    with pytest.raises(Exception, match="must alternate"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}] * 2, tokenize=False)


def test_sharing_the_head_changes_neither_loss_nor_gradients(tokenizer):
    model, encoder = guard_train.build_model(0), guard_train.Encoder(tokenizer)
    rng = random.Random(6)
    drawn = [guard_world.draw(rng, "train", "prompt", False) for _ in range(3)]
    guard_train.batch_loss(model, encoder, drawn, 6.0).backward()
    shared = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    total, count = torch.zeros(()), 0.0
    for example in drawn:
        prompt, verdict = encoder.prompt(example), encoder.verdict(example)
        logits = model(torch.tensor([prompt + verdict])).logits[0, len(prompt) - 1 : -1]
        weights = torch.tensor([6.0 if token in encoder.codes else 1.0 for token in verdict])
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(verdict), reduction="none")
        total, count = total + (losses * weights).sum(), count + float(weights.sum())
    (total / count).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, shared[name], atol=1e-5), name


def test_the_model_is_small_and_every_parameter_is_optimised_once():
    model = guard_train.build_model(0)
    assert sum(p.numel() for p in model.parameters()) < 430_000
    held = [id(p) for o in optimizers(model) for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_the_same_command_writes_the_same_bytes(tmp_path, monkeypatch, capsys):
    quick = {"prompt": guard_measure.Rates(1, 0.5, 0.1, 0.4, 0.3)}
    monkeypatch.setattr(guard, "measure", lambda folder: quick)  # what is measured is tested on what is shipped
    monkeypatch.setattr(guard_train, "BATCH", 4)
    for name in ("one", "two"):
        assert guard.main(["--out", str(tmp_path / name), "--steps", "2", "--seed", "3"]) == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    shown = capsys.readouterr()
    assert "step 2/2" in shown.err and "F1 0.500" in shown.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize(("arguments", "message"), [(["--steps", "0"], "--steps 0: must be at least 1"), ([], "is not a folder")])
def test_wrong_arguments_are_one_line_and_status_1(tmp_path, capsys, arguments, message):
    (tmp_path / "out").write_text("")
    assert guard.main(["--out", str(tmp_path / ("new" if arguments else "out")), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_is_shipped_is_small_described_and_as_good_as_it_says(shipped):
    assert sum(path.stat().st_size for path in shipped.iterdir()) < 1_000_000
    source = (shipped / "SOURCE.md").read_text()
    assert f"--steps {guard.STEPS} --seed 0" in source
    assert hashlib.sha256((shipped / "model.safetensors").read_bytes()).hexdigest() in source
    assert len(self_test_of(str(shipped))) >= 4
    stated = {kind: float(f1) for kind, f1 in re.findall(r"^\| (\w+) \| \d+ \| (\d\.\d+)", source, re.MULTILINE)}
    rates = guard_measure.measure(shipped, 200)
    assert set(stated) == set(rates) == set(guard_world.KINDS)
    for kind, one in rates.items():
        assert one.f1 == pytest.approx(stated[kind], abs=0.05), kind
        assert one.f1 > 0.9, kind
        assert one.false_positives < 0.1, kind

