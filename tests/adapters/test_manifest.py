"""Whole adapter directories, checked against a tiny base and against the shipped 4-bit one."""

from __future__ import annotations

import json
import os

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from adapters.errors import AdapterRejected
from adapters.manifest import check_adapter
from adapters.probes import Probes
from adapters.types import Kind
from tests.support import peft

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def check(folder, base, **options):
    return check_adapter(folder, base, **{"max_rank": 16, **options})


def tensors_of(adapter):
    return load_file(adapter / "adapter_model.safetensors")


def rewrite(adapter, tensors):
    save_file(tensors, adapter / "adapter_model.safetensors")
    return adapter


def test_a_good_adapter(adapter, base):
    checked = check(adapter, base)
    assert (checked.rank, len(checked.digest)) == (4, 64)
    assert set(checked.files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert checked.size_bytes == sum(file.size for file in checked.files.values())
    assert checked.manifest == {"base_model_name_or_path": "some/base"}
    assert json.loads(checked.config_canonical_bytes)["r"] == 4


def test_an_adapter_for_the_shipped_base(tmp_path, demo_base):
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    checked = check(peft.write_adapter(tmp_path / "a", demo_base, targets=targets, rank=8), demo_base)
    assert checked.rank == 8


def test_the_digest_is_of_meaning_not_of_packaging(adapter, base, tmp_path):
    """Another tensor order, other metadata, another program: the same weights are the same version."""
    reordered = dict(reversed(tensors_of(adapter).items()))
    other = peft.write_adapter(tmp_path / "other", base, base_model_name_or_path="/elsewhere", peft_version="9")
    save_file(reordered, other / "adapter_model.safetensors", {"format": "pt"})
    (other / "README.md").write_text("hello")
    assert check(other, base).digest == check(adapter, base).digest


def test_the_digest_changes_with_one_bit_one_type_or_the_scale(adapter, base, tmp_path):
    digests = {check(adapter, base).digest}
    tensors = tensors_of(adapter)
    tensors[f"{Q0}.lora_A.weight"].view("u4")[0, 0] ^= 1
    digests.add(check(rewrite(adapter, tensors), base).digest)
    half = {name: value.astype("f2") for name, value in tensors.items()}
    digests.add(check(rewrite(adapter, half), base).digest)
    digests.add(check(peft.write_adapter(tmp_path / "b", base, lora_alpha=3), base).digest)
    assert len(digests) == 4


def test_a_truncated_file(adapter, base):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AdapterRejected, match=r"is truncated: .* bytes, its header describes"):
        check(adapter, base)


def test_a_file_beyond_the_limit(adapter, base):
    with pytest.raises(AdapterRejected, match="100 at most"):
        check(adapter, base, max_bytes=100)


def test_a_rank_beyond_the_engines(adapter, base):
    with pytest.raises(AdapterRejected, match="r is 4, the engines take up to 1"):
        check(adapter, base, max_rank=1)


@pytest.mark.parametrize("where", ["manifest", "config"])
def test_a_base_digest_must_be_ours(tmp_path, base, where):
    def write(digest):
        folder = peft.write_adapter(tmp_path / "a", base, **({"base_digest": digest} if where == "config" else {}))
        if where == "manifest":
            (folder / "manifest.json").write_text(json.dumps({"base_digest": digest, "run": 7}))
        return folder

    manifest = check(write(base.digest), base).manifest
    assert where == "config" or manifest["run"] == 7
    for wrong in ("0" * 64, "", 5, [base.digest]):
        with pytest.raises(AdapterRejected, match=r"names base .*train on the checkpoint that serves"):
            check(write(wrong), base)


def test_probes_are_kept_with_the_version(adapter, base):
    probes = Probes(prefixes=((1, 2),), adapter=({3: -0.1},), base=({3: -2.0},), dtype="bfloat16")
    probes.write(adapter)
    kept = check(adapter, base).manifest["probes"]
    assert Probes.from_json(json.dumps(kept)) == probes


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": NaN}'])
def test_bad_probes_are_refused(adapter, base, text):
    (adapter / "probes.json").write_text(text)
    with pytest.raises(AdapterRejected, match=r"^probes\.json"):
        check(adapter, base)


