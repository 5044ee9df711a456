"""Bases in every layout: shapes, digests, and what is said when there is none."""

from __future__ import annotations

import json
import shutil

import numpy
import pytest
from safetensors.numpy import save_file

from adapters.base import read_base, resolve_base
from adapters.errors import ConfigError
from tests.support import peft

NAMES = [f"model.layers.{layer}.{module}" for layer in range(peft.LAYERS) for module in peft.SHAPES]
EXPECTED = {name: peft.SHAPES[name.split(".", 3)[3]] for name in NAMES}
EXPECTED["model.embed_tokens"] = EXPECTED["lm_head"] = (peft.VOCABULARY, peft.HIDDEN)


def packed(kind):
    """The tiny base's tensors, with its linear layers packed as `kind` does."""
    tensors = {}
    for name, value in peft.plain_tensors().items():
        module = name.removesuffix(".weight")
        if module not in NAMES:
            tensors[name] = value
            continue
        out, inside = value.shape
        if kind == "compressed-tensors":
            tensors[f"{module}.weight_packed"] = numpy.zeros((out, inside // 8), "i4")
            tensors[f"{module}.weight_shape"] = numpy.array([out, inside], "i8")
            tensors[f"{module}.weight_scale"] = numpy.zeros((out, 1), "f2")
        elif kind == "nvfp4":
            tensors[f"{module}.weight_packed"] = numpy.zeros((out, inside // 2), "u1")
        elif kind == "awq":
            tensors[f"{module}.qweight"] = numpy.zeros((inside, out // 8), "i4")
            tensors[f"{module}.scales"] = numpy.zeros((1, out), "f2")
        else:
            tensors[f"{module}.qweight"] = numpy.zeros((inside // 8, out), "i4")
            tensors[f"{module}.scales"] = numpy.zeros((1, out), "f2")
            tensors[f"{module}.g_idx"] = numpy.zeros(inside, "i4")
    return tensors


def test_a_plain_checkpoint(tmp_path):
    base = read_base(peft.write_base(tmp_path / "b"))
    assert base.modules == EXPECTED
    assert (base.num_layers, base.vocab_size) == (peft.LAYERS, peft.VOCABULARY)
    assert base.version == f"base@{base.digest[:12]}"


@pytest.mark.parametrize("kind", ["compressed-tensors", "nvfp4", "awq", "gptq"])
def test_packed_checkpoints_have_the_shapes_of_what_was_packed(tmp_path, kind):
    folder = peft.write_base(tmp_path / "b", packed(kind), quantization_config={"quant_method": kind, "bits": 4})
    assert read_base(folder).modules == EXPECTED


def test_packed_weights_without_bits_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no bits"):
        read_base(peft.write_base(tmp_path / "b", packed("awq")))


def test_several_files_with_an_index(tmp_path):
    folder = peft.write_base(tmp_path / "b")
    whole = read_base(folder)
    tensors = list(peft.plain_tensors().items())
    (folder / "model.safetensors").unlink()
    parts = {"model-1.safetensors": dict(tensors[:5]), "model-2.safetensors": dict(tensors[5:])}
    for name, part in parts.items():
        save_file(part, folder / name)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"stray.weight": numpy.zeros((2, 2), "f4")}, folder / "consolidated.safetensors")
    assert read_base(folder).modules == whole.modules
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        read_base(folder)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", 3])
def test_an_index_cannot_leave_the_folder(tmp_path, name):
    folder = peft.write_base(tmp_path / "b")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ConfigError, match=r"outside its folder|is not an index"):
        read_base(folder)


def test_settings_of_a_multimodal_base_are_found(tmp_path):
    text = {"num_hidden_layers": 7, "vocab_size": 9}
    folder = peft.write_base(tmp_path / "b", num_hidden_layers=None, vocab_size=None, text_config=text)
    base = read_base(folder)
    assert (base.num_layers, base.vocab_size) == (7, 9)


def test_the_shipped_base(demo_base):
    assert demo_base.modules["model.layers.0.self_attn.q_proj"] == (128, 128)
    assert demo_base.modules["model.layers.0.self_attn.k_proj"] == (64, 128)
    assert demo_base.modules["model.layers.3.mlp.down_proj"] == (128, 384)
    assert demo_base.num_layers == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "is not an object"),
        (lambda f: (f / "config.json").write_text("{}"), "no usable num_hidden_layers"),
        (lambda f: (f / "model.safetensors").unlink(), r"has no \.safetensors files"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04"), "shorter than"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "is not an index"),
    ],
)
def test_a_damaged_base_says_what_is_wrong(tmp_path, damage, message):
    folder = peft.write_base(tmp_path / "b")
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        read_base(folder)


def test_demo_and_paths_are_found(tmp_path):
    assert (resolve_base("demo") / "config.json").exists()
    folder = peft.write_base(tmp_path / "b")
    assert resolve_base(str(folder)) == folder


def test_a_hub_id_is_found_only_in_the_local_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="run `hf download org/model` first"):
        resolve_base("org/model")
    folder = tmp_path / "hub" / "models--org--model"
    snapshot = peft.write_base(folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    assert resolve_base("org/model") == snapshot
    shutil.rmtree(snapshot)
    with pytest.raises(ConfigError, match="hf download"):
        resolve_base("org/model")


@pytest.mark.parametrize(
    "name",
    ["", "nowhere", "/no/such/folder", "./x", "a/b/c", "../../etc", "org/../x", "~nobody-here/x", "a\0b", "x" * 5000],
)
def test_a_name_that_is_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^base "):
        resolve_base(name)
