import json
import subprocess
import sys

import pytest
import torch

from adapters.errors import ConfigError, TrainingError
from trainer.model import load_base, load_tokenizer, quantization_method


def config_in(folder, **extra):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **extra}))
    return folder


def test_importing_the_trainer_loads_no_model_library():
    code = (
        "import sys, trainer, trainer.model, trainer.probes, trainer.demo.base, trainer.demo.adapters;"
        "print([m for m in ('torch', 'transformers', 'peft', 'trl', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_method_is_read_from_the_config(tmp_path):
    assert quantization_method("demo") == "compressed-tensors"
    assert quantization_method(config_in(tmp_path)) is None
    assert quantization_method(config_in(tmp_path, quantization_config={"quant_method": "awq"})) == "awq"
    assert quantization_method(config_in(tmp_path, quantization_config={})) == "unknown"


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "bitsandbytes"])
def test_a_base_that_cannot_be_expanded_is_refused(tmp_path, method):
    config_in(tmp_path, quantization_config={"quant_method": method})
    with pytest.raises(TrainingError, match=f"quantized with {method}, which cannot be expanded"):
        load_base(tmp_path)


def test_a_missing_base_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json is not there"):
        load_base(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        load_base(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_base(tmp_path)


def test_a_damaged_base_is_one_clear_line(tmp_path):
    config_in(tmp_path)
    with pytest.raises(TrainingError, match="cannot be loaded") as caught:
        load_base(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainingError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_the_demo_base_loads_as_a_plain_model(capfd):
    model = load_base("demo")
    projection = model.model.layers[0].self_attn.q_proj
    assert type(projection) is torch.nn.Linear
    assert projection.weight.dtype == torch.float32
    assert not [name for name, _ in model.named_parameters() if "scale" in name or "packed" in name]
    assert not model.training
    assert capfd.readouterr().err == ""


def test_the_dtype_can_be_chosen():
    assert {p.dtype for p in load_base("demo", "bfloat16").parameters()} == {torch.bfloat16}


def test_a_base_without_a_chat_template_is_refused(tmp_path):
    load_tokenizer("demo").save_pretrained(tmp_path)
    config_in(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(TrainingError, match="no chat template"):
        load_tokenizer(tmp_path)
