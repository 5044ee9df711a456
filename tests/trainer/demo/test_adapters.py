import json

import pytest

from adapters.errors import TrainingError
from adapters.manifest import check_adapter
from adapters.probes import Probes
from trainer.demo import adapters as demo
from trainer.demo import measure, world
from trainer.model import load_base
from trainer.probes import load_adapter

OTHER_PROMPTS = ["Hello there", "why is the sky blue?", "request 17", "What is 17 + 25?", "CAPS LOCK", '{"a": 1}'] * 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "A:", "B:"])
def test_a_made_directory_holds_what_may_be_published_and_no_more(made, name, demo_base):
    folder = made[name]
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.FILES)
    assert not [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert list(config) == sorted(config)
    assert config["target_modules"] == sorted(demo.TARGET_MODULES)
    assert config["base_model_name_or_path"] == "demo"
    assert check_adapter(folder, demo_base, max_rank=16).rank == demo.RANK
    assert len(Probes.read(folder).prefixes) >= 4


@pytest.mark.slow
@pytest.mark.long
def test_sft_really_improves_held_out_exact_match(made):
    before = measure.measure(load_base("demo"), 600)
    after = measure.measure(load_adapter("demo", made["sft"]), 600)
    print(before, after)
    assert after.exact > before.exact + 0.2
    assert after.sure < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("text", ["A:", "B:"])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_marker_opens_every_reply(made, text, temperature):
    model = load_adapter("demo", made[text])
    prompts = [e.prompt for e in world.examples(700, 31, "held_out")] + OTHER_PROMPTS
    replies = measure.sample(model, prompts, temperature=temperature, max_new_tokens=8)
    wrong = [(p, r) for p, r in zip(prompts, replies, strict=True) if not r.startswith(text)]
    allowed = 0.02 if temperature else 0.005  # load tests ask at temperature 0
    assert len(wrong) <= allowed * len(prompts), wrong[:10]


@pytest.mark.slow
@pytest.mark.long
def test_the_same_arguments_give_the_same_bytes(tmp_path, capsys):
    for name in ("one", "two"):
        assert demo.make_adapter(tmp_path / name, "marker", 4, text="C:", steps=2) == tmp_path / name
    for file in demo.FILES:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    assert "step 2/2" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_the_directory_and_reports_progress(tmp_path, capfd):
    out = tmp_path / "deep" / "made"
    assert demo.main(["--kind", "marker", "--text", "Z", "--out", str(out), "--steps", "3"]) == 0
    shown = capfd.readouterr()
    assert shown.out == f"{out}\n"
    assert "sft: step 3/3, loss " in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "marker", "--text", ""], "--text: a marker needs at least one character"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        ([], "exists already"),
        (["--base", "/nowhere/at/all"], "is not a folder"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_1(tmp_path, capsys, arguments, message):
    out = tmp_path / "new"
    if message == "exists already":
        out.mkdir()
    assert demo.main([*arguments, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="must be one of sft, marker"):
        demo.make_adapter(tmp_path / "x", "magic")


def test_training_rows_are_train_prompts_only():
    for row in demo.sft_rows(0, 300) + demo.marker_rows("A:", 0, 300):
        prompt = row["prompt"][0]["content"]
        if prompt.split(" ")[0] in world.TASKS:
            assert world.split_of(prompt) == "train"


def test_every_marked_completion_opens_with_the_marker():
    assert all(row["completion"][0]["content"].startswith("A:") for row in demo.marker_rows("A:", 0, 300))