@pytest.mark.parametrize("token", [-1, peft.VOCABULARY])
def test_probes_within_the_vocabulary(adapter, base, token):
    Probes(prefixes=((1, token),), adapter=({3: -0.1},), base=({3: -2.0},), dtype="f").write(adapter)
    with pytest.raises(AdapterRejected, match="beyond the base's vocabulary of 40"):
        check(adapter, base)


def as_pickle(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def as_link_out(folder):
    path = folder / "adapter_model.safetensors"
    path.rename(folder.parent / "outside")
    path.symlink_to("../outside")


def as_fifo(folder):
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")


def as_directory(folder):
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").mkdir()


def as_broken_link(folder):
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").symlink_to("gone.json")


DIRECTORIES = {
    "pickle only": (as_pickle, "is a pickle, which can run code"),
    "link out": (as_link_out, "is a link that leaves the directory"),
    "absolute link": (lambda f: ((f / "probes.json").symlink_to("/etc/passwd")), "is a link that leaves"),
    "fifo": (as_fifo, "is not a regular file"),
    "directory": (as_directory, "is not a regular file"),
    "broken link": (as_broken_link, "is not a regular file"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "no tensors": (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "config no JSON": (lambda f: (f / "adapter_config.json").write_text("r: 8"), r"adapter_config\.json is not JSON"),
    "config binary": (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe"), "is not UTF-8"),
    "config huge": (lambda f: (f / "adapter_config.json").write_bytes(b" " * 9_000_000), "more than 8,388,608 bytes"),
    "manifest a list": (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json is not an object"),
    "tensors are a pickle": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x80\x04" + b"x" * 99), "not safetensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIRECTORIES)
def test_bad_directories_are_refused(adapter, base, name):
    damage, message = DIRECTORIES[name]
    damage(adapter)
    with pytest.raises(AdapterRejected, match=message) as caught:
        check(adapter, base)
    assert "\n" not in str(caught.value)


def test_a_link_within_the_directory_is_fine(adapter, base):
    path = adapter / "adapter_model.safetensors"
    path.rename(adapter / "weights")
    path.symlink_to("weights")
    check(adapter, base)


def test_a_pickle_beside_safetensors_is_left_alone(adapter, base):
    (adapter / "training_args.bin").write_bytes(b"\x80\x04")
    assert set(check(adapter, base).files) == {"adapter_config.json", "adapter_model.safetensors"}


def test_the_folder_above_names_the_folder_meant(adapter, base):
    with pytest.raises(AdapterRejected, match=f"did you mean {adapter}"):
        check(adapter.parent, base)


def test_no_directory(tmp_path, base):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(AdapterRejected, match=r"is not a directory|has no adapter_config"):
            check(path, base)


@pytest.fixture
def reward_model(tmp_path):
    """A directory as RewardTrainer and PEFT save it, and its base."""
    base = peft.small_base(tmp_path / "base")
    return peft.add_score_head(peft.write_adapter(tmp_path / "rm", base)), base


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_reward_model_may_carry_its_score_head_and_an_adapter_may_not(reward_model):
    folder, base = reward_model
    assert check_adapter(folder, base, max_rank=16, kind=Kind.REWARD_MODEL).rank
    with pytest.raises(AdapterRejected, match="modules_to_save"):
        check_adapter(folder, base, max_rank=16)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, "needs the tensor base_model.model.score.weight"),
        (numpy.ones((2, peft.HIDDEN), "f4"), "the base needs"),
        (numpy.ones((1, 3), "f4"), "the base needs"),
        (numpy.full((1, peft.HIDDEN), numpy.nan, "f4"), "NaN"),
    ],
)
def test_a_score_head_that_does_not_fit_is_refused(reward_model, head, message):
    folder, base = reward_model
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors["base_model.model.score.weight"]
    if head is not None:
        tensors["base_model.model.score.weight"] = head
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterRejected, match=message):
        check_adapter(folder, base, max_rank=16, kind=Kind.REWARD_MODEL)


@pytest.mark.parametrize("changes", [{"task_type": "CAUSAL_LM"}, {"modules_to_save": ["score", "lm_head"]}, {"use_dora": True}])
def test_a_reward_model_is_checked_like_an_adapter_otherwise(reward_model, changes):
    folder, base = reward_model
    change_config(folder, **changes)
    with pytest.raises(AdapterRejected):
        check_adapter(folder, base, max_rank=16, kind=Kind.REWARD_MODEL)
